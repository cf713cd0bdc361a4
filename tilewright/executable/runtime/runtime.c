/* The runtime of kernels: threads, scratch memory, and the list of a network's calls.
 *
 * It is linked into every executable, so that an executable runs without a compiler or a tuner. The workers that time
 * candidates load it, too, so that a kernel is timed with the threads that it will run on.
 */
#if defined(__linux__)
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

#include "cpu.h"
#include "scratch.h"

#include "pool.h"

/* ---- The calling convention of TVM's compiled functions (tvm-ffi 0.1) ---- */

typedef struct {
  int32_t type_index;
  uint32_t padding;
  void *value;
} Argument;

typedef int (*Kernel)(void *self, const Argument *arguments, int32_t count, Argument *result);

/* ---- Errors: the last message of this thread ---- */

static _Thread_local char last_error[512];

static void set_error(const char *kind, const char **parts, int32_t count) {
  size_t used = (size_t)snprintf(last_error, sizeof last_error, "%s: ", kind ? kind : "Error");
  for (int32_t i = 0; i < count && used < sizeof last_error; ++i) {
    if (parts[i]) used += (size_t)snprintf(last_error + used, sizeof last_error - used, "%s", parts[i]);
  }
}

EXPORT const char *tilewright_last_error(void) { return last_error; }

/* Kernels call these functions when a check of their arguments fails. */
EXPORT void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  set_error(kind, parts, count);
}

EXPORT void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *message) { set_error(kind, &message, 1); }

/* ---- The pool that this library uses ---- */

static const Pool own_pool = {POOL_VERSION, sizeof(Pool), launch, allocate, release, enter, leave, trim};
static const Pool *pool = &own_pool;
static int own_threads; /* how many threads this library's loops have; 0: not set yet */

/* The table that this library lends to others as their host. */
EXPORT const void *tilewright_share(void) { return &own_pool; }

/* Use the pool of another library. Call this before any other function. Returns 0; -1: the pool is of another version. */
EXPORT int tilewright_adopt(const void *shared) {
  const Pool *other = shared;
  if (other->version != POOL_VERSION || other->size != (int32_t)sizeof(Pool)) return -1;
  pool = other;
  return 0;
}

/* Let loops of this library have `threads` threads with the caller's. Several loops of this size may run at the same time;
 * together they have at most `cores` threads. Returns how many threads a loop has. */
EXPORT int tilewright_enter(int threads, int cores) {
  int before = own_threads;
  int made = pool->enter(threads, cores);
  own_threads = threads;
  pool->leave(before);
  return made;
}

EXPORT int tilewright_threads(int threads) { return tilewright_enter(threads, threads); }

/* Give back the threads of `tilewright_enter`. Then the library can be unloaded, unless its pool is lent to others. */
EXPORT void tilewright_leave(void) {
  pool->leave(own_threads);
  own_threads = 0;
  pool->trim();
}

/* Takes the place of TVMBackendParallelLaunch. The lambda does part `task` of `env->num_task` equal parts of its loop. */
EXPORT int tilewright_launch(Lambda lambda, void *data, int num_task) {
  return pool->launch(own_threads, lambda, data, num_task);
}

EXPORT void *tilewright_allocate(int device_type, int device_id, uint64_t bytes, int type_code, int type_bits) {
  return pool->allocate(device_type, device_id, bytes, type_code, type_bits);
}

EXPORT int tilewright_free(int device_type, int device_id, void *memory) {
  return pool->free(device_type, device_id, memory);
}

/* ---- A network: kernels one after the other, on tensors that are made once ---- */

typedef struct {
  Kernel kernel; /* NULL: a copy */
  const Argument *arguments;
  int32_t count; /* how many arguments; a copy has three: to, from, bytes */
} Call;

/* A kernel that does nothing. A network of such kernels shows what a call costs outside its kernels. */
EXPORT int tilewright_nothing(void *self, const Argument *arguments, int32_t count, Argument *result) {
  (void)self, (void)arguments, (void)count, (void)result;
  return 0;
}

/* Run `count` calls. Returns -1; otherwise the number of the call that failed. */
EXPORT int tilewright_run(const Call *calls, int32_t count) {
  for (int32_t i = 0; i < count; ++i) {
    const Call *call = &calls[i];
    if (!call->kernel) {
      memcpy(call->arguments[0].value, call->arguments[1].value, (size_t)(uintptr_t)call->arguments[2].value);
      continue;
    }
    Argument result = {0, 0, NULL};
    if (call->kernel(NULL, call->arguments, call->count, &result)) return i;
  }
  return -1;
}

/* Run `count` calls `runs` times, and write the seconds of each run. Returns as `tilewright_run` does. */
EXPORT int tilewright_time(const Call *calls, int32_t count, int32_t runs, double *seconds) {
  for (int32_t run = 0; run < runs; ++run) {
    double begin = now();
    int failed = tilewright_run(calls, count);
    seconds[run] = now() - begin;
    if (failed >= 0) return failed;
  }
  return -1;
}

/* Run each call `repeats` times in a row, one call after the other as in a run. Write the mean seconds of each call. */
EXPORT int tilewright_profile(const Call *calls, int32_t count, int32_t repeats, double *seconds) {
  for (int32_t i = 0; i < count; ++i) {
    double begin = now();
    for (int32_t repeat = 0; repeat < repeats; ++repeat)
      if (tilewright_run(calls + i, 1) >= 0) return i;
    seconds[i] = (now() - begin) / repeats;
  }
  return -1;
}

/* ---- The functions that compiled kernels look up ---- */

extern void *__TVMBackendParallelLaunch __attribute__((weak));
extern void *__TVMBackendAllocWorkspace __attribute__((weak));
extern void *__TVMBackendFreeWorkspace __attribute__((weak));

/* Call this once after loading the library. */
EXPORT void tilewright_initialize(void) {
  if (&__TVMBackendParallelLaunch) __TVMBackendParallelLaunch = (void *)tilewright_launch;
  if (&__TVMBackendAllocWorkspace) __TVMBackendAllocWorkspace = (void *)tilewright_allocate;
  if (&__TVMBackendFreeWorkspace) __TVMBackendFreeWorkspace = (void *)tilewright_free;
}
