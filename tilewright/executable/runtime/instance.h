/* Instances of a network: each has an arena, and calls that are bound to it. Only runtime.c includes this file.
 *
 * An instance of a C library also owns its threads, its scratch memory and the mapping of its weights. An instance of the
 * Python loader uses the pool that executables share, and the loader's memory. Nothing here is global. */

#include <stdarg.h>

typedef enum {
  STATUS_OK,
  STATUS_BAD_ARGUMENT,
  STATUS_WRONG_ABI,
  STATUS_WRONG_PROCESSOR,
  STATUS_NO_WEIGHTS,
  STATUS_NO_MEMORY,
  STATUS_NO_THREADS,
  STATUS_KERNEL_FAILED,
  STATUS_NO_ONNXRUNTIME,
  STATUS_SEGMENT_FAILED,
} Status;

/* `Error` of the header of a C library, and of instances.py. */
typedef struct {
  int32_t status;
  char message[508];
} Error;

/* A tensor as DLPack defines it. */
typedef struct {
  void *data;
  int32_t device_type, device_id;
  int32_t ndim;
  uint8_t code, bits;
  uint16_t lanes;
  const int64_t *shape, *strides;
  uint64_t byte_offset;
} DLTensor;

#if defined(SEGMENT_COUNT)
#include "segments.h" /* needs DLTensor */
#endif

/* What holds the address of a caller's tensor. */
typedef struct {
  void **slot;
  uint32_t number, unused;
  uint64_t place;
} Given;

typedef struct {
  DLTensor *tensors;
  Argument *arguments;
  Call *calls;
  Given *given;
  uint32_t count; /* of `given` */
  int32_t call_count;
} Bound;

typedef struct {
  Scratch scratch; /* first, since it is aligned to cache lines */
  const Image *image;
  const char *weights;
  char *arena;
  void *own_arena; /* NULL: the caller's */
  void *mapping;   /* the file of weights; NULL: there is none */
  size_t mapped;
  Team *team; /* NULL: loops run on the shared pool, and the caller runs one call at a time */
  pid_t process; /* that made the instance, with its threads */
  pthread_mutex_t lock;
  void **addresses; /* of the caller's tensors in a run */
#if defined(SEGMENT_COUNT)
  Segments segments;
#endif
  Bound bound[];    /* one for each bucket */
} Instance;

/* Write an error, if there is a place for it. Returns its status. */
static int fail(Error *error, Status status, const char *format, ...) {
  if (error) {
    error->status = status;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
  }
  return status;
}

static int succeed(Error *error) {
  if (error) error->status = STATUS_OK, error->message[0] = 0;
  return STATUS_OK;
}

#define TENSOR_TYPE 7 /* the type code of tensors in tvm-ffi */
#define CPU_DEVICE 1  /* the device type of the processor's memory in DLPack */

/* The address of a tensor; NULL if it is the caller's. */
static void *place_tensor(const Instance *self, const ImageTensor *tensor) {
  if (tensor->region == IN_ARENA) return self->arena + tensor->place;
  if (tensor->region == IN_WEIGHTS) return (char *)self->weights + tensor->place; /* kernels only read it */
  return NULL;
}

static void note_given(Bound *bound, const ImageTensor *tensor, void **slot) {
  if (tensor->region < 0) return;
  Given given = {slot, (uint32_t)tensor->region, 0, tensor->place};
  bound->given[bound->count++] = given;
}

