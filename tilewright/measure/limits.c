/* What the processor's cores reach together: multiply-adds on registers, a matrix product, bytes read and written.
 *
 * Each kernel exists for several instruction sets, whatever this file is compiled for; the caller asks which of them the
 * processor has. All threads run rounds of half a millisecond side by side. A round's result is the sum of the threads'
 * speeds, and the result is that of the best round: another program delays some rounds, but hardly all.
 */
#if defined(__linux__)
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cores.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

#define EXPORT __attribute__((visibility("default")))
#define MAX_THREADS 256
#define ROUND_SECONDS 5e-4
/* Depth of the matrix product, and how many panels of rows and of columns each thread multiplies: 0.3 to 0.5 MB. */
#define DEPTH 192
#define ROW_PANELS 12
#define COLUMN_PANELS 8
#define LINE 64

typedef struct {
  long steps;   /* of a round */
  float *a, *b, *c;
  size_t count; /* floats in each of a, b and c */
} Work;

#define UNROLL _Pragma("GCC unroll 32")

/* KERNELS(name, attributes, floats in a vector, chains of multiply-adds, rows and vectors of a tile of the product) */
#define KERNELS(NAME, TARGET, LANES, CHAINS, ROWS, VECTORS)                                                           \
  typedef float NAME##_v __attribute__((vector_size(4 * LANES)));                                                     \
  typedef float NAME##_u __attribute__((vector_size(4 * LANES), aligned(4), may_alias));                              \
                                                                                                                      \
  TARGET static void NAME##_fma(Work *w) {                                                                            \
    NAME##_v sums[CHAINS], x = {0}, y = {0}, total = {0};                                                             \
    x += w->a[0], y += w->b[0];                                                                                       \
    UNROLL for (int i = 0; i < CHAINS; ++i) sums[i] = y * (float)(i + 1);                                             \
    for (long s = 0; s < w->steps; ++s) {                                                                             \
      UNROLL for (int i = 0; i < CHAINS; ++i) sums[i] = sums[i] * x + y;                                              \
    }                                                                                                                 \
    UNROLL for (int i = 0; i < CHAINS; ++i) total += sums[i];                                                         \
    *(NAME##_u *)w->c = total;                                                                                        \
  }                                                                                                                   \
                                                                                                                      \
  TARGET static void NAME##_tile(const float *a, const float *b, float *c) {                                          \
    NAME##_v sums[ROWS][VECTORS];                                                                                     \
    UNROLL for (int r = 0; r < ROWS; ++r) {                                                                           \
      UNROLL for (int v = 0; v < VECTORS; ++v) sums[r][v] = (NAME##_v){0};                                            \
    }                                                                                                                 \
    for (int k = 0; k < DEPTH; ++k, a += ROWS, b += VECTORS * LANES) {                                                \
      NAME##_v right[VECTORS];                                                                                        \
      UNROLL for (int v = 0; v < VECTORS; ++v) right[v] = *(const NAME##_u *)(b + v * LANES);                         \
      UNROLL for (int r = 0; r < ROWS; ++r) {                                                                         \
        UNROLL for (int v = 0; v < VECTORS; ++v) sums[r][v] += a[r] * right[v];                                       \
      }                                                                                                               \
    }                                                                                                                 \
    UNROLL for (int r = 0; r < ROWS; ++r) {                                                                           \
      UNROLL for (int v = 0; v < VECTORS; ++v) *(NAME##_u *)(c + (r * VECTORS + v) * LANES) = sums[r][v];             \
    }                                                                                                                 \
  }                                                                                                                   \
                                                                                                                      \
  static void NAME##_product(Work *w) {                                                                               \
    const long left = DEPTH * ROWS, right = DEPTH * VECTORS * LANES, tile = ROWS * VECTORS * LANES;                   \
    for (long s = 0; s < w->steps; ++s) {                                                                             \
      for (int j = 0; j < COLUMN_PANELS; ++j) {                                                                       \
        for (int i = 0; i < ROW_PANELS; ++i)                                                                          \
          NAME##_tile(w->a + i * left, w->b + j * right, w->c + (j * ROW_PANELS + i) * tile);                         \
      }                                                                                                               \
    }                                                                                                                 \
  }                                                                                                                   \
                                                                                                                      \
  TARGET static void NAME##_copy(Work *w) {                                                                           \
    for (long s = 0; s < w->steps; ++s) {                                                                             \
      for (size_t i = 0; i < w->count; i += 4 * LANES) {                                                              \
        UNROLL for (int v = 0; v < 4; ++v)                                                                            \
          *(NAME##_u *)(w->c + i + v * LANES) = *(const NAME##_u *)(w->a + i + v * LANES);                            \
        __asm__ volatile("" ::: "memory");                                                                            \
      }                                                                                                               \
    }                                                                                                                 \
  }                                                                                                                   \
                                                                                                                      \
  TARGET static void NAME##_add(Work *w) {                                                                            \
    for (long s = 0; s < w->steps; ++s) {                                                                             \
      for (size_t i = 0; i < w->count; i += 4 * LANES) {                                                              \
        UNROLL for (int v = 0; v < 4; ++v) {                                                                          \
          NAME##_v x = *(const NAME##_u *)(w->a + i + v * LANES), y = *(const NAME##_u *)(w->b + i + v * LANES);      \
          *(NAME##_u *)(w->c + i + v * LANES) = x + y;                                                                \
        }                                                                                                             \
        __asm__ volatile("" ::: "memory");                                                                            \
      }                                                                                                               \
    }                                                                                                                 \
  }                                                                                                                   \
                                                                                                                      \
  TARGET static void NAME##_read(Work *w) {                                                                           \
    NAME##_v sums[8];                                                                                                 \
    UNROLL for (int v = 0; v < 8; ++v) sums[v] = (NAME##_v){0};                                                       \
    for (long s = 0; s < w->steps; ++s) {                                                                             \
      for (size_t i = 0; i < w->count; i += 8 * LANES) {                                                              \
        UNROLL for (int v = 0; v < 8; ++v) sums[v] += *(const NAME##_u *)(w->a + i + v * LANES);                      \
      }                                                                                                               \
      __asm__ volatile("" ::: "memory");                                                                              \
    }                                                                                                                 \
    UNROLL for (int v = 1; v < 8; ++v) sums[0] += sums[v];                                                            \
    *(NAME##_u *)w->c = sums[0];                                                                                      \
  }

/* Registers are 16, or 32: sums, vectors of the right operand, and an element of the left one. */
#if defined(__x86_64__)
KERNELS(plain, , 4, 14, 6, 2)
KERNELS(avx, __attribute__((target("avx"))), 8, 14, 6, 2)
KERNELS(fma, __attribute__((target("avx2,fma"))), 8, 14, 6, 2)
KERNELS(avx512, __attribute__((target("avx512f"))), 16, 24, 14, 2)
#else
KERNELS(plain, , 4, 24, 8, 3)
#endif

/* Dot products. One instruction adds four products of bytes to an int32 (vpdpbusd, sdot). Or one adds two products of int16
 * (vpmaddwd), and a further one adds both to an int32. One instruction adds two products of bfloat16 numbers to a float
 * (vdpbf16ps, bfdot). They are in assembly, because compilers keep such sums in memory. The values do not matter: registers
 * keep whatever bytes they hold, and are set to 0 for bfloat16 numbers. */
#if defined(__x86_64__)
#define TIMES12(F) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11) F(12)
#define TIMES6(F) F(1, 7) F(2, 8) F(3, 9) F(4, 10) F(5, 11) F(6, 12)
#define DOT(NAME, TARGET, BODY)                                                                                         \
  TARGET static void NAME(Work *w) {                                                                                    \
    for (long s = 0; s < w->steps; ++s)                                                                                 \
      __asm__ volatile(BODY BODY ::                                                                                     \
                           : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",   \
                             "xmm11", "xmm12");                                                                         \
  }
#define VNNI512(I) "vpdpbusd %%zmm0, %%zmm0, %%zmm" #I "\n\t"
/* The encoding with VEX, which assemblers before 2021 do not know. */
#define VNNI256(I) ".byte 0xc4, 0xe2 - (" #I " >> 3 << 7), 0x7d, 0x50, 0xc0 + ((" #I " & 7) << 3)\n\t"
#define PAIRS(I, T) "vpmaddwd %%ymm0, %%ymm0, %%ymm" #T "\n\tvpaddd %%ymm" #T ", %%ymm" #I ", %%ymm" #I "\n\t"
DOT(dot_pairs, __attribute__((target("avx2"))), TIMES6(PAIRS))
DOT(dot_vnni256, __attribute__((target("avx2"))), TIMES12(VNNI256))
DOT(dot_vnni512, __attribute__((target("avx512f,avx512vnni"))), TIMES12(VNNI512))
#define BF16(I) "vdpbf16ps %%zmm0, %%zmm0, %%zmm" #I "\n\t"
#define ZERO(I) "vpxord %%zmm" #I ", %%zmm" #I ", %%zmm" #I "\n\t"
DOT(dot_bf16, __attribute__((target("avx512f"))), ZERO(0) TIMES12(ZERO) TIMES12(BF16) TIMES12(BF16) TIMES12(BF16))
#elif defined(__aarch64__)
#define TIMES12(F) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(16) F(17) F(18) F(19) F(20)
#define DOT(NAME, BODY)                                                                                                 \
  static void NAME(Work *w) {                                                                                           \
    for (long s = 0; s < w->steps; ++s)                                                                                 \
      __asm__ volatile(BODY BODY ::                                                                                     \
                           : "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v16", "v17", "v18", "v19", "v20");        \
  }
/* As numbers, because assemblers accept these instructions only if the extension is enabled: sdot vI.4s, v0.16b, v0.16b, and
 * bfdot vI.4s, v0.8h, v0.8h. */
#define SDOT(I) ".inst 0x4e809400 + " #I "\n\t"
#define BFDOT(I) ".inst 0x6e40fc00 + " #I "\n\t"
#define ZERO(I) "movi v" #I ".2d, #0\n\t"
DOT(dot_signed, TIMES12(SDOT))
DOT(dot_bf16, ZERO(0) TIMES12(ZERO) TIMES12(BFDOT) TIMES12(BFDOT) TIMES12(BFDOT))
#endif

typedef void (*Kernel)(Work *);

enum { FMA, PRODUCT, COPY, ADD, READ, KINDS };

typedef struct {
  int lanes, chains, rows, vectors;
  Kernel kernels[KINDS];
} Variant;

#define VARIANT(NAME, LANES, CHAINS, ROWS, VECTORS)                                                   \
  {                                                                                                   \
    LANES, CHAINS, ROWS, VECTORS, { NAME##_fma, NAME##_product, NAME##_copy, NAME##_add, NAME##_read } \
  }

static const Variant variants[] = {
#if defined(__x86_64__)
    VARIANT(plain, 4, 14, 6, 2),
    VARIANT(avx, 8, 14, 6, 2),
    VARIANT(fma, 8, 14, 6, 2),
    VARIANT(avx512, 16, 24, 14, 2),
#else
    VARIANT(plain, 4, 24, 8, 3),
#endif
};

/* Which variants this processor runs: bit 0 the plain one, then AVX, AVX2 with FMA, AVX-512. */
EXPORT int tilewright_limits_variants(void) {
  int found = 1;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx")) found |= 2;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found |= 4;
  if (__builtin_cpu_supports("avx512f")) found |= 8;
#endif
  return found;
}

/* Which instructions for dot products this processor has: of bytes bit 0 vpmaddwd of AVX2, then vpdpbusd of AVX-VNNI, and
 * of AVX512-VNNI, and sdot; of bfloat16 numbers bit 4 vdpbf16ps, then bfdot. */
EXPORT int tilewright_limits_dot_variants(void) {
  int found = 0;
#if defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) {
    found |= 1;
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d) && a >> 4 & 1) found |= 2;
  }
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni")) found |= 4;
  if (__builtin_cpu_supports("avx512f") && __get_cpuid_count(7, 1, &a, &b, &c, &d) && a >> 5 & 1) found |= 16;
#elif defined(__aarch64__) && defined(__linux__)
  if (getauxval(AT_HWCAP) >> 20 & 1) found |= 8;   /* HWCAP_ASIMDDP */
  if (getauxval(26) >> 14 & 1) found |= 32;        /* AT_HWCAP2: HWCAP2_BF16 */
#endif
  return found;
}

typedef struct {
  Kernel kernel;
  int threads;
  size_t count[3]; /* floats of a, b and c */
  double units;    /* of a step: operations, or bytes */
  double seconds, deadline;
  atomic_int arrived, phase, failed, stop;
  long steps;
  double rates[MAX_THREADS * LINE / sizeof(double)]; /* a cache line for each thread */
  double best;
  double *times, begin; /* where rounds have given steps and are timed as a whole: their seconds, and how many there are */
  int wanted, timed;
} Run;

typedef struct {
  Run *run;
  int self;
} Member;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Wait for all threads; the last one to come does `last` first. */
static void meet(Run *run, void (*last)(Run *)) {
  int phase = atomic_load(&run->phase);
  if (atomic_fetch_add(&run->arrived, 1) + 1 == run->threads) {
    if (last) last(run);
    atomic_store(&run->arrived, 0);
    atomic_fetch_add(&run->phase, 1);
    return;
  }
  for (int spins = 0; atomic_load(&run->phase) == phase; ++spins) {
    if (spins > 200) sched_yield();
  }
}

static void note_round(Run *run) {
  double sum = 0.0;
  for (int t = 0; t < run->threads; ++t) sum += run->rates[t * LINE / sizeof(double)];
  if (sum > run->best) run->best = sum;
  double time = now();
  if (run->deadline == 0.0) run->deadline = time + run->seconds; /* making the data took its time */
  if (time > run->deadline || atomic_load(&run->failed)) atomic_store(&run->stop, 1);
}

/* Steps of a round, by the fastest round so far: the speed of all threads is known, and one has its part of it. */
static void set_steps(Run *run) {
  note_round(run);
  double steps = ROUND_SECONDS * run->best / run->threads / run->units;
  run->steps = steps < 1.0 ? 1 : steps > 1e9 ? 1000000000 : (long)steps;
}

/* Rounds of given steps. The first one does not count. */
static void begin_round(Run *run) { run->begin = now(); }

static void end_round(Run *run) {
  if (run->timed >= 0) run->times[run->timed] = now() - run->begin;
  if (++run->timed == run->wanted || atomic_load(&run->failed)) atomic_store(&run->stop, 1);
}

/* Where all cores are used, each thread has one of its own. */
static void keep_to_core(int self, int threads) {
#if defined(__linux__)
  int cpus[CPU_SETSIZE];
  if (find_cores(cpus, CPU_SETSIZE) != threads) return;
  cpu_set_t own;
  CPU_ZERO(&own);
  CPU_SET(cpus[self], &own);
  sched_setaffinity(0, sizeof own, &own); /* a refusal costs speed alone */
#else
  (void)self, (void)threads;
#endif
}

static float *filled(size_t count, float value) {
  void *memory = NULL;
  if (posix_memalign(&memory, 4096, count * sizeof(float))) return NULL;
  float *floats = memory;
  for (size_t i = 0; i < count; ++i) floats[i] = value;
  return floats;
}

static void *member(void *argument) {
  Member *me = argument;
  Run *run = me->run;
  keep_to_core(me->self, run->threads);
  Work work = {1, filled(run->count[0], 0.999f), filled(run->count[1], 1e-3f), filled(run->count[2], 0.0f), run->count[0]};
  if (!work.a || !work.b || !work.c) {
    atomic_store(&run->failed, 1);
  } else {
    run->kernel(&work);
  }
  double *rate = &run->rates[me->self * LINE / sizeof(double)];
  for (int round = 0; !atomic_load(&run->stop); ++round) {
    meet(run, run->times ? begin_round : NULL);
    work.steps = run->steps;
    double begin = now();
    if (!atomic_load(&run->failed)) run->kernel(&work);
    double seconds = now() - begin;
    *rate = (double)work.steps * run->units / (seconds > 1e-9 ? seconds : 1e-9);
    /* The clock is too coarse for the first ones. */
    meet(run, run->times ? end_round : round < 3 ? set_steps : note_round);
  }
  free(work.a), free(work.b), free(work.c);
  return NULL;
}

static double measured(Run *run, double seconds) {
  pthread_t threads[MAX_THREADS];
  Member members[MAX_THREADS];
  if (run->threads < 1) run->threads = 1;
  if (run->threads > MAX_THREADS) run->threads = MAX_THREADS;
  run->seconds = seconds;
  if (!run->times) run->steps = 1;
  for (int t = 0; t < run->threads; ++t) members[t] = (Member){run, t};
  int made = 0;
  for (; made < run->threads; ++made) {
    if (pthread_create(&threads[made], NULL, member, &members[made])) break;
  }
  if (made < run->threads) exit(1); /* those that were made wait for the rest; this process is here for nothing else */
  for (int t = 0; t < made; ++t) pthread_join(threads[t], NULL);
  return atomic_load(&run->failed) ? 0.0 : run->best;
}

static Run *new_run(int variant, int kind, int threads) {
  Run *run = calloc(1, sizeof *run);
  if (!run) exit(1);
  run->kernel = variants[variant].kernels[kind];
  run->threads = threads;
  return run;
}

static double finished(Run *run, double seconds) {
  double result = measured(run, seconds);
  free(run);
  return result;
}

/* Floating-point operations per second of all threads, on registers alone. */
EXPORT double tilewright_limits_fma(int variant, int threads, double seconds) {
  const Variant *v = &variants[variant];
  Run *run = new_run(variant, FMA, threads);
  for (int i = 0; i < 3; ++i) run->count[i] = 64;
  run->units = 2.0 * v->lanes * v->chains;
  return finished(run, seconds);
}

/* Operations per second of all threads on dot products, on registers alone; 0 where there is no such instruction. */
EXPORT double tilewright_limits_dot(int variant, int threads, double seconds) {
#if defined(__x86_64__) || defined(__aarch64__)
#if defined(__x86_64__)
  static const Kernel kernels[] = {dot_pairs, dot_vnni256, dot_vnni512, NULL, dot_bf16, NULL};
#else
  static const Kernel kernels[] = {NULL, NULL, NULL, dot_signed, NULL, dot_bf16};
#endif
  /* two bodies a step */
  static const double units[] = {2 * 6 * 32, 24 * 64, 24 * 128, 24 * 32, 72 * 64, 72 * 16};
  if (variant < 0 || variant > 5 || !kernels[variant]) return 0.0;
  Run *run = new_run(0, FMA, threads);
  run->kernel = kernels[variant];
  for (int i = 0; i < 3; ++i) run->count[i] = 64;
  run->units = units[variant];
  return finished(run, seconds);
#else
  (void)variant, (void)threads, (void)seconds;
  return 0.0;
#endif
}

static void product_sizes(const Variant *v, size_t *count) {
  count[0] = (size_t)ROW_PANELS * DEPTH * v->rows;
  count[1] = (size_t)COLUMN_PANELS * DEPTH * v->vectors * v->lanes;
  count[2] = (size_t)ROW_PANELS * v->rows * COLUMN_PANELS * v->vectors * v->lanes;
}

/* The same of a matrix product whose operands are packed beforehand and lie in the cores' own caches. */
EXPORT double tilewright_limits_product(int variant, int threads, double seconds) {
  Run *run = new_run(variant, PRODUCT, threads);
  product_sizes(&variants[variant], run->count);
  run->units = 2.0 * DEPTH * (double)run->count[2];
  return finished(run, seconds);
}

/* The seconds of each of some matrix products of about so many operations, divided among the threads, from the start of the
 * first thread to the end of the last one. Returns how many operations each has. */
EXPORT double tilewright_limits_product_times(int variant, int threads, double operations, int runs, double *seconds) {
  Run *run = new_run(variant, PRODUCT, threads);
  product_sizes(&variants[variant], run->count);
  double step = 2.0 * DEPTH * (double)run->count[2] * threads;
  run->steps = operations > step ? (long)(operations / step) : 1;
  run->times = seconds, run->wanted = runs, run->timed = -1;
  double each = step * (double)run->steps;
  finished(run, 0.0);
  return each;
}

/* The largest error of that product, of numbers from -1 to 1; -1 without memory. */
EXPORT double tilewright_limits_product_error(int variant) {
  const Variant *v = &variants[variant];
  size_t count[3];
  product_sizes(v, count);
  Work work = {1, filled(count[0], 0.0f), filled(count[1], 0.0f), filled(count[2], 0.0f), count[2]};
  double worst = -1.0;
  if (work.a && work.b && work.c) {
    uint32_t seed = 1;
    for (int part = 0; part < 2; ++part) {
      float *floats = part ? work.b : work.a;
      for (size_t i = 0; i < count[part]; ++i, seed = seed * 1664525u + 1013904223u)
        floats[i] = (float)((double)seed / 2147483648.0 - 1.0);
    }
    v->kernels[PRODUCT](&work);
    const size_t columns = (size_t)v->vectors * v->lanes, tile = v->rows * columns;
    worst = 0.0;
    for (size_t at = 0; at < count[2]; at += 7) {
      size_t panel = at / tile, r = at % tile / columns, l = at % columns;
      const float *a = work.a + panel % ROW_PANELS * DEPTH * v->rows + r;
      const float *b = work.b + panel / ROW_PANELS * DEPTH * columns + l;
      double sum = 0.0;
      for (size_t k = 0; k < DEPTH; ++k) sum += (double)a[k * v->rows] * b[k * columns];
      double error = sum > work.c[at] ? sum - work.c[at] : work.c[at] - sum;
      if (!(error <= worst)) worst = error;
    }
  }
  free(work.a), free(work.b), free(work.c);
  return worst;
}

/* Bytes read and written per second by all threads, each of which has tensors of `bytes` bytes of its own: 0: one is
 * copied to another, 1: two are added into a third, 2: one is read. */
EXPORT double tilewright_limits_bytes(int variant, int threads, double seconds, int kind, size_t bytes) {
  Run *run = new_run(variant, COPY + kind, threads);
  size_t unit = 8 * (size_t)variants[variant].lanes, count = bytes / sizeof(float) / unit * unit;
  if (count < unit) count = unit;
  run->count[0] = run->count[1] = run->count[2] = unit;
  run->count[0] = count;
  if (kind != 2) run->count[2] = count;
  if (kind == 1) run->count[1] = count;
  run->units = (double)count * sizeof(float) * (kind == 0 ? 2 : kind == 1 ? 3 : 1);
  return finished(run, seconds);
}
