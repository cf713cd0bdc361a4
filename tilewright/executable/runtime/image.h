/* The image of a network: its plans as constant data, without pointers. Only runtime.c includes this file.
 *
 * image.py writes it. The loader makes one in memory; a C library holds one among its constants. Tables lie one after the
 * other behind the header. `..._at` are the offsets of tables in bytes from the beginning of the image. */

#define IMAGE_MAGIC "TWIMAGE"
#define IMAGE_VERSION 1

/* What a call is if it is no kernel's: a copy, or a segment's. Segment 0 is FIRST_SEGMENT, and segment 1 is one less. */
enum { COPY = -1, FIRST_SEGMENT = -2 };

/* Regions of a tensor; 0, 1, ...: a tensor of the caller, inputs first. */
enum { IN_ARENA = -1, IN_WEIGHTS = -2 };

typedef struct {
  char magic[8];
  uint32_t version, bytes;              /* IMAGE_VERSION; the size of the image */
  uint32_t inputs, outputs;             /* how many the network has */
  uint32_t buckets, kernels, features;  /* how many there are */
  uint32_t vector;                      /* bytes that a tensor's address is a multiple of */
  uint32_t bucket_at, tensor_at, extent_at, call_at, operand_at, end_at;
  uint32_t name_at;    /* uint32_t: offsets of the names of inputs, then of outputs */
  uint32_t feature_at; /* uint32_t: offsets of the names of processor extensions that kernels need */
  uint64_t arena;      /* bytes of memory that an instance computes in */
  uint64_t weights;    /* bytes of the weights */
  uint8_t identity[16]; /* of the weights: the beginning of their SHA-256 */
} Image;

typedef struct {
  uint32_t tensor, tensors; /* the first of its tensors, and how many it has */
  uint32_t call, calls;
  uint32_t end; /* the first of its inputs, which its outputs follow */
  uint32_t operands; /* how many operands all its calls have */
} ImageBucket;

typedef struct {
  int32_t region;
  uint8_t code, bits; /* of the dtype, by DLPack */
  uint16_t rank;
  uint32_t extent, unused; /* the first of its extents, which its strides in elements follow */
  uint64_t place, bytes;   /* where it begins in its region, and its size */
} ImageTensor;

typedef struct {
  uint32_t tensor, unused; /* among the tensors of the bucket */
  uint64_t slot;           /* where in the arena it is copied if the caller's memory is not aligned */
} ImageEnd;

typedef struct {
  int32_t kernel;             /* COPY: of its second operand to its first one; FIRST_SEGMENT and less: a segment */
  uint32_t operand, operands; /* the first of its operands, and how many it has; tensors of the bucket */
  uint32_t unused;
} ImageCall;

/* How smaller inputs may be padded to a bucket. These tables are not in the image: only a C library has them. */
typedef struct {
  uint32_t bucket;
  uint32_t axis, inputs, outputs; /* the first of its axes; how many of inputs, and then of outputs, there are */
} ImagePadding;

typedef struct {
  uint32_t number, axis; /* of an input or output, and the axis along which it is padded or cut */
} PaddedAxis;

/* What precedes the weights in a file of their own. */
typedef struct {
  char magic[8]; /* WEIGHTS_MAGIC */
  uint64_t bytes;
  uint8_t identity[16];
  uint8_t unused[32];
} WeightsHeader;

#define WEIGHTS_MAGIC "TWWEIGHT"

static const void *at(const Image *image, uint32_t offset) { return (const char *)image + offset; }

static const char *text_at(const Image *image, uint32_t table, uint32_t number) {
  return at(image, ((const uint32_t *)at(image, table))[number]);
}

/* The description of an input, or of an output (`number` counts from the first input), of a bucket. */
static const ImageTensor *end_tensor(const Image *image, uint32_t bucket, uint32_t number) {
  const ImageBucket *found = (const ImageBucket *)at(image, image->bucket_at) + bucket;
  const ImageEnd *end = (const ImageEnd *)at(image, image->end_at) + found->end + number;
  return (const ImageTensor *)at(image, image->tensor_at) + found->tensor + end->tensor;
}

static const int64_t *extents_of(const Image *image, const ImageTensor *tensor) {
  return (const int64_t *)at(image, image->extent_at) + tensor->extent;
}
