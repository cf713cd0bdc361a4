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
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#if defined(TILEWRIGHT_LIBRARY)
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#define EXPORT static /* a C library exports the functions of its header only */
#define CALLED_BY_KERNELS __attribute__((visibility("hidden")))
#elif defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif
#if !defined(CALLED_BY_KERNELS)
#define CALLED_BY_KERNELS EXPORT
#endif

#include "cores.h"
#include "cpu.h"
#include "scratch.h"

#include "pool.h" /* needs cores.h and scratch.h */

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

#if !defined(TILEWRIGHT_LIBRARY)
EXPORT const char *tilewright_last_error(void) { return last_error; }
#endif

/* Kernels call these functions when a check of their arguments fails. */
CALLED_BY_KERNELS void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  set_error(kind, parts, count);
}

CALLED_BY_KERNELS void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *message) { set_error(kind, &message, 1); }

/* ---- What kernels call ---- */

#if !defined(TILEWRIGHT_LIBRARY)
#include "shared_pool.h" /* needs pool.h */
#endif

/* Takes the place of TVMBackendParallelLaunch. The lambda does part `task` of `env->num_task` equal parts of its loop. */
EXPORT int tilewright_launch(Lambda lambda, void *data, int num_task) {
#if !defined(TILEWRIGHT_LIBRARY)
  if (!own_team) return pool->launch(own_threads, lambda, data, num_task);
#endif
  if (nested || num_task == 1 || own_team->threads <= 1) return run_alone(lambda, data);
  return run_loop(own_team, lambda, data);
}

EXPORT void *tilewright_allocate(int device_type, int device_id, uint64_t bytes, int type_code, int type_bits) {
#if !defined(TILEWRIGHT_LIBRARY)
  if (!own_scratch) return pool->allocate(device_type, device_id, bytes, type_code, type_bits);
#endif
  (void)device_type, (void)device_id, (void)type_code, (void)type_bits;
  return allocate_in(own_scratch, bytes);
}

EXPORT int tilewright_free(int device_type, int device_id, void *memory) {
#if !defined(TILEWRIGHT_LIBRARY)
  if (!own_scratch) return pool->free(device_type, device_id, memory);
#endif
  (void)device_type, (void)device_id;
  return release_in(own_scratch, memory);
}

/* ---- A network: kernels one after the other, on tensors that are made once ---- */

typedef struct {
  Kernel kernel; /* NULL: a copy */
  const Argument *arguments;
  int32_t count; /* how many arguments; a copy has three: to, from, bytes */
} Call;

/* Run `count` calls. Returns -1; otherwise the number of the call that failed. */
EXPORT int tilewright_run(const Call *calls, int32_t count) {
  for (int32_t i = 0; i < count; ++i) {
    const Call *call = &calls[i];
    if (!call->kernel) {
      const Argument *a = call->arguments;
      if (a[0].value != a[1].value) memcpy(a[0].value, a[1].value, (size_t)(uintptr_t)a[2].value);
      continue;
    }
    Argument result = {0, 0, NULL};
    if (call->kernel(NULL, call->arguments, call->count, &result)) return i;
  }
  return -1;
}

#if !defined(TILEWRIGHT_LIBRARY)
/* A kernel that does nothing. A network of such kernels shows what a call costs outside its kernels. */
EXPORT int tilewright_nothing(void *self, const Argument *arguments, int32_t count, Argument *result) {
  (void)self, (void)arguments, (void)count, (void)result;
  return 0;
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
#endif

#include "image.h"
#include "instance.h" /* needs image.h */

/* ---- The functions that compiled kernels look up; library.h defines those of a C library ---- */

#if !defined(TILEWRIGHT_LIBRARY)
extern void *__TVMBackendParallelLaunch __attribute__((weak));
extern void *__TVMBackendAllocWorkspace __attribute__((weak));
extern void *__TVMBackendFreeWorkspace __attribute__((weak));

/* Call this once after loading the library. */
EXPORT void tilewright_initialize(void) {
  if (&__TVMBackendParallelLaunch) __TVMBackendParallelLaunch = (void *)tilewright_launch;
  if (&__TVMBackendAllocWorkspace) __TVMBackendAllocWorkspace = (void *)tilewright_allocate;
  if (&__TVMBackendFreeWorkspace) __TVMBackendFreeWorkspace = (void *)tilewright_free;
}
#endif
