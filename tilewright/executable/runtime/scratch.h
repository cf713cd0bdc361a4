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
static struct {
  _Alignas(CACHE_LINE) atomic_int taken; /* 1: a thread has the shelf */
  Block *blocks;
} shelves[SHELVES];
static atomic_uint next_shelf;
static _Thread_local unsigned own_shelf; /* its number + 1, or 0 */

static unsigned find_own_shelf(void) {
  if (!own_shelf) own_shelf = atomic_fetch_add(&next_shelf, 1) % SHELVES + 1;
  return own_shelf - 1;
}

static int take_shelf(unsigned number) {
  return !atomic_exchange_explicit(&shelves[number].taken, 1, memory_order_acquire);
}

static void give_shelf(unsigned number) { atomic_store_explicit(&shelves[number].taken, 0, memory_order_release); }

/* Call this in the child of a fork, which lacks the threads that had shelves. */
static void free_shelves(void) {
  for (unsigned number = 0; number < SHELVES; ++number) give_shelf(number);
}

static void *allocate(int device_type, int device_id, uint64_t bytes, int type_code, int type_bits) {
  (void)device_type, (void)device_id, (void)type_code, (void)type_bits;
  if (bytes > SIZE_MAX - sizeof(Block) - 2 * CACHE_LINE) return NULL;
  unsigned own = find_own_shelf();
  for (unsigned i = 0; i < SHELVES; ++i) {
    unsigned number = (own + i) % SHELVES;
    if (!take_shelf(number)) continue;
    for (Block **link = &shelves[number].blocks; *link; link = &(*link)->next) {
      Block *block = *link;
      if (block->size >= bytes && (block->size - bytes <= bytes + 4096)) {
        *link = block->next;
        give_shelf(number);
        return block + 1;
      }
    }
    give_shelf(number);
  }
  size_t size = (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
  void *memory = NULL;
  if (posix_memalign(&memory, CACHE_LINE, sizeof(Block) + size)) return NULL;
  ((Block *)memory)->size = size;
  return (Block *)memory + 1;
}

static int release(int device_type, int device_id, void *memory) {
  (void)device_type, (void)device_id;
  Block *block = (Block *)memory - 1;
  unsigned number = find_own_shelf();
  while (!take_shelf(number)) number = (number + 1) % SHELVES;
  block->next = shelves[number].blocks;
  shelves[number].blocks = block;
  give_shelf(number);
  return 0;
}

static void trim(void) {
  for (unsigned number = 0; number < SHELVES; ++number) {
    while (!take_shelf(number)) sched_yield();
    Block *blocks = shelves[number].blocks;
    shelves[number].blocks = NULL;
    give_shelf(number);
    while (blocks) {
      Block *block = blocks;
      blocks = block->next;
      free(block);
    }
  }
}
