// malloc for blocks of 32 to 512 MiB: mapped in pages of 2 MiB, and kept when they are freed.
//
// To be loaded before glibc (LD_PRELOAD), whose functions these stand in front of; smaller blocks go through to it.
// glibc can map a large block anew for each use, page fault by page fault, or put it into the heap, where its place has
// often become a few bytes too short by the time it is asked for again.
//
//   request     the shortest kept block that is long enough and not more than twice as long, else a new one;
//               where no kept block fits they all go back to the system first, so that no more is held than was in use
//   free        the block is kept
//
// Larger ones are glibc's. A step that is dispatched before the last has ended has a block beside the last one's, so that
// two stay: that is much memory then, and a fresh block costs such a step little.

#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

extern "C" {
void* __libc_malloc(size_t);
void* __libc_memalign(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_calloc(size_t, size_t);
void __libc_free(void*);
}

namespace {

constexpr size_t kPage = size_t{1} << 21;
constexpr size_t kLeast = size_t{1} << 25, kLargest = size_t{1} << 29;
constexpr int kMost = 256;  // blocks; more are glibc's

struct Block {
  char* begin;
  size_t length;
  bool used;
};

Block blocks[kMost];
int count = 0;
pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

struct Lock {
  Lock() { pthread_mutex_lock(&mutex); }
  ~Lock() { pthread_mutex_unlock(&mutex); }
};

// A process that is forked meanwhile must not begin with a lock that nobody opens.
__attribute__((constructor)) void begin() {
  pthread_atfork([] { pthread_mutex_lock(&mutex); }, [] { pthread_mutex_unlock(&mutex); },
                 [] { pthread_mutex_unlock(&mutex); });
}

char* map(size_t length) {
  void* found = mmap(nullptr, length + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (found == MAP_FAILED) return nullptr;
  char* from = static_cast<char*>(found);
  const size_t before = (kPage - reinterpret_cast<uintptr_t>(from) % kPage) % kPage;
  if (before) munmap(from, before);
  munmap(from + before + length, kPage - before);
  madvise(from + before, length, MADV_HUGEPAGE);
  return from + before;
}

void* take_kept(size_t length) {
  const Lock lock;
  Block* found = nullptr;
  for (Block* b = blocks; b < blocks + count; ++b)
    if (!b->used && b->length >= length && b->length / 2 <= length && (!found || b->length < found->length)) found = b;
  if (!found) return nullptr;
  found->used = true;
  return found->begin;
}

void give_back_kept() {
  const Lock lock;
  int left = 0;
  for (int i = 0; i < count; ++i) {
    if (blocks[i].used)
      blocks[left++] = blocks[i];
    else
      munmap(blocks[i].begin, blocks[i].length);
  }
  count = left;
}

// Of glibc; where there is no memory left, once more without what is kept.
template <typename Request>
void* by_glibc(Request request) {
  void* found = request();
  if (found) return found;
  give_back_kept();
  return request();
}

// nullptr: glibc shall do it.
void* take(size_t size, size_t alignment) {
  if (size < kLeast || size > kLargest || alignment > kPage) return nullptr;
  const int before = errno;
  const size_t length = (size + kPage - 1) / kPage * kPage;
  if (void* kept = take_kept(length)) return kept;
  give_back_kept();
  char* begin = map(length);
  errno = before;
  if (!begin) return nullptr;
  const Lock lock;
  if (count == kMost) {
    munmap(begin, length);
    return nullptr;
  }
  blocks[count++] = {begin, length, true};
  return begin;
}

// The length of a block of this file, 0 of others.
size_t length_of(void* pointer, bool give_back) {
  if (!pointer || reinterpret_cast<uintptr_t>(pointer) % kPage) return 0;
  const Lock lock;
  for (Block* b = blocks; b < blocks + count; ++b)
    if (b->begin == pointer && b->used) {
      if (give_back) b->used = false;
      return b->length;
    }
  return 0;
}

}  // namespace

extern "C" {

void* malloc(size_t size) {
  void* found = take(size, 1);
  return found ? found : by_glibc([&] { return __libc_malloc(size); });
}

void* memalign(size_t alignment, size_t size) {
  void* found = take(size, alignment);
  return found ? found : by_glibc([&] { return __libc_memalign(alignment, size); });
}

void* aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void** to, size_t alignment, size_t size) {
  if (alignment % sizeof(void*) || alignment & (alignment - 1) || !alignment) return EINVAL;
  const int before = errno;
  void* found = memalign(alignment, size);
  errno = before;
  if (!found) return ENOMEM;
  *to = found;
  return 0;
}

void* realloc(void* pointer, size_t size) {
  const size_t length = length_of(pointer, false);
  if (!length) return size ? by_glibc([&] { return __libc_realloc(pointer, size); }) : __libc_realloc(pointer, size);
  if (size && size <= length) return pointer;
  void* found = size ? malloc(size) : nullptr;
  if (found) memcpy(found, pointer, length);
  if (found || !size) length_of(pointer, true);
  return found;
}

void free(void* pointer) {
  if (!length_of(pointer, true)) __libc_free(pointer);
}

// The rest of the family, which must not come from another malloc than what these functions give to `__libc_free`.

void* calloc(size_t number, size_t size) {  // by glibc: a kept block is not of zeros
  return by_glibc([&] { return __libc_calloc(number, size); });
}

void* valloc(size_t size) { return memalign(4096, size); }

size_t malloc_usable_size(void* pointer) {
  using Function = size_t (*)(void*);
  static const auto of_glibc = reinterpret_cast<Function>(dlsym(RTLD_NEXT, "malloc_usable_size"));
  const size_t length = length_of(pointer, false);
  return length ? length : of_glibc(pointer);
}
}
