/* Scratch memory of kernels. Blocks are kept, so that only the first call allocates. Only runtime.c includes this file. */

#define CACHE_LINE 64

typedef struct Block {
  struct Block *next;
  size_t size;
  char pad[CACHE_LINE - sizeof(struct Block *) - sizeof(size_t)];
} Block;

/* Each thread prefers one shelf, so that threads do not wait for each other. If its own shelf lacks a block, it takes one
 * from another shelf. So later threads use the memory of threads that have ended: a server may have one for each
 * request. */
#define SHELVES 64
typedef struct {
  _Alignas(CACHE_LINE) atomic_int taken; /* 1: a thread has the shelf */
  Block *blocks;
} Shelf;

/* The scratch memory of a process, or of one instance of a network. */
typedef struct {
  Shelf shelves[SHELVES];
} Scratch;

static _Thread_local unsigned own_shelf; /* its number + 1, or 0 */

#if defined(TILEWRIGHT_LIBRARY)
static unsigned find_own_shelf(void) { return own_shelf - 1; } /* a run has set it */
#else
static Scratch common; /* of all executables that share the pool of a process */
static atomic_uint next_shelf;

static unsigned find_own_shelf(void) {
  if (!own_shelf) own_shelf = atomic_fetch_add(&next_shelf, 1) % SHELVES + 1;
  return own_shelf - 1;
}
#endif

static int take_shelf(Shelf *shelf) { return !atomic_exchange_explicit(&shelf->taken, 1, memory_order_acquire); }

static void give_shelf(Shelf *shelf) { atomic_store_explicit(&shelf->taken, 0, memory_order_release); }

static void *allocate_in(Scratch *scratch, uint64_t bytes) {
  if (bytes > SIZE_MAX - sizeof(Block) - 2 * CACHE_LINE) return NULL;
  unsigned own = find_own_shelf();
  for (unsigned i = 0; i < SHELVES; ++i) {
    Shelf *shelf = &scratch->shelves[(own + i) % SHELVES];
    if (!take_shelf(shelf)) continue;
    for (Block **link = &shelf->blocks; *link; link = &(*link)->next) {
      Block *block = *link;
      if (block->size >= bytes && (block->size - bytes <= bytes + 4096)) {
        *link = block->next;
        give_shelf(shelf);
        return block + 1;
      }
    }
    give_shelf(shelf);
  }
  size_t size = (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
  void *memory = NULL;
  if (posix_memalign(&memory, CACHE_LINE, sizeof(Block) + size)) return NULL;
  ((Block *)memory)->size = size;
  return (Block *)memory + 1;
}

static int release_in(Scratch *scratch, void *memory) {
  Block *block = (Block *)memory - 1;
  unsigned number = find_own_shelf();
  while (!take_shelf(&scratch->shelves[number])) number = (number + 1) % SHELVES;
  Shelf *shelf = &scratch->shelves[number];
  block->next = shelf->blocks;
  shelf->blocks = block;
  give_shelf(shelf);
  return 0;
}

/* Free the memory that is not in use. */
static void trim_in(Scratch *scratch) {
  for (unsigned number = 0; number < SHELVES; ++number) {
    Shelf *shelf = &scratch->shelves[number];
    while (!take_shelf(shelf)) sched_yield();
    Block *blocks = shelf->blocks;
    shelf->blocks = NULL;
    give_shelf(shelf);
    while (blocks) {
      Block *block = blocks;
      blocks = block->next;
      free(block);
    }
  }
}

#if !defined(TILEWRIGHT_LIBRARY)
/* Call this in the child of a fork, which lacks the threads that had shelves. */
static void free_shelves(void) {
  for (unsigned number = 0; number < SHELVES; ++number) give_shelf(&common.shelves[number]);
}

/* See `Pool` of shared_pool.h. */
static void *allocate(int device_type, int device_id, uint64_t bytes, int type_code, int type_bits) {
  (void)device_type, (void)device_id, (void)type_code, (void)type_bits;
  return allocate_in(&common, bytes);
}

static int release(int device_type, int device_id, void *memory) {
  (void)device_type, (void)device_id;
  return release_in(&common, memory);
}

static void trim(void) { trim_in(&common); }
#endif
