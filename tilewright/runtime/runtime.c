/* What kernels need while they run: threads, scratch memory, and a network's list of calls.
 *
 * Linked into every executable, so that running one needs no compiler and no tuner, and loaded by the workers that
 * time candidates, so that a kernel is timed by the threads that it will run on.
 *
 * TVM's own pool gives each thread one equal part of a parallel loop. On a machine with neighbours the loop then takes
 * as long as the thread that was disturbed most. Here the loop is cut finer: every thread starts with a part of its
 * own (neighbouring iterations share data in the cache), and one that is done takes from the end of another's part.
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

#if defined(__x86_64__) || defined(__i386__)
#define PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define PAUSE() __asm__ __volatile__("yield")
#else
#define PAUSE() ((void)0)
#endif

#define CACHE_LINE 64
#define MAX_THREADS 256
/* Parts of a loop per thread: what one disturbed thread can delay is a part, not its whole share. */
#define PARTS 8
/* A thread without work spins so long, then sleeps: gaps between the kernels of a network are shorter. */
#define SPIN_SECONDS 0.001
#define CLOCK_ROUNDS 64
/* After so long it lets others have its core between two looks: the caller may be waiting for just that one. */
#define POLITE_SECONDS 20e-6

/* ---- The calling convention of TVM's compiled functions (tvm-ffi 0.1) ---- */

typedef struct {
  int32_t type_index;
  uint32_t padding;
  void *value;
} Argument;

typedef int (*Kernel)(void *self, const Argument *arguments, int32_t count, Argument *result);

typedef struct {
  void *sync_handle;
  int32_t num_task;
} ParallelEnv;

typedef int (*Lambda)(int task, ParallelEnv *env, void *data);

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

/* ---- Scratch memory: blocks are kept, so that no call after the first allocates ---- */

typedef struct Block {
  struct Block *next;
  size_t size;
  char pad[CACHE_LINE - sizeof(struct Block *) - sizeof(size_t)];
} Block;

/* Per thread, so that it needs no lock. */
static _Thread_local Block *free_blocks;
static pthread_key_t blocks_key;
static pthread_once_t blocks_once = PTHREAD_ONCE_INIT;

/* A thread ends that called kernels: a server may have one for each request. */
static void drop_blocks(void *list) {
  Block **blocks = list;
  while (*blocks) {
    Block *block = *blocks;
    *blocks = block->next;
    free(block);
  }
}

static void make_blocks_key(void) {
  if (pthread_key_create(&blocks_key, drop_blocks)) abort(); /* a process may have 1024 of them */
}

