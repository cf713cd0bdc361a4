/* The functions of a C library's header. The source file that export/library.py writes includes this after runtime.c, the
 * network's image and the table of its kernels. It defines:
 *
 *   NAME(x)       the name of x in the header
 *   IMAGE         the image
 *   KERNELS       the kernels in the order of their numbers
 *   WEIGHTS       the weights; or
 *   WEIGHTS_FILE  the name of their file beside the library
 *   PADDINGS      how smaller inputs may be padded to buckets, PADDING_COUNT of them, as ImagePadding
 *   PADDED_AXES   the axes of PADDINGS
 *
 * and, before runtime.c, what segments.h needs if ONNX Runtime runs parts of the network. */

#define CONSTANT __attribute__((visibility("hidden")))

/* Compiled kernels look these up. Their own definitions are weak. */
CONSTANT void *const __TVMBackendParallelLaunch = (void *)tilewright_launch;
CONSTANT void *const __TVMBackendAllocWorkspace = (void *)tilewright_allocate;
CONSTANT void *const __TVMBackendFreeWorkspace = (void *)tilewright_free;

typedef NAME(options) Options;

/* ---- Weights ---- */

#if defined(WEIGHTS_FILE)
#if !defined(MAP_POPULATE)
#define MAP_POPULATE 0 /* Linux maps all pages at once, which the first run would do one by one */
#endif

/* Write the path of the file of weights in the folder of another file. Returns 0; -1: it is too long. */
static int name_beside(char *path, size_t size, const char *other) {
  const char *end = strrchr(other, '/');
  int folder = end ? (int)(end + 1 - other) : 0;
  int length = snprintf(path, size, "%.*s%s", folder, other, WEIGHTS_FILE);
  return length < 0 || (size_t)length >= size ? -1 : 0;
}

/* Write the path of the file of weights beside this library, or beside the file to which a link to this library leads.
 * Returns 0; -1: the system does not tell, or it is too long. */
static int find_beside(char *path, size_t size) {
  Dl_info found;
  if (!dladdr((void *)IMAGE, &found) || !found.dli_fname) return -1;
  int failed = name_beside(path, size, found.dli_fname);
  char *linked = failed || !access(path, F_OK) ? NULL : realpath(found.dli_fname, NULL);
  char there[4096];
  if (linked && !name_beside(there, sizeof there, linked) && !access(there, F_OK) && strlen(there) < size) strcpy(path, there);
  free(linked);
  return failed;
}

/* Map the file of weights. Several instances share its pages. */
static int map_weights(const char *given, void **mapping, size_t *mapped, Error *error) {
  char beside[4096];
  const char *path = given;
  if (!path) {
    if (find_beside(beside, sizeof beside))
      return fail(error, STATUS_NO_WEIGHTS, "the file of weights %s is not found; name it in the options", WEIGHTS_FILE);
    path = beside;
  }
  const Image *image = (const Image *)IMAGE;
  int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe would wait for a writer */
  struct stat about;
  if (file < 0 || fstat(file, &about)) {
    int reason = errno;
    if (file >= 0) close(file);
    return fail(error, STATUS_NO_WEIGHTS, "the file of weights %.300s cannot be read: %.100s", path, strerror(reason));
  }
  if (!S_ISREG(about.st_mode)) {
    close(file);
    return fail(error, STATUS_NO_WEIGHTS, "the file of weights %.300s is no regular file; name the file that was exported", path);
  }
  size_t size = (size_t)image->weights + sizeof(WeightsHeader);
  int right = (uint64_t)about.st_size == size;
  void *found = right ? mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file, 0) : MAP_FAILED;
  close(file);
  if (!right)
    return fail(error, STATUS_NO_WEIGHTS, "the file of weights %.300s has %lld bytes instead of %llu; copy it again", path,
                (long long)about.st_size, (unsigned long long)size);
  if (found == MAP_FAILED)
    return fail(error, STATUS_NO_MEMORY, "the file of weights %.300s cannot be mapped into memory", path);
  const WeightsHeader *header = found;
  if (memcmp(header->magic, WEIGHTS_MAGIC, sizeof header->magic) ||
      memcmp(header->identity, image->identity, sizeof header->identity)) {
    munmap(found, size);
    return fail(error, STATUS_NO_WEIGHTS, "the file %.300s has the weights of another network; export both together", path);
  }
  *mapping = found, *mapped = size;
  return STATUS_OK;
}
#endif

