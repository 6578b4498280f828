#include "src/core/thread_pool.h"

#include <sched.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace hybridattn::core {
namespace {

// About 30 us on today's cores: longer than the gaps between the loops of one forward pass, short
// enough that an idle engine costs nothing.
constexpr int kSpins = 2000;

// Set while a thread runs a task, so that a nested loop runs serially and does not wait for itself.
thread_local bool inside_task = false;

void cpu_pause() noexcept {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace

std::vector<int> allowed_cpus() {
  std::vector<int> cpus;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(static_cast<std::size_t>(cpu), &set)) cpus.push_back(cpu);
    }
  }
  if (cpus.empty()) cpus.push_back(0);
  return cpus;
}

ThreadPool::ThreadPool(int threads) {
  const std::vector<int> cpus = allowed_cpus();
  threads_.reserve(static_cast<std::size_t>(threads > 1 ? threads - 1 : 0));
  for (int worker = 1; worker < threads; ++worker) {
    threads_.emplace_back([this, worker, cpus] { work(worker, cpus); });
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  loop_.fetch_add(1, std::memory_order_release);
  loop_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::run(std::int64_t count, Task task, void* argument) {
  if (count <= 0) return;
  if (count == 1 || threads_.empty() || inside_task) {
    for (std::int64_t i = 0; i < count; ++i) task(argument, i, 0);
    return;
  }
  task_ = task;
  argument_ = argument;
  count_ = count;
  next_.store(0, std::memory_order_relaxed);
  busy_.store(static_cast<int>(threads_.size()), std::memory_order_relaxed);
  loop_.fetch_add(1, std::memory_order_release);
  loop_.notify_all();
  take_tasks(0);
  // The tail is short: the others are inside their last task. Spin first, then give the core away,
  // since with fewer cores than threads the one that works may be waiting for ours.
  for (int spins = 0; busy_.load(std::memory_order_acquire) != 0; ++spins) {
    if (spins < kSpins) {
      cpu_pause();
    } else {
      std::this_thread::yield();
    }
  }
}

void ThreadPool::take_tasks(int worker) {
  inside_task = true;
  for (;;) {
    const std::int64_t index = next_.fetch_add(1, std::memory_order_relaxed);
    if (index >= count_) break;
    task_(argument_, index, worker);
  }
  inside_task = false;
}

std::uint32_t ThreadPool::wait_for_loop(std::uint32_t seen) {
  for (int spins = 0; spins < kSpins; ++spins) {
    const std::uint32_t now = loop_.load(std::memory_order_acquire);
    if (now != seen) return now;
    cpu_pause();
  }
  loop_.wait(seen, std::memory_order_acquire);
  return loop_.load(std::memory_order_acquire);
}

void ThreadPool::work(int worker, const std::vector<int>& cpus) {
  // Unpinned spinning threads were seen to share one core for seconds. Each worker stays away from
  // the others' cores; the caller's thread is not ours to pin.
  if (static_cast<std::size_t>(worker) < cpus.size()) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<std::size_t>(cpus[static_cast<std::size_t>(worker)]), &set);
    sched_setaffinity(0, sizeof(set), &set);
  }
  std::uint32_t seen = 0;
  for (;;) {
    seen = wait_for_loop(seen);
    if (stop_.load(std::memory_order_relaxed)) return;
    take_tasks(worker);
    busy_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace hybridattn::core
