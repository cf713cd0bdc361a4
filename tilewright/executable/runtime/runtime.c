/* What kernels need while they run: threads, scratch memory, and a network's list of calls.
 *
 * Linked into every executable, so that running one needs no compiler and no tuner, and loaded by the workers that
 * time candidates, so that a kernel is timed by the threads that it will run on.
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

/* Kernels report a failed check of their arguments through these. */
EXPORT void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  set_error(kind, parts, count);
}

EXPORT void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *message) { set_error(kind, &message, 1); }

/* ---- This library's part in it ---- */

static const Pool own_pool = {POOL_VERSION, sizeof(Pool), launch, allocate, release, enter, leave, trim};
static const Pool *pool = &own_pool;
static int own_threads; /* of this library's loops; 0: not said yet */

/* The table of this library as a host. */
EXPORT const void *tilewright_share(void) { return &own_pool; }

/* Use the pool of another library, before any other function here is called. Returns 0, or -1: its version is another one. */
EXPORT int tilewright_adopt(const void *shared) {
  const Pool *other = shared;
  if (other->version != POOL_VERSION || other->size != (int32_t)sizeof(Pool)) return -1;
  pool = other;
  return 0;
}

/* Let loops of this library have `threads` threads, the caller's included. `cores` bounds how many threads all loops of that
 * size have together that run at the same time. Returns how many there are. */
EXPORT int tilewright_enter(int threads, int cores) {
  int before = own_threads;
  int made = pool->enter(threads, cores);
  own_threads = threads;
  pool->leave(before);
  return made;
}

EXPORT int tilewright_threads(int threads) { return tilewright_enter(threads, threads); }

/* Give back what `tilewright_enter` asked for. The library can be unloaded afterwards, unless its pool is lent to others. */
EXPORT void tilewright_leave(void) {
  pool->leave(own_threads);
  own_threads = 0;
  pool->trim();
}

/* In place of TVMBackendParallelLaunch: the lambda does part `task` of `env->num_task` equal parts of its loop. */
EXPORT int tilewright_launch(Lambda lambda, void *data, int num_task) {
  return pool->launch(own_threads, lambda, data, num_task);
}

EXPORT void *tilewright_allocate(int device_type, int device_id, uint64_t bytes, int type_code, int type_bits) {
  return pool->allocate(device_type, device_id, bytes, type_code, type_bits);
}

EXPORT int tilewright_free(int device_type, int device_id, void *memory) {
  return pool->free(device_type, device_id, memory);
}

/* ---- A network: kernels one after the other on tensors that are made once ---- */

typedef struct {
  Kernel kernel; /* NULL: a copy */
  const Argument *arguments;
  int32_t count; /* of arguments; of a copy there are three: to, from, bytes */
} Call;

/* A kernel that does nothing: a network of these shows what a call costs outside its kernels. */
EXPORT int tilewright_nothing(void *self, const Argument *arguments, int32_t count, Argument *result) {
  (void)self, (void)arguments, (void)count, (void)result;
  return 0;
}

/* Run `count` calls. Returns -1, or the number of the call that failed. */
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

/* The same `runs` times, each timed, in seconds. */
EXPORT int tilewright_time(const Call *calls, int32_t count, int32_t runs, double *seconds) {
  for (int32_t run = 0; run < runs; ++run) {
    double begin = now();
    int failed = tilewright_run(calls, count);
    seconds[run] = now() - begin;
    if (failed >= 0) return failed;
  }
  return -1;
}

/* Each call `repeats` times in a row, the mean in seconds. Calls are made one after the other, as in a run. */
EXPORT int tilewright_profile(const Call *calls, int32_t count, int32_t repeats, double *seconds) {
  for (int32_t i = 0; i < count; ++i) {
    double begin = now();
    for (int32_t repeat = 0; repeat < repeats; ++repeat)
      if (tilewright_run(calls + i, 1) >= 0) return i;
    seconds[i] = (now() - begin) / repeats;
  }
  return -1;
}

/* ---- What the compiled kernels look for ---- */

extern void *__TVMBackendParallelLaunch __attribute__((weak));
extern void *__TVMBackendAllocWorkspace __attribute__((weak));
extern void *__TVMBackendFreeWorkspace __attribute__((weak));

/* Called once after loading the library that this file is linked into. */
EXPORT void tilewright_initialize(void) {
  if (&__TVMBackendParallelLaunch) __TVMBackendParallelLaunch = (void *)tilewright_launch;
  if (&__TVMBackendAllocWorkspace) __TVMBackendAllocWorkspace = (void *)tilewright_allocate;
  if (&__TVMBackendFreeWorkspace) __TVMBackendFreeWorkspace = (void *)tilewright_free;
}
