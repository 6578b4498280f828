#include "tests/support/allocation_watch.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <thread>
#include <vector>

namespace {

std::atomic<bool> watching{false};
std::atomic<std::int64_t> counted{0};

void count_one() {
  if (watching.load(std::memory_order_relaxed)) counted.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)

// The sanitizers have an allocator of their own, and a hook.
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*malloc_hook)(const volatile void*,
                                                                             std::size_t),
                                                         void (*free_hook)(const volatile void*));

namespace {
void on_malloc(const volatile void*, std::size_t) { count_one(); }
void on_free(const volatile void*) {}
const int installed = __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free);
}  // namespace

#else

// glibc's own functions under their second names; `operator new` ends in one of these too.
extern "C" {
void* __libc_malloc(std::size_t bytes);
void* __libc_calloc(std::size_t count, std::size_t bytes);
void* __libc_realloc(void* pointer, std::size_t bytes);
void* __libc_memalign(std::size_t alignment, std::size_t bytes);

void* malloc(std::size_t bytes) {
  count_one();
  return __libc_malloc(bytes);
}
void* calloc(std::size_t count, std::size_t bytes) {
  count_one();
  return __libc_calloc(count, bytes);
}
void* realloc(void* pointer, std::size_t bytes) {
  count_one();
  return __libc_realloc(pointer, bytes);
}
void* aligned_alloc(std::size_t alignment, std::size_t bytes) {
  count_one();
  return __libc_memalign(alignment, bytes);
}
int posix_memalign(void** pointer, std::size_t alignment, std::size_t bytes) {
  count_one();
  *pointer = __libc_memalign(alignment, bytes);
  return *pointer != nullptr ? 0 : ENOMEM;
}
}

#endif

namespace hybridattn::testing {

void wait_for_workers(Executor& executor) {
  std::vector<std::atomic<bool>> seen(static_cast<std::size_t>(executor.concurrency()));
  for (int loop = 0; loop < 2000; ++loop) {
    parallel_for(executor, 64, [&](std::int64_t, int worker) {
      seen[static_cast<std::size_t>(worker)] = true;
      std::this_thread::yield();
    });
    if (std::all_of(seen.begin(), seen.end(), [](const auto& one) { return one.load(); })) return;
  }
}

AllocationWatch::AllocationWatch() {
  counted = 0;
  watching = true;
}
AllocationWatch::~AllocationWatch() { watching = false; }
std::int64_t AllocationWatch::count() const { return counted.load(); }

}  // namespace hybridattn::testing
