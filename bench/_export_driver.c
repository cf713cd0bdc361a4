/* Times a library for C. Arguments: ROUNDS THREADS INSTANCES. Prints the milliseconds to make an instance, those of the
 * first run, the microseconds of the fastest run of one instance, and the runs per second of all instances side by side. */
#define _POSIX_C_SOURCE 200112L
#include <net.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int rounds;

typedef struct {
  net_network *network;
  void *memory[64];
} Instance;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int run(Instance *self) {
  size_t inputs = net_input_count();
  return net_run(self->network, 0, (const void *const *)self->memory, inputs, self->memory + inputs, net_output_count(), NULL);
}

static int make(Instance *self, int threads) {
  net_options options = NET_OPTIONS;
  net_tensor tensor;
  size_t inputs = net_input_count();
  options.threads = threads;
  for (size_t i = 0; i < inputs + net_output_count(); ++i) {
    if (i < inputs ? net_input(0, i, &tensor) : net_output(0, i - inputs, &tensor)) return 1;
    if (i >= 64 || posix_memalign(&self->memory[i], NET_ALIGNMENT, tensor.bytes + 1)) return 1;
    memset(self->memory[i], 0, tensor.bytes);
  }
  return net_create(&options, &self->network, NULL);
}

static void *run_often(void *given) {
  for (int round = 0; round < rounds; ++round) run(given);
  return NULL;
}

int main(int count, char **arguments) {
  if (count < 4) return 2;
  rounds = atoi(arguments[1]);
  int threads = atoi(arguments[2]), instances = atoi(arguments[3]);
  Instance *all = calloc((size_t)instances, sizeof *all);
  pthread_t *callers = calloc((size_t)instances, sizeof *callers);
  double begin = now(), best = 1e9;
  if (!all || !callers || make(&all[0], threads)) return 1;
  double made = now();
  if (run(&all[0])) return 1;
  double first = now();
  for (int round = 0; round < rounds; ++round) {
    double start = now();
    run(&all[0]);
    double taken = now() - start;
    if (taken < best) best = taken;
  }
  for (int i = 1; i < instances; ++i)
    if (make(&all[i], threads) || run(&all[i])) return 1;
  double start = now();
  for (int i = 0; i < instances; ++i)
    if (pthread_create(&callers[i], NULL, run_often, &all[i])) return 1;
  for (int i = 0; i < instances; ++i) pthread_join(callers[i], NULL);
  printf("%.6f %.6f %.6f %.6f\n", 1e3 * (made - begin), 1e3 * (first - made), 1e6 * best, instances * rounds / (now() - start));
  for (int i = 0; i < instances; ++i) net_destroy(all[i].network);
  return 0;
}