EXPORT void *tilewright_allocate(int device_type, int device_id, uint64_t bytes, int type_code, int type_bits) {
  (void)device_type, (void)device_id, (void)type_code, (void)type_bits;
  for (Block **link = &free_blocks; *link; link = &(*link)->next) {
    Block *block = *link;
    if (block->size >= bytes && block->size <= 2 * bytes + 4096) {
      *link = block->next;
      return block + 1;
    }
  }
  size_t size = (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
  void *memory = NULL;
  if (posix_memalign(&memory, CACHE_LINE, sizeof(Block) + size)) return NULL;
  ((Block *)memory)->size = size;
  return (Block *)memory + 1;
}

EXPORT int tilewright_free(int device_type, int device_id, void *memory) {
  (void)device_type, (void)device_id;
  Block *block = (Block *)memory - 1;
  if (!free_blocks) {
    pthread_once(&blocks_once, make_blocks_key);
    pthread_setspecific(blocks_key, &free_blocks);
  }
  block->next = free_blocks;
  free_blocks = block;
  return 0;
}

/* ---- Threads ---- */

typedef struct {
  _Alignas(CACHE_LINE) atomic_uint_fast64_t range; /* first task not taken << 32 | end of this thread's tasks */
} Share;

static struct {
  pthread_mutex_t start;  /* held while threads are made */
  pthread_mutex_t launch; /* held by the one caller whose loop runs */
  pthread_mutex_t sleep;
  pthread_cond_t wake;
  int threads; /* with the caller's */
  atomic_int lost; /* so many there were before a fork, which takes only the thread that called it along */
  Share shares[MAX_THREADS];
  Lambda lambda;
  void *data;
  ParallelEnv env;
  _Alignas(CACHE_LINE) atomic_uint_fast64_t epoch; /* counts loops */
  _Alignas(CACHE_LINE) atomic_uint_fast64_t open;  /* the epoch whose loop may be joined, or 0 */
  _Alignas(CACHE_LINE) atomic_int inside;          /* workers that look at the loop */
  _Alignas(CACHE_LINE) atomic_int sleeping;
  atomic_int failed;
} pool = {.start = PTHREAD_MUTEX_INITIALIZER,
          .launch = PTHREAD_MUTEX_INITIALIZER,
          .sleep = PTHREAD_MUTEX_INITIALIZER,
          .wake = PTHREAD_COND_INITIALIZER};

/* Set in threads that are inside a parallel loop: a loop within it runs where it is. */
static _Thread_local int nested;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int take(Share *share, int from_end) {
  uint64_t range = atomic_load_explicit(&share->range, memory_order_acquire);
  for (;;) {
    uint64_t first = range >> 32, end = range & 0xffffffffu;
    if (first >= end) return -1;
    uint64_t rest = from_end ? first << 32 | (end - 1) : (first + 1) << 32 | end;
    if (atomic_compare_exchange_weak_explicit(&share->range, &range, rest, memory_order_acq_rel, memory_order_acquire))
      return (int)(from_end ? end - 1 : first);
  }
}

static void work(int self) {
  nested = 1;
  for (int other = 0; other < pool.threads; ++other) {
    Share *share = &pool.shares[(self + other) % pool.threads];
    int task;
    while ((task = take(share, other > 0)) >= 0) {
      if (pool.lambda(task, &pool.env, pool.data)) atomic_store(&pool.failed, 1);
    }
  }
  nested = 0;
}

/* Wait until the epoch is no longer `seen`: spinning first, then asleep. */
static uint64_t await_epoch(uint64_t seen) {
  double start = now();
  for (;;) {
    for (int i = 0; i < CLOCK_ROUNDS; ++i) {
      uint64_t epoch = atomic_load_explicit(&pool.epoch, memory_order_acquire);
      if (epoch != seen) return epoch;
      PAUSE();
    }
    double waited = now() - start;
    if (waited > SPIN_SECONDS) break;
    if (waited > POLITE_SECONDS) sched_yield();
  }
  pthread_mutex_lock(&pool.sleep);
  atomic_fetch_add(&pool.sleeping, 1);
  while (atomic_load(&pool.epoch) == seen) pthread_cond_wait(&pool.wake, &pool.sleep);
  atomic_fetch_sub(&pool.sleeping, 1);
  pthread_mutex_unlock(&pool.sleep);
  return atomic_load(&pool.epoch);
}

#if defined(__linux__)
/* The first core, where all cores are used and the workers keep to the others; -1: they do not. */
static atomic_int home = -1;

/* Make this thread run on one core alone; returns whether the system did. */
static int bind_to(int cpu) {
  cpu_set_t own;
  CPU_ZERO(&own);
  CPU_SET(cpu, &own);
  return sched_setaffinity(0, sizeof own, &own) == 0;
}
#endif

/* Where all cores are used, each worker keeps to one of its own, and leaves the first one to the caller. Otherwise the
 * system may put a worker beside the caller, on the core where data and wake-up come from, for as long as another
 * program runs on the second core. */
static void keep_to_core(int self, int threads) {
#if defined(__linux__)
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) || CPU_COUNT(&allowed) != threads) return;
  int seen = -1, first = -1;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    if (++seen == 0) first = cpu;
    if (seen == self) {
      if (bind_to(cpu)) atomic_store(&home, first); /* a refusal costs speed alone */
      return;
    }
  }
#else
  (void)self, (void)threads;
#endif
}

/* Bring the caller to the core that the workers leave to it. It may have woken up on one of theirs, and it takes the system
 * milliseconds to see that two threads share a core while another has nothing to do: 45 % of the readings of good
 * candidates were 1.4 times their latency or more, most of them twice (bench.repeatability). */
