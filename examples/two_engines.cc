// Two engines in one process, each on a thread with a context of its own. They share nothing but
// the process's thread pool, which the contexts get as their executor.
#include <atomic>
#include <cstdio>
#include <future>
#include <thread>

#include "examples/tensor.h"
#include "hybridattn/hybridattn.h"

using namespace hybridattn;
using examples::Tensor, examples::noise;

/// Stands for the process's thread pool. It keeps nothing between calls, so loops of several
/// contexts may run at a time.
class Threads final : public Executor {
 public:
  int concurrency() const noexcept override { return 2; }
  void run(std::int64_t count, Task task, void* argument) override {
    std::atomic<std::int64_t> next{0};
    const auto work = [&](int worker) {
      for (std::int64_t i = next++; i < count; i = next++) task(argument, i, worker);
    };
    const std::jthread helper(work, 1);
    work(0);
  }
};

/// An engine's life: 50 tokens of prompt through an attention layer over its own cache.
std::vector<float> run_engine(Executor* executor, std::int32_t seed) {
  constexpr std::int32_t kTokens = 50, kPages = 4, kPageSize = 16;
  constexpr std::int64_t HQ = 4, HK = 2, D = 64;  // query heads, key heads, head dim
  const auto context = or_throw(Context::create({.executor = executor}));
  Tensor k_cache({kPages, kPageSize, HK, D}), v_cache({kPages, kPageSize, HK, D});
  const auto backend = or_throw(PagedAttnBackend::create(*context, {{k_cache}, {v_cache}}));

  const Tensor q = noise({kTokens, HQ, D}, seed), k = noise({kTokens, HK, D}, seed + 1);
  const Tensor v = noise({kTokens, HK, D}, seed + 2);
  Tensor out({kTokens, HQ, D});
  const auto batch =
      or_throw(ForwardBatch::create({{RowKind::kPrefill, kPadIndex, {0, 1, 2, 3}, 0, kTokens}}));
  const RadixAttention layer{0, 0, HQ, HK, D, D, /*scaling=*/0.125f};
  or_throw(backend->run_attention(*or_throw(backend->plan(batch)), layer, {q, k, v, out}));
  return {out.values().begin(), out.values().end()};
}

int main() try {
  Threads threads;
  auto first = std::async(std::launch::async, run_engine, &threads, 1);
  auto second = std::async(std::launch::async, run_engine, &threads, 100);
  // Each gives what it gives alone, on a pool that its context makes.
  const bool same =
      first.get() == run_engine(nullptr, 1) && second.get() == run_engine(nullptr, 100);
  std::printf("two engines at a time: %s\n", same ? "each as if alone" : "DIFFERENT");
  return same ? 0 : 1;
} catch (const Error& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
