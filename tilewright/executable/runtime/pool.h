/* Threads, which all executables of a process share, and how they share them. Included by runtime.c alone.
 *
 * TVM's own pool gives each thread one equal part of a parallel loop. On a machine with neighbours the loop then takes
 * as long as the thread that was disturbed most. Here the loop is cut finer: every thread starts with a part of its
 * own (neighbouring iterations share data in the cache), and one that is done takes from the end of another's part.
 */

#if defined(__x86_64__) || defined(__i386__)
#define PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define PAUSE() __asm__ __volatile__("yield")
#else
#define PAUSE() ((void)0)
#endif

#define MAX_THREADS 256
/* Parts of a loop per thread: what one disturbed thread can delay is a part, not its whole share. */
#define PARTS 8
/* A thread without work spins so long, then sleeps: gaps between the kernels of a network are shorter. */
#define SPIN_SECONDS 0.001
#define CLOCK_ROUNDS 64
/* After so long it lets others have its core between two looks: the caller may be waiting for just that one. */
#define POLITE_SECONDS 20e-6

/* How TVM's compiled functions ask for a loop (tvm-ffi 0.1): the lambda does part `task` of `env->num_task` equal parts. */

typedef struct {
  void *sync_handle;
  int32_t num_task;
} ParallelEnv;

typedef int (*Lambda)(int task, ParallelEnv *env, void *data);

/* ---- What libraries of one process share ----
 *
 * Each executable brings this runtime along in its own library, but a process needs one pool of threads only. So one
 * library, the host, lends its pool and its scratch memory to all others by this table; `tilewright_adopt` is handed the
 * host's. Whoever loads libraries keeps the host loaded for as long as another one uses it (tilewright/executable/runtime/loaded.py
 * does). A library of another version of the table refuses it, and is a host of its own.
 *
 * No code here runs when a thread ends: the library may be unloaded by then. */

#define POOL_VERSION 1

typedef struct {
  int32_t version; /* POOL_VERSION; it changes with anything below */
  int32_t size;    /* of this table in bytes */
  int (*launch)(int threads, Lambda lambda, void *data, int num_task);
  void *(*allocate)(int device_type, int device_id, uint64_t bytes, int type_code, int type_bits);
  int (*free)(int device_type, int device_id, void *memory);
  int (*enter)(int threads, int cores); /* one more library's loops have so many threads; returns how many there are */
  void (*leave)(int threads);           /* one less; the last one ends them */
  void (*trim)(void);                   /* give scratch memory back that nobody uses at this moment */
} Pool;

/* ---- Threads ---- */

typedef struct {
  _Alignas(CACHE_LINE) atomic_uint_fast64_t range; /* first task not taken << 32 | end of this thread's tasks */
} Share;

/* Threads that do one loop at a time together. Loops of one number of threads have teams of their own, and the number of
 * teams is such that they do not have more threads than there are cores: libraries that use all cores take turns on one
 * team, those that use fewer may run at the same time. */
typedef struct Team {
  struct Team *_Atomic next; /* of the same size */
  pthread_mutex_t launch;    /* held by the one caller whose loop runs */
  pthread_mutex_t sleep;
  pthread_cond_t wake;
  int size;    /* threads that there should be, with the caller's */
  int threads; /* that there are; fewer where the system refused one; 1 in the child of a fork until its first loop */
  int started; /* whether they were made in this process */
  atomic_int quit; /* whether they should end */
  pthread_t *workers;
  Share *shares;
  Lambda lambda;
  void *data;
  ParallelEnv env;
  /* The first core, where all cores are used and the workers keep to the others; -1: they do not. */
  atomic_int home;
  _Alignas(CACHE_LINE) atomic_uint_fast64_t epoch; /* counts loops */
  _Alignas(CACHE_LINE) atomic_uint_fast64_t open;  /* the epoch whose loop may be joined, or 0 */
  _Alignas(CACHE_LINE) atomic_int inside;          /* workers that look at the loop */
  _Alignas(CACHE_LINE) atomic_int sleeping;
  atomic_int failed;
} Team;

