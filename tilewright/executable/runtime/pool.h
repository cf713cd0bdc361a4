/* Threads that run parallel loops together. Only runtime.c includes this file.
 *
 * TVM's own pool gives each thread one equal part of a parallel loop. If other programs run on the machine, the loop takes
 * as long as the thread that they disturb most. Here the loop is cut finer. Every thread starts with a share of
 * neighbouring parts, which have data in common in the cache. A thread that is done takes parts from the end of another's
 * share.
 */

#if defined(__x86_64__) || defined(__i386__)
#define PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define PAUSE() __asm__ __volatile__("yield")
#else
#define PAUSE() ((void)0)
#endif

#define MAX_THREADS 256
/* How many parts of a loop a thread's share has. A disturbed thread delays one part instead of its whole share. */
#define PARTS 8
/* Seconds that a thread without work spins before it sleeps. The gaps between the kernels of a network are shorter. */
#define SPIN_SECONDS 0.001
/* How often a spinning thread looks for work before it reads the clock. */
#define CLOCK_ROUNDS 64
/* Seconds after which a spinning thread yields its core between two looks, since the caller may need that core. */
#define POLITE_SECONDS 20e-6

/* A parallel loop of TVM's compiled functions (tvm-ffi 0.1). The lambda does part `task` of `env->num_task` equal parts. */

typedef struct {
  void *sync_handle;
  int32_t num_task;
} ParallelEnv;

typedef int (*Lambda)(int task, ParallelEnv *env, void *data);

/* ---- Threads ---- */

/* The parts of one thread. Before the first part of a loop is taken, `range` is of an earlier loop. So nobody has to prepare
 * the shares of all threads before a loop. */
typedef struct {
  _Alignas(CACHE_LINE) atomic_uint_fast64_t range; /* the loop's tag << 48 | first part not taken << 24 | end of the parts */
  atomic_int inside; /* whether this thread, a worker, looks at the loop */
} Share;

/* The first 16 bits of `Share.range`. All parts of a loop are taken, so a share is never 2^16 loops behind. */
#define TAG(epoch) ((uint64_t)(epoch) << 48)
#define PART_MASK 0xffffffu

/* Threads that run one loop at a time together. A team belongs to one instance of a C library, or to the shared pool. */
typedef struct Team {
  struct Team *_Atomic next; /* the next team of the same size */
  pthread_mutex_t launch;    /* the caller whose loop runs holds it */
  pthread_mutex_t sleep;
  pthread_cond_t wake;
  int size;    /* how many threads the team should have, with the caller's */
  int threads; /* how many it has; fewer if the system refused one; 1 in the child of a fork until its first loop */
  int started; /* whether the threads were made in this process */
  atomic_int quit; /* whether the threads should end */
  pthread_t *workers;
  Share *shares;
  Lambda lambda;
  void *data;
  ParallelEnv env;
  int *cores; /* if the team uses all cores: a logical processor of each, that of the caller first; otherwise NULL */
  /* The first core if the team uses all cores, and its workers keep to the others; otherwise -1. */
  atomic_int home;
  /* Of an instance's own team; teams of the shared pool have none of these. */
  Scratch *scratch; /* where the workers' kernels find scratch memory */
  int anywhere;     /* whether the workers choose no core: they may run on any, or create() names their cores */
  _Alignas(CACHE_LINE) atomic_uint_fast64_t epoch; /* counts loops */
  _Alignas(CACHE_LINE) atomic_uint_fast64_t open;  /* the epoch whose loop may be joined, or 0 */
  _Alignas(CACHE_LINE) atomic_int sleeping;
  atomic_int failed;
} Team;

/* Set in threads that are inside a parallel loop. A loop within this loop runs in its thread alone. */
static _Thread_local int nested;

/* The team and the scratch memory of the instance that this thread computes for; NULL: those of the shared pool. */
static _Thread_local Team *own_team;
static _Thread_local Scratch *own_scratch;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Take a part of the share of a thread. Returns its number; -1: none is left. */
static int take(Team *team, int thread, uint64_t tag, int from_end) {
  Share *share = &team->shares[thread];
  uint64_t range = atomic_load_explicit(&share->range, memory_order_acquire);
  for (;;) {
    int known = (range ^ tag) >> 48 == 0;
    uint64_t first = known ? range >> 24 & PART_MASK : (uint64_t)thread * PARTS;
    uint64_t end = known ? range & PART_MASK : (uint64_t)(thread + 1) * PARTS;
    if (first >= end) return -1;
    uint64_t rest = tag | (from_end ? first << 24 | (end - 1) : (first + 1) << 24 | end);
    if (atomic_compare_exchange_weak_explicit(&share->range, &range, rest, memory_order_acq_rel, memory_order_acquire))
      return (int)(from_end ? end - 1 : first);
  }
}

