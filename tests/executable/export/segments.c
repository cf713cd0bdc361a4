/* Runs a network with segments in two threads at once: on an instance of each thread, and on one that they share. Reads the
 * inputs from standard input, and writes the outputs to standard output. Arguments: the bucket, and how often it is run. */
#define _POSIX_C_SOURCE 200112L
#include <net.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef FORKS
#define FORKS 1
#endif

#define CHECK(x) \
  do { \
    if (!(x)) return fprintf(stderr, "%s:%d: %s (%s)\n", __FILE__, __LINE__, #x, error.message), 1; \
  } while (0)

static net_error error;
static size_t bucket, runs;
static void *inputs[2], *expected[2];
static size_t sizes[2];

/* Memory that is aligned, or not: `shift` bytes after an aligned place. */
static char *allocate(size_t bytes, size_t shift) {
  void *memory = NULL;
  return posix_memalign(&memory, NET_ALIGNMENT, bytes + NET_ALIGNMENT) ? NULL : (char *)memory + shift;
}

static void *compute(void *shared) {
  net_network *own = NULL, *network = shared;
  net_options options = NET_OPTIONS;
  net_error said;
  size_t wrong = 0;
  options.threads = 2;
  if (!network && net_create(&options, &own, &said)) return fprintf(stderr, "%s\n", said.message), (void *)"create";
  if (!network) network = own;
  for (size_t run = 0; run < runs; ++run) {
    size_t shift = run % 2 ? 8 : 0;
    char *places[2];
    for (size_t i = 0; i < 2; ++i) places[i] = allocate(sizes[i], shift);
    wrong += net_run(network, bucket, (const void *const *)inputs, 2, (void *const *)places, 2, &said) != NET_OK;
    for (size_t i = 0; i < 2; ++i) {
      wrong += memcmp(places[i], expected[i], sizes[i]) != 0;
      free(places[i] - shift);
    }
  }
  net_destroy(own);
  return wrong ? (void *)"run" : NULL;
}

static int compute_twice(net_network *shared) {
  pthread_t threads[2];
  void *wrong[2] = {NULL, NULL};
  for (size_t i = 0; i < 2; ++i) CHECK(!pthread_create(&threads[i], NULL, compute, shared));
  for (size_t i = 0; i < 2; ++i) CHECK(!pthread_join(threads[i], &wrong[i]) && !wrong[i]);
  return 0;
}

/* ONNX Runtime refuses an index outside of its axis. The next run is right again. */
static int check_failure(net_network *network) {
  static const int64_t far[3] = {0, 1, INT64_C(1) << 40};
  const void *wrong[] = {inputs[0], far};
  CHECK(net_run(network, bucket, wrong, 2, expected, 2, &error) == NET_ONNXRUNTIME_FAILED);
  CHECK(strstr(error.message, "a part of the network that ONNX Runtime runs failed: ONNX Runtime: "));
  CHECK(strstr(error.message, "indices inside of their axes"));
  CHECK(strstr(net_status_text(error.status), "ONNX Runtime failed"));
  CHECK(net_run(network, bucket, (const void *const *)inputs, 2, expected, 2, &error) == NET_OK);
  return 0;
}

/* The child of a fork may destroy an instance, though it has none of its threads. */
static int check_fork(net_network *network) {
  int status = 1;
  pid_t child = FORKS ? fork() : 0;
  if (FORKS && !child) {
    alarm(100);
    net_destroy(network);
    _exit(0);
  }
  CHECK(!FORKS || (waitpid(child, &status, 0) == child && status == 0));
  return 0;
}

int main(int count, char **arguments) {
  net_network *network;
  net_options options = NET_OPTIONS;
  net_tensor tensor;
  static const int32_t cores[] = {0, 0};
  bucket = count > 1 ? strtoul(arguments[1], NULL, 10) : 0;
  runs = count > 2 ? strtoul(arguments[2], NULL, 10) : 1;
  for (size_t i = 0; i < 2; ++i) {
    CHECK(net_input(bucket, i, &tensor) == NET_OK && (inputs[i] = allocate(tensor.bytes, 0)));
    CHECK(fread(inputs[i], 1, tensor.bytes, stdin) == tensor.bytes);
    CHECK(net_output(bucket, i, &tensor) == NET_OK && (expected[i] = allocate(tensor.bytes, 0)));
    sizes[i] = tensor.bytes;
  }
  options.threads = 2;
  options.affinity = NET_AFFINITY_LIST, options.cpus = cores, options.cpu_count = 2;
  CHECK(net_create(&options, &network, &error) == NET_OK);
  CHECK(net_run(network, bucket, (const void *const *)inputs, 2, expected, 2, &error) == NET_OK);
  if (check_fork(network) || check_failure(network) || compute_twice(NULL) || compute_twice(network)) return 1;
  net_destroy(network);
  for (size_t i = 0; i < 2; ++i) fwrite(expected[i], 1, sizes[i], stdout);
  for (size_t i = 0; i < 2; ++i) free(inputs[i]), free(expected[i]);
  return 0;
}
