/* First fit in segments of 64 MiB, the oldest policy there is: a list of blocks in the order of
 * their segments and addresses; a request takes the first free one that is large enough, the rest
 * splits off, and a freed block joins its free neighbours. */
#include <peakcast/peakcast_policy.h>

#include <stdlib.h>

enum { kStep = 512, kSegment = 64 << 20 };

typedef struct block {
  uint64_t address, size;
  int free, first; /* first: where a segment begins; it never joins what comes before */
  uint32_t number;
  struct block *previous, *next;
} block;

typedef struct {
  const peakcast_driver* driver;
  block* head;
  block** by_number; /* handed out, by number */
  uint32_t numbers, room;
} heap;

static uint64_t up(uint64_t size, uint64_t unit) { return (size + unit - 1) / unit * unit; }

static void* make(const peakcast_driver* driver, const char* settings, char* error,
                  size_t capacity) {
  if (settings[0] != '\0') {
    static const char kWhy[] = "first-fit has no settings";
    for (size_t i = 0; i < sizeof kWhy && i < capacity; ++i) error[i] = kWhy[i];
    return NULL;
  }
  heap* h = calloc(1, sizeof *h);
  if (h != NULL) h->driver = driver;
  return h;
}

static block* insert_after(heap* h, block* before, uint64_t address, uint64_t size) {
  block* b = calloc(1, sizeof *b);
  if (b == NULL) return NULL;
  b->address = address;
  b->size = size;
  b->free = 1;
  b->previous = before;
  b->next = before != NULL ? before->next : h->head;
  if (b->next != NULL) b->next->previous = b;
  if (before != NULL) before->next = b; else h->head = b;
  return b;
}

static void join_next(block* b) {
  block* gone = b->next;
  b->size += gone->size;
  b->next = gone->next;
  if (b->next != NULL) b->next->previous = b;
  free(gone);
}

static int take(void* self, uint64_t size, peakcast_grant* grant) {
  heap* h = self;
  const uint64_t need = up(size, kStep);
  block* b = h->head;
  while (b != NULL && !(b->free && b->size >= need)) b = b->next;
  if (b == NULL) {
    uint64_t address = 0;
    uint64_t segment = need > kSegment ? up(need, 2 << 20) : kSegment;
    if (h->driver->acquire(h->driver->self, segment, &address) != 0) {
      segment = up(need, 2 << 20); /* a full card may still have the request itself */
      if (h->driver->acquire(h->driver->self, segment, &address) != 0) return 1;
    }
    b = insert_after(h, NULL, address, segment);
    if (b == NULL) return 1;
    b->first = 1;
    if (b->next != NULL) b->next->first = 1;
  }
  if (b->size > need) {
    if (insert_after(h, b, b->address + need, b->size - need) == NULL) return 1;
    b->size = need;
  }
  uint32_t number = 0;
  while (number < h->numbers && h->by_number[number] != NULL) ++number;
  if (number == h->numbers) {
    if (h->numbers == h->room) {
      const uint32_t room = h->room == 0 ? 1024 : 2 * h->room;
      block** larger = realloc(h->by_number, room * sizeof *larger);
      if (larger == NULL) return 1;
      h->by_number = larger;
      h->room = room;
    }
    ++h->numbers;
  }
  h->by_number[number] = b;
  b->free = 0;
  grant->address = b->address;
  grant->size = b->size;
  grant->block = number;
  return 0;
}

static void give(void* self, uint32_t number) {
  heap* h = self;
  block* b = h->by_number[number];
  h->by_number[number] = NULL;
  b->free = 1;
  if (b->next != NULL && b->next->free && !b->next->first) join_next(b);
  if (b->previous != NULL && b->previous->free && !b->first) join_next(b->previous);
}

static void trim(void* self) {
  heap* h = self;
  for (block* b = h->head; b != NULL;) {
    block* next = b->next;
    if (b->free && b->first && (next == NULL || next->first)) { /* a whole segment */
      h->driver->release(h->driver->self, b->address);
      if (b->previous != NULL) b->previous->next = next; else h->head = next;
      if (next != NULL) next->previous = b->previous;
      free(b);
    }
    b = next;
  }
}

static void destroy(void* self) {
  heap* h = self;
  while (h->head != NULL) {
    block* next = h->head->next;
    free(h->head);
    h->head = next;
  }
  free(h->by_number);
  free(h);
}

const peakcast_policy_table* peakcast_policy(void) {
  static const peakcast_policy_table table = {
      .abi = PEAKCAST_POLICY_ABI,
      .name = "first-fit",
      .make = make,
      .destroy = destroy,
      .take = take,
      .give = give,
      .trim = trim,
  };
  return &table;
}