/* ---- Making instances ---- */

static int count_cores(void) {
#if defined(__linux__)
  int found = find_cores(NULL, 0);
  if (found) return limit_by_quotas(found);
#endif
  long online = sysconf(_SC_NPROCESSORS_ONLN);
  int cores = online > MAX_THREADS ? MAX_THREADS : online > 1 ? (int)online : 1;
#if defined(__linux__)
  return limit_by_quotas(cores);
#else
  return cores;
#endif
}

static int check_options(const Options *options, Error *error) {
  if (options->abi != NAME(ABI))
    return fail(error, STATUS_WRONG_ABI, "the caller was compiled for version %u of the interface, but this library has version %u",
                options->abi, (unsigned)NAME(ABI));
  if (options->threads < 0 || options->threads > MAX_THREADS)
    return fail(error, STATUS_BAD_ARGUMENT, "an instance has 1 to %d threads (0: one for each core), not %d", MAX_THREADS,
                options->threads);
  if (options->affinity < NAME(AFFINITY_AUTO) || options->affinity > NAME(AFFINITY_LIST))
    return fail(error, STATUS_BAD_ARGUMENT, "there is no affinity %d", options->affinity);
  if (options->affinity != NAME(AFFINITY_LIST)) return STATUS_OK;
  if (!options->threads || !options->cpus || options->cpu_count != (uint32_t)options->threads)
    return fail(error, STATUS_BAD_ARGUMENT, "a list of cores has one core for each of the %d threads, not %u", options->threads,
                options->cpus ? options->cpu_count : 0);
#if defined(__linux__)
  for (uint32_t i = 0; i < options->cpu_count; ++i)
    if (options->cpus[i] < 0 || options->cpus[i] >= CPU_SETSIZE)
      return fail(error, STATUS_BAD_ARGUMENT, "there is no core %d", options->cpus[i]);
#endif
  return STATUS_OK;
}

/* Let each worker run on its core of the list. */
static int place_workers(const Team *team, const Options *options, Error *error) {
#if defined(__linux__)
  for (int i = 1; i < team->threads; ++i) {
    cpu_set_t core;
    CPU_ZERO(&core);
    CPU_SET(options->cpus[i], &core);
    if (pthread_setaffinity_np(team->workers[i - 1], sizeof core, &core))
      return fail(error, STATUS_BAD_ARGUMENT, "thread %d cannot run on core %d: there is no such core, or the process may not use it",
                  i, options->cpus[i]);
  }
#else
  (void)team, (void)options, (void)error;
#endif
  return STATUS_OK;
}

/* Give an instance threads of its own. */
static int add_threads(Instance *self, const Options *options, Error *error) {
  int threads = options->threads ? options->threads : count_cores();
  if (threads > MAX_THREADS) threads = MAX_THREADS;
  Team *team = make_team(threads);
  if (!team) return fail(error, STATUS_NO_MEMORY, "there is no memory for %d threads", threads);
  self->team = team;
  team->scratch = &self->scratch;
  team->anywhere = options->affinity != NAME(AFFINITY_AUTO);
  self->process = getpid();
  start_team(team);
  if (team->threads < threads)
    return fail(error, STATUS_NO_THREADS, "the system gives %d of %d threads; ask for fewer", team->threads, threads);
  return options->affinity == NAME(AFFINITY_LIST) ? place_workers(team, options, error) : STATUS_OK;
}

#if defined(SEGMENT_COUNT)
#include "sessions.h"
#endif

