/* Makes the sessions of an instance: one for each segment. library.h includes this file, if there are segments. */

/* Find the API of ONNX Runtime. */
static int find_api(Segments *segments, Error *error) {
  const OrtApiBase *base = find_base(IMAGE);
  if (!base)
    return fail(error, STATUS_NO_ONNXRUNTIME, "the library libonnxruntime that is loaded has no OrtGetApiBase; install "
                "ONNX Runtime 1.%d or later", SEGMENT_RELEASE);
  const char *version = base->GetVersionString();
  unsigned major = 0, minor = 0;
  if (sscanf(version, "%u.%u", &major, &minor) == 2 && major == 1 && minor < SEGMENT_RELEASE)
    return fail(error, STATUS_NO_ONNXRUNTIME, "parts of the network need ONNX Runtime 1.%d or later, but the loaded one is %.40s; "
                "install a later one", SEGMENT_RELEASE, version);
  segments->api = base->GetApi(SEGMENT_RELEASE);
  return segments->api ? STATUS_OK
                       : fail(error, STATUS_NO_ONNXRUNTIME, "parts of the network need version %d of ONNX Runtime's "
                                   "interface for C, which ONNX Runtime %.40s lacks; install 1.%d or later",
                                   SEGMENT_RELEASE, version, SEGMENT_RELEASE);
}

/* Set the threads of a session: as many as the instance has, the caller's among them. */
static OrtStatus *set_threads(const OrtApi *api, OrtSessionOptions *set, int threads, const Options *options) {
  OrtStatus *status = api->SetIntraOpNumThreads(set, threads);
  if (status || options->affinity != NAME(AFFINITY_LIST) || threads < 2) return status;
  char cores[MAX_THREADS * 8];
  size_t used = 0;
  cores[0] = 0;
  for (int i = 1; i < threads && used < sizeof cores; ++i) /* ONNX Runtime counts cores from 1 */
    used += (size_t)snprintf(cores + used, sizeof cores - used, "%s%d", i > 1 ? ";" : "", options->cpus[i] + 1);
  return api->AddSessionConfigEntry(set, "session.intra_op_thread_affinities", cores);
}

/* Set what sessions have in common with those of executables in Python: see open_session() in segment.py. */
static OrtStatus *set_session(const OrtApi *api, OrtSessionOptions *set, const SegmentModel *model) {
  OrtStatus *status = api->SetSessionLogSeverityLevel(set, ORT_LOGGING_LEVEL_FATAL);
  if (!status) status = api->AddSessionConfigEntry(set, "session.intra_op.allow_spinning", model->alone ? "1" : "0");
  return status;
}

/* Make the session of a segment. */
static int open_session(Segments *segments, uint32_t number, int threads, const Options *options, Error *error) {
  const OrtApi *api = segments->api;
  const SegmentModel *model = &segment_models[number];
  OrtSessionOptions *set = NULL;
  char text[400] = "";
  int right = succeeded(api, api->CreateSessionOptions(&set), text, sizeof text) &&
              succeeded(api, set_threads(api, set, threads, options), text, sizeof text) &&
              succeeded(api, set_session(api, set, model), text, sizeof text) &&
              succeeded(api, api->CreateSessionFromArray(segments->environment, model->model, model->bytes, set,
                                                         &segments->sessions[number]), text, sizeof text);
  if (set) api->ReleaseSessionOptions(set);
  return right ? STATUS_OK
               : fail(error, STATUS_NO_ONNXRUNTIME, "ONNX Runtime cannot load segment %u of the network: %s; tune and "
                           "export again with this release", number, text);
}

/* Make the sessions of an instance that has its threads. */
static int open_segments(Instance *self, const Options *options, Error *error) {
  Segments *segments = &self->segments;
  char text[400] = "";
  int status = find_api(segments, error);
  if (status) return status;
  const OrtApi *api = segments->api;
  if (!succeeded(api, api->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "tilewright", &segments->environment), text, sizeof text) ||
      !succeeded(api, api->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &segments->memory), text, sizeof text))
    return fail(error, STATUS_NO_ONNXRUNTIME, "ONNX Runtime does not start: %s", text);
  sigset_t before;
  block_signals(&before); /* its threads inherit the mask: the process's own threads take signals */
  for (uint32_t i = 0; !status && i < SEGMENT_COUNT; ++i)
    status = open_session(segments, i, self->team->threads, options, error);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  for (SegmentCall *call = segments->calls; !status && call; call = call->next) {
    call->api = api, call->memory = segments->memory;
    call->session = segments->sessions[call->number];
  }
  return status;
}
