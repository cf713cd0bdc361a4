/* The pool that all executables of a process share. Only runtime.c includes this file.
 *
 * Loops of each size (number of threads) have teams of their own. The teams of one size have no more threads together than
 * there are cores. So libraries that use all cores take turns on one team, and libraries that use fewer cores may run at
 * the same time. A C library has nothing of all this: its instances have teams of their own. */

/* ---- The pool that the libraries of one process share ----
 *
 * Each executable's library contains this runtime, but a process needs one pool of threads only. So one library, the
 * host, lends its pool and its scratch memory to all others by this table, which `tilewright_adopt` takes. The loader
 * (loaded.py) keeps the host loaded as long as another library uses it. A library that knows another version of the table
 * refuses it, and is a host itself.
 *
 * No code here may run when a thread ends, since the library may be unloaded by then. */

#define POOL_VERSION 1

typedef struct {
  int32_t version; /* POOL_VERSION, which changes if anything below changes */
  int32_t size;    /* the size of this table in bytes */
  int (*launch)(int threads, Lambda lambda, void *data, int num_task);
  void *(*allocate)(int device_type, int device_id, uint64_t bytes, int type_code, int type_bits);
  int (*free)(int device_type, int device_id, void *memory);
  int (*enter)(int threads, int cores); /* one more library has loops of this size; returns how many threads they have */
  void (*leave)(int threads);           /* one library less; the last one ends the threads */
  void (*trim)(void);                   /* free the scratch memory that is not in use */
} Pool;

/* The teams by size. A size that no library uses has no teams. */
static struct {
  Team *_Atomic teams;
  int users; /* how many libraries use the size */
  int count; /* how many teams there are */
  atomic_uint turn;
} sizes[MAX_THREADS + 1];
static pthread_mutex_t changing = PTHREAD_MUTEX_INITIALIZER; /* held while teams, users or limits change */
static int cores_allowed = 1;                                /* how many threads the teams of one size may have together */

/* Called in the child of a fork, which has one thread only. Other threads are made again when a loop needs them. The memory
 * that they held in the parent stays lost. */
static void after_fork(void) {
  changing = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
  for (int size = 0; size <= MAX_THREADS; ++size) {
    for (Team *team = atomic_load(&sizes[size].teams); team; team = atomic_load(&team->next)) {
      team->launch = team->sleep = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
      team->wake = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
      team->threads = 1;
      team->started = 0;
      atomic_store(&team->open, 0);
      for (int i = 0; i < team->size; ++i) atomic_store(&team->shares[i].inside, 0);
      atomic_store(&team->sleeping, 0);
      atomic_store(&team->home, -1);
    }
  }
  free_shelves();
  nested = 0;
}

static void watch_forks(void) { pthread_atfork(NULL, NULL, after_fork); }

/* Add a team of a size. The caller holds its `launch` then. Returns NULL if there are enough teams, or no memory. */
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

/* Find or add a team of a size. The caller holds its `launch` then. Returns NULL if there is no memory for a team. */
static Team *find_team(int size) {
  Team *first = atomic_load(&sizes[size].teams);
  for (Team *team = first; team; team = atomic_load(&team->next))
    if (!pthread_mutex_trylock(&team->launch)) return team;
  Team *added = add_team(size);
  if (added || !first) return added;
  Team *team = first; /* wait for one of the teams, in turn */
  for (unsigned skip = atomic_fetch_add(&sizes[size].turn, 1) % 64; skip; --skip)
    if (!(team = atomic_load(&team->next))) team = first;
  pthread_mutex_lock(&team->launch);
  return team;
}

/* See `Pool`. */
static int enter(int threads, int cores) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, watch_forks);
  if (threads > MAX_THREADS) threads = MAX_THREADS;
  if (threads < 2) return 1;
  pthread_mutex_lock(&changing);
  ++sizes[threads].users;
  if (cores > cores_allowed) cores_allowed = cores;
  pthread_mutex_unlock(&changing);
  Team *team = find_team(threads); /* its threads are made now, so that the first call does not wait for them */
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

/* See `Pool`. */
static int launch(int threads, Lambda lambda, void *data, int num_task) {
  if (threads > MAX_THREADS) threads = MAX_THREADS;
  Team *team = threads <= 1 || nested || num_task == 1 ? NULL : find_team(threads);
  if (!team) return run_alone(lambda, data);
  if (!team->started) start_team(team);
  int failed = team->threads > 1 ? run_loop(team, lambda, data) : run_alone(lambda, data);
  pthread_mutex_unlock(&team->launch);
  return failed;
}

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