int NAME(create)(const Options *options, NAME(network) **made, NAME(error) *given_error) {
  Error *error = (Error *)given_error;
  const Options defaults = {.abi = NAME(ABI)};
  if (!made) return fail(error, STATUS_BAD_ARGUMENT, "the place for the network is NULL");
  *made = NULL;
  if (!options) options = &defaults;
  int status = check_options(options, error);
  if (!status) status = check_image((const Image *)IMAGE, error); /* before anything is mapped */
  if (status) return status;
  void *mapping = NULL;
  size_t mapped = 0;
#if defined(WEIGHTS_FILE)
  if ((status = map_weights(options->weights, &mapping, &mapped, error))) return status;
  const char *weights = (const char *)mapping + sizeof(WeightsHeader);
#else
  if (options->weights)
    return fail(error, STATUS_BAD_ARGUMENT, "the weights are inside of this library, but the options name a file");
  const char *weights = (const char *)WEIGHTS;
#endif
  Instance *self = NULL;
  status = open_instance((const Image *)IMAGE, KERNELS, weights, NULL, &self, error);
  if (status) {
    if (mapping) munmap(mapping, mapped);
    return status;
  }
  self->mapping = mapping, self->mapped = mapped;
  status = add_threads(self, options, error);
#if defined(SEGMENT_COUNT)
  if (!status) status = open_segments(self, options, error);
#endif
  if (status) {
    close_instance(self);
    return status;
  }
  *made = (NAME(network) *)self;
  return succeed(error);
}

void NAME(destroy)(NAME(network) *network) { close_instance((Instance *)network); }

int NAME(run)(NAME(network) *network, size_t bucket, const void *const *inputs, size_t input_count, void *const *outputs,
              size_t output_count, NAME(error) *error) {
  return run_instance((Instance *)network, bucket, inputs, input_count, outputs, output_count, (Error *)error);
}

/* ---- What the network is ---- */

uint32_t NAME(abi)(void) { return NAME(ABI); }

size_t NAME(alignment)(void) { return ((const Image *)IMAGE)->vector; }

size_t NAME(input_count)(void) { return ((const Image *)IMAGE)->inputs; }

size_t NAME(output_count)(void) { return ((const Image *)IMAGE)->outputs; }

size_t NAME(bucket_count)(void) { return ((const Image *)IMAGE)->buckets; }

static int describe(size_t bucket, size_t number, NAME(tensor) *tensor) {
  const Image *image = (const Image *)IMAGE;
  const ImageTensor *found = end_tensor(image, (uint32_t)bucket, (uint32_t)number);
  tensor->name = text_at(image, image->name_at, (uint32_t)number);
  tensor->dtype = found->code << 8 | found->bits;
  tensor->rank = found->rank;
  tensor->shape = extents_of(image, found);
  tensor->bytes = (size_t)found->bytes;
  return STATUS_OK;
}

int NAME(input)(size_t bucket, size_t number, NAME(tensor) *tensor) {
  const Image *image = (const Image *)IMAGE;
  if (!tensor || bucket >= image->buckets || number >= image->inputs) return STATUS_BAD_ARGUMENT;
  return describe(bucket, number, tensor);
}

int NAME(output)(size_t bucket, size_t number, NAME(tensor) *tensor) {
  const Image *image = (const Image *)IMAGE;
  if (!tensor || bucket >= image->buckets || number >= image->outputs) return STATUS_BAD_ARGUMENT;
  return describe(bucket, image->inputs + number, tensor);
}

int NAME(find_bucket)(const int64_t *const *shapes, size_t count, size_t *bucket) {
  const Image *image = (const Image *)IMAGE;
  if (!shapes || !bucket || count != image->inputs) return STATUS_BAD_ARGUMENT;
  for (uint32_t number = 0; number < image->buckets; ++number) {
    int same = 1;
    for (uint32_t i = 0; same && i < image->inputs; ++i) {
      const ImageTensor *tensor = end_tensor(image, number, i);
      if (tensor->rank && !shapes[i]) return STATUS_BAD_ARGUMENT;
      same = !tensor->rank || !memcmp(shapes[i], extents_of(image, tensor), tensor->rank * sizeof(int64_t));
    }
    if (!same) continue;
    *bucket = number;
    return STATUS_OK;
  }
  return STATUS_BAD_ARGUMENT;
}

/* ---- Shapes that are no bucket's ---- */

/* How many rows a padding would keep of inputs of these shapes; 0: they cannot be padded so. See Bucket.find_rows. */
static int64_t find_rows(const ImagePadding *padding, const int64_t *const *shapes) {
  const Image *image = (const Image *)IMAGE;
  const PaddedAxis *axes = PADDED_AXES + padding->axis;
  int64_t rows = 0;
  for (uint32_t i = 0; i < image->inputs; ++i) {
    const ImageTensor *tensor = end_tensor(image, padding->bucket, i);
    const int64_t *extents = extents_of(image, tensor);
    uint32_t padded = tensor->rank; /* no axis */
    for (uint32_t k = 0; k < padding->inputs; ++k)
      if (axes[k].number == i) padded = axes[k].axis;
    for (uint32_t k = 0; k < tensor->rank; ++k) {
      if (k != padded ? shapes[i][k] != extents[k] : shapes[i][k] < 1 || shapes[i][k] > extents[k]) return 0;
      if (k == padded && rows && rows != shapes[i][k]) return 0;
      if (k == padded) rows = shapes[i][k];
    }
  }
  return rows;
}