/* Make the calls of a bucket on the memory of an instance. Returns 0; -1: there is no memory. */
static int bind_bucket(Instance *self, const Kernel *kernels, uint32_t number) {
  const Image *image = self->image;
  const ImageBucket *bucket = (const ImageBucket *)at(image, image->bucket_at) + number;
  const ImageTensor *tensors = (const ImageTensor *)at(image, image->tensor_at) + bucket->tensor;
  const ImageCall *calls = (const ImageCall *)at(image, image->call_at) + bucket->call;
  const uint32_t *operands = at(image, image->operand_at);
  Bound *bound = &self->bound[number];
  size_t most = (size_t)bucket->operands + bucket->calls; /* copies and segments have one argument more than operands */
  bound->tensors = calloc((size_t)bucket->tensors + 1, sizeof *bound->tensors);
  bound->arguments = calloc(most + 1, sizeof *bound->arguments);
  bound->calls = calloc((size_t)bucket->calls + 1, sizeof *bound->calls);
  bound->given = calloc(bucket->tensors + most + 1, sizeof *bound->given);
  if (!bound->tensors || !bound->arguments || !bound->calls || !bound->given) return -1;
  bound->call_count = (int32_t)bucket->calls;
  for (uint32_t i = 0; i < bucket->tensors; ++i) {
    const ImageTensor *tensor = &tensors[i];
    const int64_t *extents = extents_of(image, tensor);
    DLTensor made = {place_tensor(self, tensor), CPU_DEVICE, 0, tensor->rank, tensor->code, tensor->bits, 1,
                     extents, extents + tensor->rank, 0};
    bound->tensors[i] = made;
    note_given(bound, tensor, &bound->tensors[i].data);
  }
  Argument *next = bound->arguments;
  for (uint32_t i = 0; i < bucket->calls; ++i) {
    Call *call = &bound->calls[i];
    call->arguments = next;
    for (uint32_t k = 0; k < calls[i].operands; ++k, ++next) {
      uint32_t operand = operands[calls[i].operand + k];
      int copies = calls[i].kernel == COPY;
      next->type_index = copies ? 0 : TENSOR_TYPE;
      next->value = copies ? place_tensor(self, &tensors[operand]) : &bound->tensors[operand];
      if (copies) note_given(bound, &tensors[operand], &next->value);
    }
    if (calls[i].kernel >= 0)
      call->kernel = kernels[calls[i].kernel];
#if defined(SEGMENT_COUNT)
    else if (calls[i].kernel <= FIRST_SEGMENT) {
      call->kernel = run_segment;
      next->value = add_segment_call(&self->segments, (uint32_t)(FIRST_SEGMENT - calls[i].kernel), calls[i].operands);
      if (!(next++)->value) return -1;
    }
#endif
    else
      (next++)->value = (void *)(uintptr_t)tensors[operands[calls[i].operand + 1]].bytes;
    call->count = (int32_t)(next - call->arguments);
  }
  return 0;
}

static void close_instance(Instance *self) {
  if (!self) return;
#if defined(SEGMENT_COUNT)
  close_segments(&self->segments, self->process == getpid());
#endif
#if defined(TILEWRIGHT_LIBRARY)
  /* The child of a fork has none of the threads, and would wait for them forever. */
  if (self->team && self->process != getpid()) {
    free_team(self->team);
    for (unsigned i = 0; i < SHELVES; ++i) give_shelf(&self->scratch.shelves[i]);
  } else if (self->team) {
    end_team(self->team);
  }
#endif
  for (uint32_t i = 0; i < self->image->buckets; ++i) {
    free(self->bound[i].tensors);
    free(self->bound[i].arguments);
    free(self->bound[i].calls);
    free(self->bound[i].given);
  }
  trim_in(&self->scratch);
  free(self->addresses);
  free(self->own_arena);
#if defined(TILEWRIGHT_LIBRARY)
  if (self->mapping) munmap(self->mapping, self->mapped);
#endif
  pthread_mutex_destroy(&self->lock);
  free(self);
}

/* Check an image, and that this processor runs its kernels. */
static int check_image(const Image *image, Error *error) {
  if (memcmp(image->magic, IMAGE_MAGIC, sizeof image->magic) || image->version != IMAGE_VERSION)
    return fail(error, STATUS_WRONG_ABI, "the runtime reads images of version %d, but this is another one", IMAGE_VERSION);
  char missing[256] = "";
  size_t used = 0;
  for (uint32_t i = 0; i < image->features; ++i) {
    const char *name = text_at(image, image->feature_at, i);
    if (tilewright_cpu_has(name) == 1 || used >= sizeof missing) continue;
    used += (size_t)snprintf(missing + used, sizeof missing - used, "%s%s", used ? ", " : "", name);
  }
  if (used)
    return fail(error, STATUS_WRONG_PROCESSOR,
                "the kernels need a processor with %s, but this one has no such instructions; tune for this processor", missing);
  return STATUS_OK;
}

