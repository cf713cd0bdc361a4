/* The extensions of the processor's instruction set, by LLVM's names. Only runtime.c includes this file. */

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>

/* Registers as bits of XCR0. A program may use their instructions only if the system saves them between threads. */
#define AVX_STATE 0x6u
#define AVX512_STATE 0xe6u
#define APX_STATE 0x80000u

enum { EAX, EBX, ECX, EDX };

typedef struct {
  const char *name;
  unsigned leaf, part; /* the arguments of CPUID */
  unsigned where, bit; /* the register of its result, and the bit in it */
  unsigned state;      /* the registers that the system must save */
} Feature;

/* The extensions that LLVM may use by itself; features.py has the same names. */
static const Feature features[] = {
    {"sse3", 1, 0, ECX, 0, 0},
    {"ssse3", 1, 0, ECX, 9, 0},
    {"fma", 1, 0, ECX, 12, AVX_STATE},
    {"sse4.1", 1, 0, ECX, 19, 0},
    {"sse4.2", 1, 0, ECX, 20, 0},
    {"movbe", 1, 0, ECX, 22, 0},
    {"popcnt", 1, 0, ECX, 23, 0},
    {"avx", 1, 0, ECX, 28, AVX_STATE},
    {"f16c", 1, 0, ECX, 29, AVX_STATE},
    {"lzcnt", 0x80000001u, 0, ECX, 5, 0},
    {"sse4a", 0x80000001u, 0, ECX, 6, 0},
    {"xop", 0x80000001u, 0, ECX, 11, AVX_STATE},
    {"fma4", 0x80000001u, 0, ECX, 16, AVX_STATE},
    {"tbm", 0x80000001u, 0, ECX, 21, 0},
    {"bmi", 7, 0, EBX, 3, 0},
    {"avx2", 7, 0, EBX, 5, AVX_STATE},
    {"bmi2", 7, 0, EBX, 8, 0},
    {"avx512f", 7, 0, EBX, 16, AVX512_STATE},
    {"avx512dq", 7, 0, EBX, 17, AVX512_STATE},
    {"avx512ifma", 7, 0, EBX, 21, AVX512_STATE},
    {"avx512cd", 7, 0, EBX, 28, AVX512_STATE},
    {"avx512bw", 7, 0, EBX, 30, AVX512_STATE},
    {"avx512vl", 7, 0, EBX, 31, AVX512_STATE},
    {"avx512vbmi", 7, 0, ECX, 1, AVX512_STATE},
    {"avx512vbmi2", 7, 0, ECX, 6, AVX512_STATE},
    {"gfni", 7, 0, ECX, 8, 0},
    {"avx512vnni", 7, 0, ECX, 11, AVX512_STATE},
    {"avx512bitalg", 7, 0, ECX, 12, AVX512_STATE},
    {"avx512vpopcntdq", 7, 0, ECX, 14, AVX512_STATE},
    {"avx512fp16", 7, 0, EDX, 23, AVX512_STATE},
    {"avxvnni", 7, 1, EAX, 4, AVX_STATE},
    {"avx512bf16", 7, 1, EAX, 5, AVX512_STATE},
    {"avxifma", 7, 1, EAX, 23, AVX_STATE},
    {"avxvnniint8", 7, 1, EDX, 4, AVX_STATE},
    {"avxneconvert", 7, 1, EDX, 5, AVX_STATE},
    {"avxvnniint16", 7, 1, EDX, 10, AVX_STATE},
    {"egpr", 7, 1, EDX, 21, APX_STATE},
    {"ndd", 7, 1, EDX, 21, APX_STATE},
    {"ccmp", 7, 1, EDX, 21, APX_STATE},
    {"nf", 7, 1, EDX, 21, APX_STATE},
    {"ppx", 7, 1, EDX, 21, APX_STATE},
    {"push2pop2", 7, 1, EDX, 21, APX_STATE},
    {"zu", 7, 1, EDX, 21, APX_STATE},
};

/* The registers that the system saves. */
static unsigned saved_state(void) {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return 0; /* no XGETBV */
  __asm__ __volatile__(".byte 0x0f, 0x01, 0xd0" : "=a"(a), "=d"(d) : "c"(0)); /* xgetbv */
  return a;
}

/* Returns 1: the processor and the system support the extension; 0: they do not; -1: the name is not known. */
EXPORT int tilewright_cpu_has(const char *name) {
  for (size_t i = 0; i < sizeof features / sizeof *features; ++i) {
    const Feature *feature = &features[i];
    if (strcmp(name, feature->name)) continue;
    unsigned found[4] = {0, 0, 0, 0};
    if (!__get_cpuid_count(feature->leaf, feature->part, &found[EAX], &found[EBX], &found[ECX], &found[EDX])) return 0;
    return (found[feature->where] >> feature->bit & 1) && (saved_state() & feature->state) == feature->state;
  }
  return -1;
}
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>

typedef struct {
  const char *name;
  int word, bit; /* in the word AT_HWCAP (0) or AT_HWCAP2 (1) of the system's auxiliary vector */
} Feature;

/* The extensions that LLVM may use by itself; features.py has the same names. The bits are the kernel's interface. */
static const Feature features[] = {
    {"fp-armv8", 0, 0}, {"neon", 0, 1},      {"lse", 0, 8},      {"fullfp16", 0, 10}, {"rdm", 0, 12},
    {"jsconv", 0, 13},  {"complxnum", 0, 14}, {"rcpc", 0, 15},    {"sha3", 0, 17},     {"dotprod", 0, 20},
    {"sve", 0, 22},     {"fp16fml", 0, 23},  {"lse2", 0, 25},    {"rcpc-immo", 0, 26}, {"flagm", 0, 27},
    {"sve2", 1, 1},     {"altnzcv", 1, 7},   {"fptoint", 1, 8},  {"f32mm", 1, 10},    {"f64mm", 1, 11},
    {"i8mm", 1, 13},    {"bf16", 1, 14},     {"sme", 1, 23},     {"cssc", 1, 34},     {"sve2p1", 1, 36},
    {"sme2", 1, 37},    {"mops", 1, 43},     {"hbc", 1, 44},
};

/* Returns 1: the processor and the system support the extension; 0: they do not; -1: the name is not known. */
EXPORT int tilewright_cpu_has(const char *name) {
  for (size_t i = 0; i < sizeof features / sizeof *features; ++i)
    if (!strcmp(name, features[i].name)) return getauxval(features[i].word ? AT_HWCAP2 : AT_HWCAP) >> features[i].bit & 1;
  return -1;
}
#else
EXPORT int tilewright_cpu_has(const char *name) {
  (void)name;
  return -1;
}
#endif