/* Find the smallest bucket that inputs of these shapes can be padded to. Returns NULL if there is none. */
static const ImagePadding *find_padding(const int64_t *const *shapes, int64_t *rows) {
  const Image *image = (const Image *)IMAGE;
  const ImagePadding *best = NULL;
  double least = 0;
  for (uint32_t i = 0; i < PADDING_COUNT; ++i) {
    const ImagePadding *padding = &PADDINGS[i];
    int64_t found = find_rows(padding, shapes);
    if (!found) continue;
    double elements = 0;
    for (uint32_t k = 0; k < image->inputs; ++k) {
      const ImageTensor *tensor = end_tensor(image, padding->bucket, k);
      elements += 8.0 * (double)tensor->bytes / tensor->bits;
    }
    if (best && elements >= least) continue;
    best = padding, least = elements, *rows = found;
  }
  return best;
}

/* The shape of a tensor of a bucket as rows of bytes: how many blocks, how many rows each, how many bytes a row. */
typedef struct {
  size_t blocks, rows, bytes;
} Rows;

static Rows divide(const ImageTensor *tensor, uint32_t axis) {
  const int64_t *extents = extents_of((const Image *)IMAGE, tensor);
  Rows found = {1, (size_t)extents[axis], tensor->bits / 8};
  for (uint32_t i = 0; i < axis; ++i) found.blocks *= (size_t)extents[i];
  for (uint32_t i = axis + 1; i < tensor->rank; ++i) found.bytes *= (size_t)extents[i];
  return found;
}

/* Copy the first rows of each block, and repeat the last one until the block is full: it is no number that a network refuses. */
static void pad_rows(char *to, const char *from, Rows full, size_t rows) {
  for (size_t block = 0; block < full.blocks; ++block) {
    memcpy(to, from, rows * full.bytes);
    from += rows * full.bytes;
    for (size_t row = rows; row < full.rows; ++row) memcpy(to + row * full.bytes, to + (rows - 1) * full.bytes, full.bytes);
    to += full.rows * full.bytes;
  }
}

static void cut_rows(char *to, const char *from, Rows full, size_t rows) {
  for (size_t block = 0; block < full.blocks; ++block, to += rows * full.bytes, from += full.rows * full.bytes)
    memcpy(to, from, rows * full.bytes);
}

/* Run a bucket on padded inputs, which are written where the instance puts memory that is not aligned. */
static int run_rows(Instance *self, const ImagePadding *padding, size_t rows, const void *const *inputs, void *const *outputs,
                    Error *error) {
  const Image *image = self->image;
  const PaddedAxis *axes = PADDED_AXES + padding->axis;
  const ImageEnd *ends = (const ImageEnd *)at(image, image->end_at) +
                         ((const ImageBucket *)at(image, image->bucket_at))[padding->bucket].end;
  for (uint32_t i = 0; i < image->inputs + image->outputs; ++i) {
    self->addresses[i] = i < image->inputs ? (void *)inputs[i] : outputs[i - image->inputs];
    if (!self->addresses[i])
      return fail(error, STATUS_BAD_ARGUMENT, "the memory of '%s' is NULL", text_at(image, image->name_at, i));
  }
  for (uint32_t k = 0; k < padding->inputs + padding->outputs; ++k) {
    uint32_t end = axes[k].number + (k < padding->inputs ? 0 : image->inputs);
    char *slot = self->arena + ends[end].slot;
    if (k < padding->inputs)
      pad_rows(slot, self->addresses[end], divide(end_tensor(image, padding->bucket, end), axes[k].axis), rows);
    self->addresses[end] = slot;
  }
  void **found = self->addresses + image->inputs;
  int status = run_bound(self, padding->bucket, (const void *const *)self->addresses, found, error);
  for (uint32_t i = 0; !status && i < image->outputs; ++i) {
    const ImageTensor *tensor = end_tensor(image, padding->bucket, image->inputs + i);
    uint32_t k = padding->inputs;
    while (k < padding->inputs + padding->outputs && axes[k].number != i) ++k;
    if (k < padding->inputs + padding->outputs)
      cut_rows(outputs[i], found[i], divide(tensor, axes[k].axis), rows);
    else if (found[i] != outputs[i])
      memcpy(outputs[i], found[i], (size_t)tensor->bytes);
  }
  return status;
}