/* Do parts of the team's loop of this epoch until none is left: those of thread `self`'s share first. */
static void work(Team *team, int self, uint64_t epoch) {
  nested = 1;
  for (int other = 0; other < team->threads; ++other) {
    int task;
    while ((task = take(team, (self + other) % team->threads, TAG(epoch), other > 0)) >= 0) {
      if (team->lambda(task, &team->env, team->data)) atomic_store(&team->failed, 1);
    }
  }
  nested = 0;
}

/* Wait until the epoch is not `seen` any more: first spin, then sleep. Returns the epoch. */
static uint64_t await_epoch(Team *team, uint64_t seen) {
  double start = now();
  for (;;) {
    for (int i = 0; i < CLOCK_ROUNDS; ++i) {
      uint64_t epoch = atomic_load_explicit(&team->epoch, memory_order_acquire);
      if (epoch != seen) return epoch;
      PAUSE();
    }
    double waited = now() - start;
    if (waited > SPIN_SECONDS) break;
    if (waited > POLITE_SECONDS) sched_yield();
  }
  pthread_mutex_lock(&team->sleep);
  atomic_fetch_add(&team->sleeping, 1);
  while (atomic_load(&team->epoch) == seen) pthread_cond_wait(&team->wake, &team->sleep);
  atomic_fetch_sub(&team->sleeping, 1);
  pthread_mutex_unlock(&team->sleep);
  return atomic_load(&team->epoch);
}

#if defined(__linux__)
/* Make this thread run on one core only. Returns whether the system has done so. */
static int bind_to(int cpu) {
  cpu_set_t own;
  CPU_ZERO(&own);
  CPU_SET(cpu, &own);
  return sched_setaffinity(0, sizeof own, &own) == 0;
}
#endif

/* If the team uses all cores, bind this worker to a core of its own. The first core is left to the caller. Otherwise the
 * system may put a worker on the caller's core, from which data and wake-up come, as long as another program runs on the
 * second core. */
static void keep_to_core(Team *team, int self) {
#if defined(__linux__)
  if (!team->cores || !bind_to(team->cores[self])) return; /* a refusal costs speed only */
  atomic_store(&team->home, team->cores[0]);
#else
  (void)team, (void)self;
#endif
}

/* Find the cores of a team that uses all of them, and chooses them itself. */
static void choose_cores(Team *team) {
#if defined(__linux__)
  if (team->anywhere || !team->cores) return;
  if (find_cores(team->cores, team->size) == team->size) return;
  free(team->cores);
  team->cores = NULL;
#else
  (void)team;
#endif
}

/* Bring the caller to the core that the workers leave to it. It may have woken up on the core of a worker, and the system
 * takes milliseconds to see that two threads share a core while another core is idle. Without this 45 % of the readings of
 * good candidates were at least 1.4 times their latency, most of them twice (bench.repeatability). */
static void go_home(Team *team) {
#if defined(__linux__)
  int cpu = atomic_load_explicit(&team->home, memory_order_relaxed);
  if (cpu < 0 || sched_getcpu() == cpu) return;
  cpu_set_t allowed;
  /* The caller may be bound to other cores for a reason. */
  if (sched_getaffinity(0, sizeof allowed, &allowed) || !CPU_ISSET(cpu, &allowed)) return;
  if (bind_to(cpu)) sched_setaffinity(0, sizeof allowed, &allowed); /* it moves there at once, and may leave again */
#else
  (void)team;
#endif
}

typedef struct {
  Team *team;
  int self;
} Worker;

static void *worker(void *argument) {
  Worker given = *(Worker *)argument;
  free(argument);
  Team *team = given.team;
  keep_to_core(team, given.self);
  if (team->scratch) {
    own_scratch = team->scratch;
    own_shelf = (unsigned)given.self % SHELVES + 1;
  }
  uint64_t seen = 0;
  for (;;) {
    seen = await_epoch(team, seen);
    if (atomic_load(&team->quit)) return NULL;
    /* The caller closes the loop, then waits until no worker is inside. So a worker that finds it open may join. (A single
     * counter of those inside would be the one place at which all threads wait for each other, twice in each loop.) */
    atomic_int *inside = &team->shares[given.self].inside;
    atomic_store(inside, 1);
    if (atomic_load(&team->open) == seen) work(team, given.self, seen);
    atomic_store_explicit(inside, 0, memory_order_release);
  }
}