/* By the number of threads. A size that no library has has no teams. */
static struct {
  Team *_Atomic teams;
  int users; /* libraries */
  int count; /* of teams */
  atomic_uint turn;
} sizes[MAX_THREADS + 1];
static pthread_mutex_t changing = PTHREAD_MUTEX_INITIALIZER; /* held while teams, users or limits change */
static int cores_allowed = 1;                                /* threads that teams of one size may have together */

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

static void work(Team *team, int self) {
  nested = 1;
  for (int other = 0; other < team->threads; ++other) {
    Share *share = &team->shares[(self + other) % team->threads];
    int task;
    while ((task = take(share, other > 0)) >= 0) {
      if (team->lambda(task, &team->env, team->data)) atomic_store(&team->failed, 1);
    }
  }
  nested = 0;
}

/* Wait until the epoch is no longer `seen`: spinning first, then asleep. */
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
static void keep_to_core(Team *team, int self) {
#if defined(__linux__)
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) || CPU_COUNT(&allowed) != team->size) return;
  int seen = -1, first = -1;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    if (++seen == 0) first = cpu;
    if (seen == self) {
      if (bind_to(cpu)) atomic_store(&team->home, first); /* a refusal costs speed alone */
      return;
    }
  }
#else
  (void)team, (void)self;
#endif
}

/* Bring the caller to the core that the workers leave to it. It may have woken up on one of theirs, and it takes the system
 * milliseconds to see that two threads share a core while another has nothing to do: 45 % of the readings of good
 * candidates were 1.4 times their latency or more, most of them twice (bench.repeatability). */
static void go_home(Team *team) {
#if defined(__linux__)
  int cpu = atomic_load_explicit(&team->home, memory_order_relaxed);
  if (cpu < 0 || sched_getcpu() == cpu) return;
  cpu_set_t allowed;
  /* Whoever keeps the caller elsewhere knows why. */
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
  uint64_t seen = 0;
  for (;;) {
    seen = await_epoch(team, seen);
    if (atomic_load(&team->quit)) return NULL;
    /* The caller closes the loop, then waits for nobody to be inside; so one who finds it open may join. */
    atomic_fetch_add(&team->inside, 1);
    if (atomic_load(&team->open) == seen) work(team, given.self);
    atomic_fetch_sub(&team->inside, 1);
  }
}

/* Make the threads of a team whose `launch` the caller holds. */
static void start_team(Team *team) {
  team->started = 1;
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

static void free_team(Team *team) {
  free(team->workers);
  free(team->shares);
  free(team);
}

/* A team without threads, or NULL where there is no memory. */
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
  team->size = size;
  team->threads = 1;
  atomic_store(&team->home, -1);
  pthread_mutex_init(&team->launch, NULL);
  pthread_mutex_init(&team->sleep, NULL);
  pthread_cond_init(&team->wake, NULL);
  return team;
}

/* End the threads of a team that nobody can find any more. */
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

/* In the child of a fork: nobody else is there, whatever the others were at. Threads are made anew when they are needed,
 * and what others held stays lost. */
static void after_fork(void) {
  changing = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
  for (int size = 0; size <= MAX_THREADS; ++size) {
    for (Team *team = atomic_load(&sizes[size].teams); team; team = atomic_load(&team->next)) {
      team->launch = team->sleep = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
      team->wake = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
      team->threads = 1;
      team->started = 0;
      atomic_store(&team->open, 0);
      atomic_store(&team->inside, 0);
      atomic_store(&team->sleeping, 0);
      atomic_store(&team->home, -1);
    }
  }
  free_shelves();
  nested = 0;
}

static void watch_forks(void) { pthread_atfork(NULL, NULL, after_fork); }

