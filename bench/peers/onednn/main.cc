// Products beside oneDNN's in the same run: bf16, weights as checkpoints store them and, for
// oneDNN, also in the layout that it picks for itself. Built by its own target where libdnnl-dev is
// there:
//
//     cmake --build --preset release --target hybridattn_bench_onednn
//     build/release/bin/hybridattn_bench_onednn [THREADS]
#include <omp.h>
#include <sched.h>

#include <oneapi/dnnl/dnnl.hpp>

#include <cstdlib>
#include <iostream>
#include <string>
#include <unordered_map>

#include "bench/cpu/tensors.h"
#include "bench/cpu/timing.h"
#include "bench/report.h"
#include "bench/require.h"
#include "hybridattn/context.h"
#include "hybridattn/ops/linear.h"

namespace hybridattn::bench {
namespace {

constexpr double kSeconds = 0.4;
constexpr std::int64_t kRotated = std::int64_t{1} << 29;  // bytes of weights between two uses

/// One product of oneDNN: x [M, K] times W [N, K] transposed, to float32.
class DnnlProduct {
 public:
  using Memory = dnnl::memory;

  /// `packed`: weights in the layout of oneDNN's choice, made once for each copy.
  DnnlProduct(std::int64_t m, std::int64_t n, std::int64_t k, bool packed)
      : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_),
        x_({m, k}, Memory::data_type::bf16, Memory::format_tag::ab),
        stored_({k, n}, Memory::data_type::bf16, Memory::format_tag::ba),
        out_({m, n}, Memory::data_type::f32, Memory::format_tag::ab),
        descriptor_(dnnl::matmul::desc(x_,
                                       packed ? Memory::desc({k, n}, Memory::data_type::bf16,
                                                             Memory::format_tag::any)
                                              : stored_,
                                       out_),
                    engine_),
        product_(descriptor_) {}

  /// Weights as the product takes them: those at `from` where they lie, or packed.
  Memory weights(void* from) {
    Memory as_stored(stored_, engine_, from);
    if (descriptor_.weights_desc() == stored_) return as_stored;
    Memory packed(descriptor_.weights_desc(), engine_);
    dnnl::reorder(as_stored, packed).execute(stream_, as_stored, packed);
    stream_.wait();
    return packed;
  }
  void run(void* x, const Memory& weights, void* out) {
    product_.execute(stream_, {{DNNL_ARG_SRC, Memory(x_, engine_, x)},
                               {DNNL_ARG_WEIGHTS, weights},
                               {DNNL_ARG_DST, Memory(out_, engine_, out)}});
    stream_.wait();
  }

 private:
  dnnl::engine engine_;
  dnnl::stream stream_;
  Memory::desc x_, stored_, out_;
  dnnl::matmul::primitive_desc descriptor_;
  dnnl::matmul product_;
};

/// Seconds of one call of oneDNN, whose answer must be ours.
double time_dnnl(DnnlProduct& product, const HostTensor& x, const HostTensor& weights,
                 std::int64_t copies, const HostTensor& ours, const HostTensor& out) {
  std::vector<dnnl::memory> each;
  const std::int64_t bytes = weights.bytes() / copies;
  for (std::int64_t i = 0; i < copies; ++i) {
    each.push_back(product.weights(static_cast<std::byte*>(weights.view().data) + i * bytes));
  }
  product.run(x.view().data, each[0], out.view().data);
  require(relative_error(out, ours, ours.view().num_elements()) < 1e-4, "oneDNN: another answer");
  const auto run = [&](std::int64_t i) {
    product.run(x.view().data, each[static_cast<std::size_t>(i % copies)], out.view().data);
  };
  return time_calls(kSeconds, run).median;
}

void measure(Context& context, std::int64_t m, std::int64_t n, std::int64_t k, Report& report) {
  const std::int64_t copies = kRotated / (n * k * 2);
  const HostTensor x(DType::kBF16, {m, k}, -1, 1), weights(DType::kBF16, {copies * n, k}, -1, 1);
  const HostTensor ours(DType::kF32, {m, n}, 0, 1), theirs(DType::kF32, {m, n}, 0, 1);
  const auto run = [&](std::int64_t i) {
    const ConstTensorView all = weights.view();
    require_ok(
        linear(context, {x.view(), all.at(i % copies * n * k, {n, k}, {k, 1}), ours.view()}));
  };
  const double own = time_calls(kSeconds, run).median;
  run(0);
  DnnlProduct as_stored(m, n, k, false), packed(m, n, k, true);
  const double peer = time_dnnl(as_stored, x, weights, copies, ours, theirs);
  const double peer_packed = time_dnnl(packed, x, weights, copies, ours, theirs);
  report.row({{"m", m},
              {"n", n},
              {"k", k},
              {"us", own * 1e6, 0},
              {"onednn_us", peer * 1e6, 0},
              {"ratio", peer / own, 2},
              {"packed_us", peer_packed * 1e6, 0},
              {"ratio_packed", peer_packed / own, 2}});
}

/// Each thread of OpenMP to a core of its own: unpinned, two that spin may share one for seconds,
/// and a product then takes whole ticks of the scheduler. Not by OMP_PROC_BIND, which binds the
/// main thread before our context reads which cores it may use.
void pin_openmp_threads() {
  cpu_set_t allowed;
  require(sched_getaffinity(0, sizeof allowed, &allowed) == 0, "oneDNN: no affinity mask");
#pragma omp parallel
  {
    int left = omp_get_thread_num();
    for (int core = 0; core < CPU_SETSIZE; ++core) {
      if (!CPU_ISSET(core, &allowed) || left-- > 0) continue;
      cpu_set_t own;
      CPU_ZERO(&own);
      CPU_SET(core, &own);
      sched_setaffinity(0, sizeof own, &own);
      break;
    }
  }
}

void run(int threads) {
  ContextOptions options;
  options.threads = threads;
  auto context = Context::create(options);
  require_ok(context.status());
  omp_set_num_threads(threads);
  pin_openmp_threads();
  Report report(false);
  for (const auto& [n, k] : {std::pair<std::int64_t, std::int64_t>{3584, 1024}, {1024, 3584}}) {
    for (const std::int64_t m : {1, 8, 32, 128, 512}) measure(**context, m, n, k, report);
  }
}

}  // namespace
}  // namespace hybridattn::bench

int main(int argc, char** argv) try {
  hybridattn::bench::run(argc > 1 ? std::atoi(argv[1]) : 2);
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