static void go_home(void) {
#if defined(__linux__)
  int cpu = atomic_load_explicit(&home, memory_order_relaxed);
  if (cpu < 0 || sched_getcpu() == cpu) return;
  cpu_set_t allowed;
  /* Whoever keeps the caller elsewhere knows why. */
  if (sched_getaffinity(0, sizeof allowed, &allowed) || !CPU_ISSET(cpu, &allowed)) return;
  if (bind_to(cpu)) sched_setaffinity(0, sizeof allowed, &allowed); /* it moves there at once, and may leave again */
#endif
}

typedef struct {
  int self, threads;
} Worker;

static void *worker(void *argument) {
  Worker given = *(Worker *)argument;
  free(argument);
  keep_to_core(given.self, given.threads);
  int self = given.self;
  uint64_t seen = 0;
  for (;;) {
    seen = await_epoch(seen);
    /* The caller closes the loop, then waits for nobody to be inside; so one who finds it open may join. */
    atomic_fetch_add(&pool.inside, 1);
    if (atomic_load(&pool.open) == seen) work(self);
    atomic_fetch_sub(&pool.inside, 1);
  }
  return NULL;
}

/* In the child of a fork: nobody else is there, whatever the others were at. They are made anew when they are needed. */
static void after_fork(void) {
  pool.start = pool.launch = pool.sleep = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
  pool.wake = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
  if (pool.threads > 1) atomic_store(&pool.lost, pool.threads);
  pool.threads = 1;
  atomic_store(&pool.open, 0);
  atomic_store(&pool.inside, 0);
  atomic_store(&pool.sleeping, 0);
  nested = 0;
#if defined(__linux__)
  atomic_store(&home, -1);
#endif
}

static void watch_forks(void) { pthread_atfork(NULL, NULL, after_fork); }

/* Use `threads` threads, the caller's included. More can be asked for later, but not fewer. Returns how many there are. */
EXPORT int tilewright_threads(int threads) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, watch_forks);
  pthread_mutex_lock(&pool.start);
  if (threads > MAX_THREADS) threads = MAX_THREADS;
  if (pool.threads < 1) pool.threads = 1;
  pthread_mutex_lock(&pool.launch);
  while (pool.threads < threads) {
    pthread_t thread;
    Worker *given = malloc(sizeof *given);
    if (!given) break;
    given->self = pool.threads;
    given->threads = threads;
    if (pthread_create(&thread, NULL, worker, given)) {
      free(given);
      break;
    }
    pthread_detach(thread);
    ++pool.threads;
  }
  pthread_mutex_unlock(&pool.launch);
  int made = pool.threads;
  pthread_mutex_unlock(&pool.start);
  return made;
}

/* In place of TVMBackendParallelLaunch: the lambda does part `task` of `env->num_task` equal parts of its loop. */
EXPORT int tilewright_launch(Lambda lambda, void *data, int num_task) {
  int lost = atomic_load_explicit(&pool.lost, memory_order_relaxed);
  if (lost && (lost = atomic_exchange(&pool.lost, 0))) tilewright_threads(lost);
  if (pool.threads <= 1 || nested || num_task == 1) {
    ParallelEnv env = {NULL, 1};
    return lambda(0, &env, data);
  }
  pthread_mutex_lock(&pool.launch);
  go_home();
  pool.lambda = lambda;
  pool.data = data;
  pool.env.sync_handle = NULL;
  pool.env.num_task = pool.threads * PARTS;
  atomic_store_explicit(&pool.failed, 0, memory_order_relaxed);
  for (uint64_t i = 0; i < (uint64_t)pool.threads; ++i)
    atomic_store_explicit(&pool.shares[i].range, i * PARTS << 32 | (i + 1) * PARTS, memory_order_relaxed);
  uint64_t epoch = atomic_load_explicit(&pool.epoch, memory_order_relaxed) + 1;
  atomic_store(&pool.open, epoch);
  atomic_store(&pool.epoch, epoch);
  if (atomic_load(&pool.sleeping) > 0) {
    pthread_mutex_lock(&pool.sleep);
    pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.sleep);
  }
  work(0);
  atomic_store(&pool.open, 0);
  for (unsigned round = 0; atomic_load(&pool.inside) > 0; ++round) {
    PAUSE();
    if (round % 4096 == 4095) sched_yield(); /* whoever is inside may be waiting for this core */
  }
  int failed = atomic_load_explicit(&pool.failed, memory_order_relaxed);
  pthread_mutex_unlock(&pool.launch);
  return failed ? -1 : 0;
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
