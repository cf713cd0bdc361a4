/* Runs the library `net` on inputs of any number of rows, which are read from the standard input: float32, 8 a row. Prints
 * the outputs. The only argument is the number of rows. */
#define _POSIX_C_SOURCE 200112L
#include <net.h>
#include <stdio.h>
#include <stdlib.h>

int main(int count, char **arguments) {
  int64_t shape[2] = {count > 1 ? atoi(arguments[1]) : 1, 8}, found[2];
  const int64_t *shapes[] = {shape, shape};
  float *inputs[2];
  void *outputs[2];
  size_t bytes, given = (size_t)shape[0] * 8 * sizeof(float);
  net_network *network;
  net_error error;
  for (int i = 0; i < 2; ++i) {
    inputs[i] = malloc(given + 4);
    if (!inputs[i] || fread(inputs[i], 1, given, stdin) != given) return 2;
  }
  if (net_create(NULL, &network, &error)) return 3;
  for (size_t i = 0; i < 2; ++i) {
    if (net_output_shape(shapes, 2, i, found, &bytes)) bytes = 4; /* the run says why */
    if (!(outputs[i] = malloc(bytes))) return 2;
  }
  if (net_run_shapes(network, shapes, (const void *const *)inputs, 2, outputs, 2, &error)) {
    fprintf(stderr, "%s", error.message);
    return 1;
  }
  for (size_t i = 0; i < 2; ++i) {
    (void)net_output_shape(shapes, 2, i, found, &bytes);
    fwrite(outputs[i], 1, bytes, stdout);
    free(outputs[i]), free(inputs[i]);
  }
  if (net_run_shapes(network, NULL, (const void *const *)inputs, 2, outputs, 2, NULL) != NET_BAD_ARGUMENT) return 4;
  if (net_output_shape(shapes, 1, 0, found, NULL) != NET_BAD_ARGUMENT) return 5;
  if (net_output_shape(shapes, 2, 2, found, NULL) != NET_BAD_ARGUMENT) return 6;
  net_destroy(network);
  return 0;
}
