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

// Of gate_: the low half counts workers, the high half is the number of the loop.
constexpr std::uint64_t kOpen = std::uint64_t{1} << 31;
constexpr std::uint64_t kInside = kOpen - 1;

// Loops between two attempts of a worker to get a core for itself.
constexpr std::uint32_t kMoveInterval = 256;

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

ThreadPool::ThreadPool(int threads)
    : cpus_(allowed_cpus()), place_(static_cast<std::size_t>(threads > 1 ? threads : 1)) {
  for (std::atomic<int>& place : place_) place.store(-1, std::memory_order_relaxed);
  threads_.reserve(place_.size() - 1);
  for (int worker = 1; worker < threads; ++worker) {
    threads_.emplace_back([this, worker] { work(worker); });
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
  place_[0].store(sched_getcpu(), std::memory_order_relaxed);
  const std::uint32_t loop = loop_.load(std::memory_order_relaxed) + 1;
  gate_.store((std::uint64_t{loop} << 32) | kOpen, std::memory_order_release);
  loop_.store(loop, std::memory_order_release);
  loop_.notify_all();
  take_tasks(0);
  close_and_wait();
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

/// Enters the loop unless it has ended: only then are task_ and the others its own.
bool ThreadPool::join(std::uint32_t loop) {
  std::uint64_t gate = gate_.load(std::memory_order_acquire);
  while ((gate >> 32) == loop && (gate & kOpen) != 0) {
    if (gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acq_rel)) return true;
  }
  return false;
}

/// All tasks are taken: nobody enters any more, and those inside end their last one.
void ThreadPool::close_and_wait() {
  gate_.fetch_and(~kOpen, std::memory_order_acq_rel);
  for (int spins = 0; (gate_.load(std::memory_order_acquire) & kInside) != 0; ++spins) {
    // Spin first, then give the core away: the one that works may be waiting for it.
    if (spins < kSpins) {
      cpu_pause();
    } else {
      std::this_thread::yield();
    }
  }
}

std::uint32_t ThreadPool::wait_for_loop(std::uint32_t seen, bool& slept) {
  slept = false;
  for (int spins = 0; spins < kSpins; ++spins) {
    const std::uint32_t now = loop_.load(std::memory_order_acquire);
    if (now != seen) return now;
    cpu_pause();
  }
  slept = true;
  loop_.wait(seen, std::memory_order_acquire);
  return loop_.load(std::memory_order_acquire);
}

/// Two threads of a pool were seen to share one core for seconds while another was idle: the
/// scheduler takes spinning for work. Of two on one core the later one moves off the cores of all
/// before it. Nothing stays pinned: other pools and other programs choose cores too.
void ThreadPool::leave_shared_core(int worker) {
  const int here = sched_getcpu();
  place_[static_cast<std::size_t>(worker)].store(here, std::memory_order_relaxed);
  bool shared = false;
  cpu_set_t all;
  cpu_set_t free;
  CPU_ZERO(&all);
  for (const int cpu : cpus_) CPU_SET(static_cast<std::size_t>(cpu), &all);
  free = all;
  for (int other = 0; other < worker; ++other) {
    const int place = place_[static_cast<std::size_t>(other)].load(std::memory_order_relaxed);
    shared = shared || place == here;
    if (place >= 0) CPU_CLR(static_cast<std::size_t>(place), &free);
  }
  if (!shared || CPU_COUNT(&free) == 0) return;
  if (sched_setaffinity(0, sizeof(free), &free) == 0) sched_setaffinity(0, sizeof(all), &all);
}

void ThreadPool::work(int worker) {
  std::uint32_t seen = 0;
  for (std::uint32_t moved = 0;;) {
    bool slept;
    seen = wait_for_loop(seen, slept);
    if (stop_.load(std::memory_order_relaxed)) return;
    // Who wakes up often does so on the core of the one that called.
    if (slept || seen - moved >= kMoveInterval) {
      moved = seen;
      leave_shared_core(worker);
    }
    if (!join(seen)) continue;
    take_tasks(worker);
    gate_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace hybridattn::core
