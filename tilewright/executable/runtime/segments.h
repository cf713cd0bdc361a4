/* The segments of a C library: parts of the network that ONNX Runtime computes, by its C API. Only runtime.c includes this
 * file, and only if the source file of the library defines SEGMENT_COUNT, with:
 *
 *   SEGMENT_COUNT     how many segments there are; their SegmentModels are the array `segment_models`
 *   SEGMENT_RELEASE   the oldest release of ONNX Runtime that runs them: its minor version, and that of its API
 *
 * An instance has one session for each segment. A segment is called like a kernel, and computes on the memory of the
 * instance and of its caller: an OrtValue lies over each of its tensors, so nothing is copied. */

#include <onnxruntime_c_api.h>

typedef struct {
  const char *model; /* in the format of ONNX's files, with its weights */
  size_t bytes;
  uint32_t inputs, outputs;
  const char *const *names; /* of its inputs, then of its outputs */
  int alone; /* whether no kernel runs beside it, so that its threads may wait for work without sleeping */
} SegmentModel;

static const SegmentModel segment_models[SEGMENT_COUNT];

/* A call of a segment in a bucket. */
typedef struct SegmentCall {
  struct SegmentCall *next; /* of the same instance */
  const OrtApi *api;
  OrtSession *session; /* of the instance */
  OrtMemoryInfo *memory; /* of the instance */
  uint32_t number;
  uint32_t count;    /* of its tensors */
  OrtValue **values; /* over its tensors; NULL: there is none yet */
  void **places;     /* where they lie */
} SegmentCall;

/* What an instance has of ONNX Runtime. */
typedef struct {
  const OrtApi *api;
  OrtEnv *environment; /* which ONNX Runtime shares among all its users in the process */
  OrtMemoryInfo *memory;
  OrtSession *sessions[SEGMENT_COUNT];
  SegmentCall *calls;
} Segments;

/* Whether ONNX Runtime succeeded. Otherwise its message is written to `text`. */
static int succeeded(const OrtApi *api, OrtStatus *status, char *text, size_t size) {
  if (!status) return 1;
  snprintf(text, size, "%s", api->GetErrorMessage(status));
  text[strcspn(text, "\r\n")] = 0;
  api->ReleaseStatus(status);
  return 0;
}

/* The type of ONNX Runtime for a dtype of DLPack. */
static ONNXTensorElementDataType element_type(const DLTensor *tensor) {
  switch (tensor->code << 8 | tensor->bits) {
    case 0x008: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
    case 0x010: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16;
    case 0x020: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
    case 0x040: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
    case 0x108: return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
    case 0x110: return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16;
    case 0x120: return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32;
    case 0x140: return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64;
    case 0x210: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    case 0x220: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    case 0x240: return ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE;
    case 0x608: return ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL;
    default: return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED; /* which ONNX Runtime refuses */
  }
}

/* Lay an OrtValue over a tensor, unless it lies there already: only tensors of the caller move from run to run. */
static OrtStatus *lay_value(SegmentCall *call, uint32_t number, const DLTensor *tensor) {
  static char nothing; /* where tensors without elements lie, if they lie nowhere */
  void *place = tensor->data ? tensor->data : &nothing;
  if (call->values[number] && call->places[number] == place) return NULL;
  if (call->values[number]) call->api->ReleaseValue(call->values[number]);
  call->values[number] = NULL;
  size_t bytes = tensor->bits / 8;
  for (int32_t i = 0; i < tensor->ndim; ++i) bytes *= (size_t)tensor->shape[i];
  call->places[number] = place;
  return call->api->CreateTensorWithDataAsOrtValue(call->memory, place, bytes, tensor->shape, (size_t)tensor->ndim,
                                                   element_type(tensor), &call->values[number]);
}

/* The function of a segment's calls. Its arguments are tensors, and then the SegmentCall. */
static int run_segment(void *self, const Argument *arguments, int32_t count, Argument *result) {
  (void)self, (void)result;
  SegmentCall *call = arguments[count - 1].value;
  const SegmentModel *model = &segment_models[call->number];
  char text[400];
  const char *said = text;
  for (uint32_t i = 0; i < call->count; ++i) {
    if (succeeded(call->api, lay_value(call, i, arguments[i].value), text, sizeof text)) continue;
    set_error("ONNX Runtime", &said, 1);
    return 1;
  }
  OrtStatus *status = call->api->Run(call->session, NULL, model->names, (const OrtValue *const *)call->values, model->inputs,
                                     model->names + model->inputs, model->outputs, call->values + model->inputs);
  if (succeeded(call->api, status, text, sizeof text)) return 0;
  set_error("ONNX Runtime", &said, 1);
  return 1;
}

/* Make a call of segment `number` on `count` tensors. Returns NULL if there is no memory. */
static SegmentCall *add_segment_call(Segments *segments, uint32_t number, uint32_t count) {
  SegmentCall *call = calloc(1, sizeof *call);
  if (!call) return NULL;
  call->number = number, call->count = count;
  call->values = calloc((size_t)count + 1, sizeof *call->values);
  call->places = calloc((size_t)count + 1, sizeof *call->places);
  call->next = segments->calls, segments->calls = call; /* close_segments() frees it */
  return call->values && call->places ? call : NULL;
}

/* End the sessions. `here`: whether this process made them; the child of a fork lacks their threads, and leaves them. */
static void close_segments(Segments *segments, int here) {
  const OrtApi *api = here ? segments->api : NULL;
  while (segments->calls) {
    SegmentCall *call = segments->calls;
    for (uint32_t i = 0; api && call->values && i < call->count; ++i)
      if (call->values[i]) api->ReleaseValue(call->values[i]);
    segments->calls = call->next;
    free(call->values);
    free(call->places);
    free(call);
  }
  if (!api) return;
  for (uint32_t i = 0; i < SEGMENT_COUNT; ++i)
    if (segments->sessions[i]) api->ReleaseSession(segments->sessions[i]);
  if (segments->memory) api->ReleaseMemoryInfo(segments->memory);
  if (segments->environment) api->ReleaseEnv(segments->environment);
}

/* Find ONNX Runtime's entry point in the library that this one is linked with.
 *
 * Its name has the version of a release, as in OrtGetApiBase@VERS_1.32.0. A reference to that name would bind this library
 * to one release. Looked up by its name alone, any release with the same soname serves. */
static const OrtApiBase *find_base(const void *here) {
  Dl_info found;
  if (!dladdr(here, &found) || !found.dli_fname) return NULL;
  void *self = dlopen(found.dli_fname, RTLD_LAZY | RTLD_NOLOAD); /* its handle also finds what it is linked with */
  if (!self) return NULL;
  const OrtApiBase *(*entry)(void) = NULL;
  *(void **)&entry = dlsym(self, "OrtGetApiBase");
  dlclose(self);
  return entry ? entry() : NULL;
}