#define HUGE_PAGE ((size_t)2 << 20)

/* Memory in huge pages if it is large: with 4 KiB pages a large network waits for address translation. NULL: there is none. */
static void *allocate_arena(size_t bytes) {
  void *memory = NULL;
  int large = bytes >= 2 * HUGE_PAGE;
  if (posix_memalign(&memory, large ? HUGE_PAGE : CACHE_LINE, bytes + CACHE_LINE)) return NULL;
#if defined(MADV_HUGEPAGE)
  if (large) madvise(memory, bytes, MADV_HUGEPAGE); /* a refusal costs speed only */
#endif
  return memory;
}

/* Make an instance without threads.
 *
 * image: the network. It must live as long as the instance, as must kernels, weights and arena.
 * kernels: its kernels in the order of their numbers.
 * weights: aligned to cache lines.
 * arena: memory of `image->arena` bytes, aligned to cache lines; NULL: the instance has its own. */
static int open_instance(const Image *image, const Kernel *kernels, const void *weights, void *arena, Instance **made,
                         Error *error) {
  *made = NULL;
  int status = check_image(image, error);
  if (status) return status;
  void *memory = NULL;
  size_t size = sizeof(Instance) + image->buckets * sizeof(Bound);
  if (posix_memalign(&memory, CACHE_LINE, size)) return fail(error, STATUS_NO_MEMORY, "there is no memory for an instance");
  Instance *self = memset(memory, 0, size);
  self->image = image;
  self->weights = weights;
  self->arena = arena;
  pthread_mutex_init(&self->lock, NULL);
  self->addresses = calloc((size_t)image->inputs + image->outputs + 1, sizeof *self->addresses);
  int enough = self->addresses != NULL;
  if (enough && !arena) {
    self->arena = self->own_arena = allocate_arena((size_t)image->arena);
    enough = self->arena != NULL;
  }
  for (uint32_t i = 0; enough && i < image->buckets; ++i) enough = !bind_bucket(self, kernels, i);
  if (!enough) {
    close_instance(self);
    return fail(error, STATUS_NO_MEMORY, "an instance needs %llu bytes of memory, which the system does not give",
                (unsigned long long)image->arena);
  }
  *made = self;
  return succeed(error);
}

/* Find where a run computes each of the caller's tensors. Inputs that are not aligned are copied. */
static int place_ends(Instance *self, uint32_t bucket, const void *const *inputs, void *const *outputs, Error *error) {
  const Image *image = self->image;
  const ImageEnd *ends = (const ImageEnd *)at(image, image->end_at) +
                         ((const ImageBucket *)at(image, image->bucket_at) + bucket)->end;
  for (uint32_t i = 0; i < image->inputs + image->outputs; ++i) {
    const ImageTensor *tensor = end_tensor(image, bucket, i);
    void *given = i < image->inputs ? (void *)inputs[i] : outputs[i - image->inputs]; /* kernels only read inputs */
    if (!given && tensor->bytes)
      return fail(error, STATUS_BAD_ARGUMENT, "the memory of %s '%s' is NULL", i < image->inputs ? "input" : "output",
                  text_at(image, image->name_at, i));
    if ((uintptr_t)given % image->vector) {
      void *slot = self->arena + ends[i].slot;
      if (i < image->inputs) memcpy(slot, given, tensor->bytes);
      given = slot;
    }
    self->addresses[i] = given;
  }
  return STATUS_OK;
}