/* One more team of so many threads, whose `launch` the caller gets; NULL where there are enough. */
static Team *add_team(int size) {
  Team *team = NULL;
  pthread_mutex_lock(&changing);
  int most = cores_allowed / size > 1 ? cores_allowed / size : 1;
  if (sizes[size].count < most && (team = make_team(size))) {
    ++sizes[size].count;
    pthread_mutex_lock(&team->launch);
    atomic_store(&team->next, atomic_load(&sizes[size].teams));
    atomic_store(&sizes[size].teams, team);
  }
  pthread_mutex_unlock(&changing);
  return team;
}

/* A team of so many threads, whose `launch` the caller gets; NULL where there is no memory for one. */
static Team *find_team(int size) {
  Team *first = atomic_load(&sizes[size].teams);
  for (Team *team = first; team; team = atomic_load(&team->next))
    if (!pthread_mutex_trylock(&team->launch)) return team;
  Team *added = add_team(size);
  if (added || !first) return added;
  Team *team = first; /* wait for one of them */
  for (unsigned skip = atomic_fetch_add(&sizes[size].turn, 1) % 64; skip; --skip)
    if (!(team = atomic_load(&team->next))) team = first;
  pthread_mutex_lock(&team->launch);
  return team;
}

static int enter(int threads, int cores) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, watch_forks);
  if (threads > MAX_THREADS) threads = MAX_THREADS;
  if (threads < 2) return 1;
  pthread_mutex_lock(&changing);
  ++sizes[threads].users;
  if (cores > cores_allowed) cores_allowed = cores;
  pthread_mutex_unlock(&changing);
  Team *team = find_team(threads); /* now, so that the first call does not wait for its threads */
  if (!team) return 1;
  if (!team->started) start_team(team);
  int made = team->threads;
  pthread_mutex_unlock(&team->launch);
  return made;
}

static void leave(int threads) {
  if (threads > MAX_THREADS) threads = MAX_THREADS;
  if (threads < 2) return;
  Team *team = NULL;
  pthread_mutex_lock(&changing);
  if (--sizes[threads].users == 0) {
    team = atomic_exchange(&sizes[threads].teams, NULL);
    sizes[threads].count = 0;
  }
  pthread_mutex_unlock(&changing);
  while (team) {
    Team *next = atomic_load(&team->next);
    end_team(team);
    team = next;
  }
}

static int launch(int threads, Lambda lambda, void *data, int num_task) {
  if (threads > MAX_THREADS) threads = MAX_THREADS;
  Team *team = threads <= 1 || nested || num_task == 1 ? NULL : find_team(threads);
  if (team && !team->started) start_team(team);
  if (team && team->threads <= 1) {
    pthread_mutex_unlock(&team->launch);
    team = NULL;
  }
  if (!team) {
    ParallelEnv env = {NULL, 1};
    return lambda(0, &env, data);
  }
  go_home(team);
  team->lambda = lambda;
  team->data = data;
  team->env.sync_handle = NULL;
  team->env.num_task = team->threads * PARTS;
  atomic_store_explicit(&team->failed, 0, memory_order_relaxed);
  for (uint64_t i = 0; i < (uint64_t)team->threads; ++i)
    atomic_store_explicit(&team->shares[i].range, i * PARTS << 32 | (i + 1) * PARTS, memory_order_relaxed);
  uint64_t epoch = atomic_load_explicit(&team->epoch, memory_order_relaxed) + 1;
  atomic_store(&team->open, epoch);
  atomic_store(&team->epoch, epoch);
  if (atomic_load(&team->sleeping) > 0) {
    pthread_mutex_lock(&team->sleep);
    pthread_cond_broadcast(&team->wake);
    pthread_mutex_unlock(&team->sleep);
  }
  work(team, 0);
  atomic_store(&team->open, 0);
  for (unsigned round = 0; atomic_load(&team->inside) > 0; ++round) {
    PAUSE();
    if (round % 4096 == 4095) sched_yield(); /* whoever is inside may be waiting for this core */
  }
  int failed = atomic_load_explicit(&team->failed, memory_order_relaxed);
  pthread_mutex_unlock(&team->launch);
  return failed ? -1 : 0;
}