#if !defined(_WIN32)
/* Leave the process's signals to its own threads: the threads that this one makes from now on inherit the mask. A worker that
 * ran a handler would delay a loop, and take signals from threads that wait for them. Signals of a thread's own faults and
 * of profilers stay open. */
static void block_signals(sigset_t *before) {
  static const int open[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS, SIGPROF};
  sigset_t blocked;
  sigfillset(&blocked);
  for (size_t i = 0; i < sizeof open / sizeof *open; ++i) sigdelset(&blocked, open[i]);
  pthread_sigmask(SIG_BLOCK, &blocked, before);
}
#endif

/* Make the threads of a team, as far as the system gives them. */
static void make_threads(Team *team) {
  for (team->threads = 1; team->threads < team->size; ++team->threads) {
    Worker *given = malloc(sizeof *given);
    if (!given) return;
    given->team = team;
    given->self = team->threads;
    if (pthread_create(&team->workers[team->threads - 1], NULL, worker, given)) {
      free(given);
      return;
    }
  }
}

/* Make the threads of a team. The caller holds its `launch`. */
static void start_team(Team *team) {
  team->started = 1;
  choose_cores(team);
#if !defined(_WIN32)
  sigset_t before;
  block_signals(&before);
#endif
  make_threads(team);
#if !defined(_WIN32)
  pthread_sigmask(SIG_SETMASK, &before, NULL);
#endif
}

static void free_team(Team *team) {
  free(team->workers);
  free(team->cores);
  free(team->shares);
  free(team);
}

/* A team without threads; NULL if there is no memory for it. */
static Team *make_team(int size) {
  void *team_memory = NULL, *shares = NULL;
  if (posix_memalign(&team_memory, CACHE_LINE, sizeof(Team))) return NULL;
  Team *team = memset(team_memory, 0, sizeof(Team));
  team->workers = calloc((size_t)size, sizeof *team->workers);
  if (!team->workers || posix_memalign(&shares, CACHE_LINE, (size_t)size * sizeof(Share))) {
    free_team(team);
    return NULL;
  }
  team->shares = memset(shares, 0, (size_t)size * sizeof(Share));
  team->cores = calloc((size_t)size, sizeof *team->cores); /* without it, the workers choose no core */
  team->size = size;
  team->threads = 1;
  atomic_store(&team->home, -1);
  pthread_mutex_init(&team->launch, NULL);
  pthread_mutex_init(&team->sleep, NULL);
  pthread_cond_init(&team->wake, NULL);
  return team;
}

/* End the threads of a team, which is in no list any more, and free it. */
static void end_team(Team *team) {
  pthread_mutex_lock(&team->sleep);
  atomic_store(&team->quit, 1);
  atomic_fetch_add(&team->epoch, 1);
  pthread_cond_broadcast(&team->wake);
  pthread_mutex_unlock(&team->sleep);
  for (int i = 0; team->started && i < team->threads - 1; ++i) pthread_join(team->workers[i], NULL);
  pthread_mutex_destroy(&team->launch);
  pthread_mutex_destroy(&team->sleep);
  pthread_cond_destroy(&team->wake);
  free_team(team);
}

/* Run a parallel loop alone. */
static int run_alone(Lambda lambda, void *data) {
  ParallelEnv env = {NULL, 1};
  return lambda(0, &env, data);
}

/* Run a parallel loop by a team, which the caller holds. Returns 0; otherwise a part of it failed. */
static int run_loop(Team *team, Lambda lambda, void *data) {
  go_home(team);
  team->lambda = lambda;
  team->data = data;
  team->env.sync_handle = NULL;
  team->env.num_task = team->threads * PARTS;
  atomic_store_explicit(&team->failed, 0, memory_order_relaxed);
  uint64_t epoch = atomic_load_explicit(&team->epoch, memory_order_relaxed) + 1;
  atomic_store(&team->open, epoch);
  atomic_store(&team->epoch, epoch);
  if (atomic_load(&team->sleeping) > 0) {
    pthread_mutex_lock(&team->sleep);
    pthread_cond_broadcast(&team->wake);
    pthread_mutex_unlock(&team->sleep);
  }
  work(team, 0, epoch);
  atomic_store(&team->open, 0);
  for (int other = 1; other < team->threads; ++other) {
    for (unsigned round = 0; atomic_load(&team->shares[other].inside); ++round) {
      PAUSE();
      if (round % 4096 == 4095) sched_yield(); /* a worker that is inside may need this core */
    }
  }
  return atomic_load_explicit(&team->failed, memory_order_relaxed) ? -1 : 0;
}
