/* Uses each function of an exported library `net`, rightly and wrongly. Prints the line of a check that fails.
 * The first argument is a file of weights, or "inside". */
#define _POSIX_C_SOURCE 200112L
#include <net.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(x)                                        \
  do {                                                  \
    if (!(x)) {                                         \
      fprintf(stderr, "line %d: %s\n", __LINE__, #x);   \
      return 1;                                         \
    }                                                   \
  } while (0)

#if !defined(RUNS)
#define RUNS 20
#endif
#if !defined(FORKS)
#define FORKS 1 /* 0: under tools that lose track of threads in the child of a fork */
#endif
#define CALLERS 4

typedef struct {
  net_network *network; /* NULL: one of its own */
  const char *weights;
  size_t bucket;
  const void *inputs[1];
  const void *expected[3];
  int failed;
} Caller;

static void *aligned(size_t bytes) {
  void *memory = NULL;
  return posix_memalign(&memory, NET_ALIGNMENT, bytes) ? NULL : memset(memory, 0, bytes);
}

static int compute(Caller *caller) {
  net_network *network = caller->network;
  net_error error;
  net_options options = NET_OPTIONS;
  net_tensor tensor;
  void *outputs[3];
  options.threads = 1;
  options.weights = caller->weights;
  if (!network) CHECK(net_create(&options, &network, &error) == NET_OK);
  for (size_t i = 0; i < 3; ++i) {
    CHECK(net_output(caller->bucket, i, &tensor) == NET_OK);
    CHECK((outputs[i] = aligned(tensor.bytes)) != NULL);
  }
  for (int run = 0; run < RUNS; ++run) {
    CHECK(net_run(network, caller->bucket, caller->inputs, 1, outputs, 3, &error) == NET_OK);
    for (size_t i = 0; i < 3; ++i) {
      CHECK(net_output(caller->bucket, i, &tensor) == NET_OK);
      CHECK(memcmp(outputs[i], caller->expected[i], tensor.bytes) == 0);
      memset(outputs[i], 0, tensor.bytes);
    }
  }
  for (size_t i = 0; i < 3; ++i) free(outputs[i]);
  if (!caller->network) net_destroy(network);
  return 0;
}

static void *call(void *given) {
  Caller *caller = given;
  caller->failed = compute(caller);
  return NULL;
}

/* Callers at the same time, all with `network` or each with one of its own. */
static int compute_together(net_network *network, const Caller *one) {
  Caller callers[CALLERS];
  pthread_t threads[CALLERS];
  for (int i = 0; i < CALLERS; ++i) {
    callers[i] = *one;
    callers[i].network = network;
    CHECK(pthread_create(&threads[i], NULL, call, &callers[i]) == 0);
  }
  for (int i = 0; i < CALLERS; ++i) {
    CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(!callers[i].failed);
  }
  return 0;
}

static int check_options(const char *weights) {
  net_network *network = (net_network *)&network;
  net_error error;
  net_options options = NET_OPTIONS;
  int32_t cores[2] = {0, 0};
  options.weights = weights;
  CHECK(net_create(&options, NULL, &error) == NET_BAD_ARGUMENT && strstr(error.message, "NULL"));
  options.abi = NET_ABI + 1;
  CHECK(net_create(&options, &network, &error) == NET_WRONG_ABI && error.status == NET_WRONG_ABI && !network);
  CHECK(strstr(error.message, "version 2 of the interface, but this library has version 1"));
  CHECK(net_create(&options, &network, NULL) == NET_WRONG_ABI);
  options.abi = NET_ABI;
  options.threads = 257;
  CHECK(net_create(&options, &network, &error) == NET_BAD_ARGUMENT && strstr(error.message, "1 to 256 threads"));
  options.threads = -1;
  CHECK(net_create(&options, &network, &error) == NET_BAD_ARGUMENT);
  options.threads = 2;
  options.affinity = 7;
  CHECK(net_create(&options, &network, &error) == NET_BAD_ARGUMENT && strstr(error.message, "no affinity 7"));
  options.affinity = NET_AFFINITY_LIST;
  CHECK(net_create(&options, &network, &error) == NET_BAD_ARGUMENT && strstr(error.message, "one core for each"));
  options.cpus = cores;
  options.cpu_count = 2;
  CHECK(net_create(&options, &network, &error) == NET_OK && !error.message[0]);
  net_destroy(network);
  cores[1] = -4;
  CHECK(net_create(&options, &network, &error) == NET_BAD_ARGUMENT && strstr(error.message, "no core -4"));
  cores[1] = 1023;
  CHECK(net_create(&options, &network, &error) == NET_BAD_ARGUMENT && !network);
  CHECK(strstr(error.message, "thread 1 cannot run on core 1023"));
  options.affinity = NET_AFFINITY_NONE;
  CHECK(net_create(&options, &network, &error) == NET_OK);
  net_destroy(network);
  net_destroy(NULL);
  options.weights = "/nowhere/net.weights";
  CHECK(net_create(&options, &network, &error) == (weights ? NET_NO_WEIGHTS : NET_BAD_ARGUMENT) && !network);
  CHECK(strstr(error.message, weights ? "/nowhere/net.weights cannot be read: No such file" : "inside of this library"));
  options.weights = "/dev/null";
  CHECK(net_create(&options, &network, &error) == (weights ? NET_NO_WEIGHTS : NET_BAD_ARGUMENT) && !network);
  CHECK(!weights || strstr(error.message, "/dev/null is no regular file"));
  return 0;
}

static volatile sig_atomic_t handled;

static void handle(int number) {
  (void)number;
  handled = 1;
}

/* A signal that the process's threads block waits for them. No thread of an instance takes it. */
static int check_signals(const char *weights) {
  net_network *network;
  net_options options = NET_OPTIONS;
  struct sigaction action;
  sigset_t one, waiting;
  options.weights = weights;
  options.threads = 4;
  memset(&action, 0, sizeof action);
  action.sa_handler = handle;
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  CHECK(net_create(&options, &network, NULL) == NET_OK);
  sigemptyset(&one);
  sigaddset(&one, SIGUSR1);
  CHECK(pthread_sigmask(SIG_BLOCK, &one, NULL) == 0 && kill(getpid(), SIGUSR1) == 0);
  CHECK(sigpending(&waiting) == 0 && sigismember(&waiting, SIGUSR1) == 1);
  net_destroy(network);
  CHECK(!handled && pthread_sigmask(SIG_UNBLOCK, &one, NULL) == 0);
  while (!handled) sleep(1); /* a sanitizer may deliver it late */
  return 0;
}

/* The child of a fork may destroy an instance, though it has none of its threads. */
static int check_forks(const char *weights) {
  net_network *network;
  net_options options = NET_OPTIONS;
  int status = 1;
  pid_t child;
  options.weights = weights;
  options.threads = 3;
  CHECK(net_create(&options, &network, NULL) == NET_OK);
  child = fork();
  if (!child) {
    alarm(100);
    net_destroy(network);
    _exit(net_create(&options, &network, NULL));
  }
  CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
  net_destroy(network);
  return 0;
}

static int check_description(void) {
  net_tensor tensor;
  size_t bucket = 9;
  const int64_t shape[] = {2, 8, 32, 32}, other[] = {3, 8, 32, 32};
  const int64_t *shapes[] = {shape};
  CHECK(net_abi() == NET_ABI && net_alignment() == NET_ALIGNMENT);
  CHECK(net_input_count() == 1 && net_output_count() == 3 && net_bucket_count() == 2);
  CHECK(net_input(1, 0, &tensor) == NET_OK && !strcmp(tensor.name, "x") && tensor.dtype == NET_FLOAT32);
  CHECK(tensor.rank == 4 && !memcmp(tensor.shape, shape, sizeof shape) && tensor.bytes == 65536);
  CHECK(net_output(0, 1, &tensor) == NET_OK && !strcmp(tensor.name, "z") && tensor.rank == 2 && tensor.shape[1] == 16384);
  CHECK(net_input(2, 0, &tensor) == NET_BAD_ARGUMENT && net_input(0, 1, &tensor) == NET_BAD_ARGUMENT);
  CHECK(net_output(0, 3, &tensor) == NET_BAD_ARGUMENT && net_output(0, 0, NULL) == NET_BAD_ARGUMENT);
  CHECK(net_find_bucket(shapes, 1, &bucket) == NET_OK && bucket == 1);
  shapes[0] = other;
  CHECK(net_find_bucket(shapes, 1, &bucket) == NET_BAD_ARGUMENT && bucket == 1);
  CHECK(net_find_bucket(shapes, 2, &bucket) == NET_BAD_ARGUMENT && net_find_bucket(NULL, 1, &bucket) == NET_BAD_ARGUMENT);
  CHECK(!strcmp(net_status_text(NET_OK), "success") && strstr(net_status_text(NET_NO_WEIGHTS), "weights"));
  CHECK(strstr(net_status_text(99), "no status"));
  return 0;
}

static int check_runs(const char *weights) {
  net_network *network;
  net_error error;
  net_options options = NET_OPTIONS;
  net_tensor tensor;
  options.weights = weights;
  options.threads = 2;
  CHECK(net_create(&options, &network, &error) == NET_OK);
  for (size_t bucket = 0; bucket < 2; ++bucket) {
    Caller caller = {NULL, NULL, 0, {NULL}, {NULL, NULL, NULL}, 0};
    void *outputs[3], *unaligned[3];
    char *inputs[2];
    caller.weights = weights;
    caller.bucket = bucket;
    CHECK(net_input(bucket, 0, &tensor) == NET_OK);
    CHECK((inputs[0] = aligned(tensor.bytes)) && (inputs[1] = aligned(tensor.bytes + 4)));
    for (size_t i = 0; i < tensor.bytes / sizeof(float); ++i) ((float *)(void *)inputs[0])[i] = (float)(i % 13) - 6;
    memcpy(inputs[1] + 4, inputs[0], tensor.bytes);
    caller.inputs[0] = inputs[0];
    for (size_t i = 0; i < 3; ++i) {
      CHECK(net_output(bucket, i, &tensor) == NET_OK);
      CHECK((outputs[i] = aligned(tensor.bytes)) && (unaligned[i] = aligned(tensor.bytes + 4)));
      caller.expected[i] = outputs[i];
    }
    CHECK(net_run(network, bucket, caller.inputs, 1, outputs, 3, &error) == NET_OK && error.status == NET_OK);
    CHECK(compute_together(network, &caller) == 0);
    CHECK(compute_together(NULL, &caller) == 0);
    {
      const void *places[] = {inputs[1] + 4};
      void *others[3];
      for (size_t i = 0; i < 3; ++i) others[i] = (char *)unaligned[i] + 4;
      CHECK(net_run(network, bucket, places, 1, others, 3, NULL) == NET_OK);
      for (size_t i = 0; i < 3; ++i) {
        CHECK(net_output(bucket, i, &tensor) == NET_OK);
        CHECK(memcmp(others[i], outputs[i], tensor.bytes) == 0);
      }
    }
    CHECK(net_run(network, 2, caller.inputs, 1, outputs, 3, &error) == NET_BAD_ARGUMENT);
    CHECK(strstr(error.message, "2 buckets, but bucket 2"));
    CHECK(net_run(network, bucket, caller.inputs, 2, outputs, 3, &error) == NET_BAD_ARGUMENT);
    CHECK(strstr(error.message, "1 inputs and 3 outputs, but 2 and 3 were given"));
    CHECK(net_run(NULL, bucket, caller.inputs, 1, outputs, 3, &error) == NET_BAD_ARGUMENT);
    CHECK(net_run(network, bucket, NULL, 1, outputs, 3, &error) == NET_BAD_ARGUMENT);
    caller.inputs[0] = NULL;
    CHECK(net_run(network, bucket, caller.inputs, 1, outputs, 3, &error) == NET_BAD_ARGUMENT);
    CHECK(strstr(error.message, "input 'x' is NULL"));
    for (size_t i = 0; i < 3; ++i) free(outputs[i]), free(unaligned[i]);
    free(inputs[0]), free(inputs[1]);
  }
  net_destroy(network);
  return 0;
}

int main(int count, char **arguments) {
  const char *weights = count > 1 && strcmp(arguments[1], "inside") ? arguments[1] : NULL;
  return check_description() || check_options(weights) || check_signals(weights) || (FORKS && check_forks(weights)) ||
         check_runs(weights);
}
