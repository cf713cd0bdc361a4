/* What the runtime's parallel loops cost, in seconds. Compiled by bench/scaling.py, beside the runtime's own code. */
#include "runtime.c"

static int nothing(int task, ParallelEnv *env, void *data) {
  (void)task, (void)env, (void)data;
  return 0;
}

/* Seconds of a parallel loop of two threads whose parts do nothing. */
EXPORT double loop_seconds(int rounds) {
  tilewright_enter(2, 2);
  for (int i = 0; i < 1000; ++i) launch(2, nothing, NULL, 0);
  double begin = now();
  for (int i = 0; i < rounds; ++i) launch(2, nothing, NULL, 0);
  double seconds = (now() - begin) / rounds;
  tilewright_leave();
  return seconds;
}

/* Seconds in which a thread takes a part of its own share, while no other thread looks at that. */
EXPORT double part_seconds(int rounds) {
  Team *team = make_team(1);
  volatile int last = 0;
  double begin = now();
  for (int i = 1; i <= rounds; ++i)
    for (int part = 0; part < PARTS; ++part) last = take(team, 0, TAG(i), 0);
  double seconds = (now() - begin) / rounds / PARTS;
  (void)last;
  free_team(team);
  return seconds;
}

#define LINES 64
static Share lines[LINES];
static _Alignas(CACHE_LINE) atomic_int turn;

/* Write `count` lines whenever it is this thread's turn. */
static void *answer(void *argument) {
  int count = *(int *)argument;
  for (int seen = 1;; seen += 2) {
    int found;
    while ((found = atomic_load(&turn)) != seen && found >= 0) continue;
    if (found < 0) return NULL;
    for (int i = 0; i < count; ++i) atomic_store_explicit(&lines[i].inside, seen, memory_order_relaxed);
    atomic_store(&turn, seen + 1);
  }
}

/* Seconds in which this core reads `count` lines that another core has just written. With a count of 0: seconds until a change
 * that this core makes is seen by the other core, and its answer by this one. */
EXPORT double turn_seconds(int count, int rounds) {
  pthread_t thread;
  atomic_store(&turn, 0);
  if (pthread_create(&thread, NULL, answer, &count)) return -1;
  volatile int sum = 0;
  double total = 0;
  for (int i = 0; i < rounds; ++i) {
    double begin = now();
    atomic_store(&turn, 2 * i + 1);
    while (atomic_load(&turn) != 2 * i + 2) continue;
    if (count) begin = now();
    for (int line = 0; line < count; ++line) sum += atomic_load_explicit(&lines[line].inside, memory_order_acquire);
    total += now() - begin;
  }
  atomic_store(&turn, -1);
  pthread_join(thread, NULL);
  return total / rounds;
}