/* Check the shapes of inputs. They may be NULL for inputs without extents. */
static int check_shapes(const int64_t *const *shapes, size_t count) {
  const Image *image = (const Image *)IMAGE;
  if (!shapes || count != image->inputs) return STATUS_BAD_ARGUMENT;
  for (uint32_t i = 0; i < image->inputs; ++i)
    if (end_tensor(image, 0, i)->rank && !shapes[i]) return STATUS_BAD_ARGUMENT;
  return STATUS_OK;
}

int NAME(run_shapes)(NAME(network) *network, const int64_t *const *shapes, const void *const *inputs, size_t input_count,
                     void *const *outputs, size_t output_count, NAME(error) *given_error) {
  Error *error = (Error *)given_error;
  Instance *self = (Instance *)network;
  size_t bucket;
  int64_t rows = 0;
  int status = check_run(self, 0, inputs, input_count, outputs, output_count, error);
  if (status) return status;
  if (check_shapes(shapes, input_count)) return fail(error, STATUS_BAD_ARGUMENT, "a run by shapes needs the shape of each input");
  if (!NAME(find_bucket)(shapes, input_count, &bucket))
    return run_instance(self, bucket, inputs, input_count, outputs, output_count, error);
  const ImagePadding *padding = find_padding(shapes, &rows);
  if (!padding)
    return fail(error, STATUS_BAD_ARGUMENT, "the network has no bucket for inputs of these shapes, and they cannot be padded to one");
  pthread_mutex_lock(&self->lock);
  Use use = begin_use(self);
  status = run_rows(self, padding, (size_t)rows, inputs, outputs, error);
  end_use(use);
  pthread_mutex_unlock(&self->lock);
  return status;
}

int NAME(output_shape)(const int64_t *const *shapes, size_t count, size_t number, int64_t *shape, size_t *bytes) {
  const Image *image = (const Image *)IMAGE;
  size_t bucket;
  int64_t rows = 0;
  if (check_shapes(shapes, count) || number >= image->outputs || !shape) return STATUS_BAD_ARGUMENT;
  const ImagePadding *padding = NULL;
  if (NAME(find_bucket)(shapes, count, &bucket)) {
    if (!(padding = find_padding(shapes, &rows))) return STATUS_BAD_ARGUMENT;
    bucket = padding->bucket;
  }
  const ImageTensor *tensor = end_tensor(image, (uint32_t)bucket, image->inputs + (uint32_t)number);
  memcpy(shape, extents_of(image, tensor), tensor->rank * sizeof *shape);
  for (uint32_t k = padding ? padding->inputs : 0; padding && k < padding->inputs + padding->outputs; ++k)
    if (PADDED_AXES[padding->axis + k].number == number) shape[PADDED_AXES[padding->axis + k].axis] = rows;
  if (bytes) {
    *bytes = tensor->bits / 8;
    for (uint32_t i = 0; i < tensor->rank; ++i) *bytes *= (size_t)shape[i];
  }
  return STATUS_OK;
}

const char *NAME(status_text)(int status) {
  switch (status) {
    case STATUS_OK: return "success";
    case STATUS_BAD_ARGUMENT: return "an argument is wrong";
    case STATUS_WRONG_ABI: return "the caller was compiled for another version of the interface";
    case STATUS_WRONG_PROCESSOR: return "the processor lacks instructions";
    case STATUS_NO_WEIGHTS: return "the file of weights is missing or is another one";
    case STATUS_NO_MEMORY: return "there is not enough memory";
    case STATUS_NO_THREADS: return "the system refuses threads";
    case STATUS_KERNEL_FAILED: return "a kernel failed";
    case STATUS_NO_ONNXRUNTIME: return "ONNX Runtime is too old, or refuses a part of the network";
    case STATUS_SEGMENT_FAILED: return "ONNX Runtime failed to run a part of the network";
    default: return "no status of this library";
  }
}