/* Run the calls of a bucket. The caller holds the instance's lock, or is the only one that calls. */
static int run_bound(Instance *self, uint32_t bucket, const void *const *inputs, void *const *outputs, Error *error) {
  const Image *image = self->image;
  Bound *bound = &self->bound[bucket];
  int status = place_ends(self, bucket, inputs, outputs, error);
  if (status) return status;
  for (uint32_t i = 0; i < bound->count; ++i)
    *bound->given[i].slot = (char *)self->addresses[bound->given[i].number] + bound->given[i].place;
  last_error[0] = 0;
  int failed = tilewright_run(bound->calls, bound->call_count);
#if defined(SEGMENT_COUNT)
  if (failed >= 0 && bound->calls[failed].kernel == run_segment)
    return fail(error, STATUS_SEGMENT_FAILED,
                "a part of the network that ONNX Runtime runs failed: %s; give inputs that the model accepts in ONNX Runtime, "
                "such as indices inside of their axes", last_error);
#endif
  if (failed >= 0)
    return fail(error, STATUS_KERNEL_FAILED, "call %d failed: %s", failed, *last_error ? last_error : "it does not say why");
  for (uint32_t i = 0; i < image->outputs; ++i) {
    const void *found = self->addresses[image->inputs + i];
    if (found != outputs[i]) memcpy(outputs[i], found, end_tensor(image, bucket, image->inputs + i)->bytes);
  }
  return succeed(error);
}

/* Check the arguments of a run. */
static int check_run(const Instance *self, size_t bucket, const void *const *inputs, size_t input_count, void *const *outputs,
                     size_t output_count, Error *error) {
  if (!self) return fail(error, STATUS_BAD_ARGUMENT, "a run needs a network, but the pointer is NULL");
  const Image *image = self->image;
  if (bucket >= image->buckets)
    return fail(error, STATUS_BAD_ARGUMENT, "the network has %u buckets, but bucket %llu was named", image->buckets,
                (unsigned long long)bucket);
  if (input_count != image->inputs || output_count != image->outputs)
    return fail(error, STATUS_BAD_ARGUMENT, "the network has %u inputs and %u outputs, but %llu and %llu were given",
                image->inputs, image->outputs, (unsigned long long)input_count, (unsigned long long)output_count);
  if ((!inputs && input_count) || (!outputs && output_count))
    return fail(error, STATUS_BAD_ARGUMENT, "the list of %s is NULL", !inputs && input_count ? "inputs" : "outputs");
  return STATUS_OK;
}

/* What the calling thread used before it runs an instance that has threads of its own. */
typedef struct {
  Team *team;
  Scratch *scratch;
  unsigned shelf;
} Use;

static Use begin_use(Instance *self) {
  Use before = {own_team, own_scratch, own_shelf};
  own_team = self->team, own_scratch = &self->scratch, own_shelf = 1;
  return before;
}

static void end_use(Use before) { own_team = before.team, own_scratch = before.scratch, own_shelf = before.shelf; }

/* Compute the network once on the caller's memory. Memory at a multiple of `image->vector` is used where it is. */
static int run_instance(Instance *self, size_t bucket, const void *const *inputs, size_t input_count, void *const *outputs,
                        size_t output_count, Error *error) {
  int wrong = check_run(self, bucket, inputs, input_count, outputs, output_count, error);
  if (wrong) return wrong;
  if (!self->team) return run_bound(self, (uint32_t)bucket, inputs, outputs, error);
  pthread_mutex_lock(&self->lock);
  Use use = begin_use(self);
  int status = run_bound(self, (uint32_t)bucket, inputs, outputs, error);
  end_use(use);
  pthread_mutex_unlock(&self->lock);
  return status;
}

#if !defined(TILEWRIGHT_LIBRARY)
/* ---- What the Python loader calls (instances.py). Loops run on the pool that executables share. ---- */

EXPORT int tilewright_open(const void *image, const Kernel *kernels, const void *weights, void *arena, Instance **made,
                           Error *error) {
  return open_instance(image, kernels, weights, arena, made, error);
}

EXPORT int tilewright_call(Instance *self, size_t bucket, const void *const *inputs, size_t input_count,
                           void *const *outputs, size_t output_count, Error *error) {
  return run_instance(self, bucket, inputs, input_count, outputs, output_count, error);
}

EXPORT void tilewright_close(Instance *self) { close_instance(self); }
#endif
