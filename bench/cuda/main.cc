// The GPU benchmarks as one program: hybridattn_bench_cuda [--json] [--batch-invariant]
// [--chunk-invariant] SUITE...
#include <cstdio>
#include <exception>
#include <string_view>
#include <vector>

#include "bench/cuda/device.h"
#include "bench/cuda/suites.h"

namespace hybridattn::bench {
namespace {

using Suite = void (*)(Context&, cudaStream_t, double, Report&);

/// The suite of that name, or nullptr.
Suite suite_of(std::string_view name) {
  if (name == "gdn-decode") return run_gdn_decode;
  if (name == "gdn-prefill") return run_gdn_prefill;
  if (name == "attn-prefill") return run_attn_prefill;
  if (name == "attn-extend") return run_attn_extend;
  if (name == "attn-decode") return run_attn_decode;
  if (name == "attn-shared") return run_attn_shared;
  if (name == "attn-gate") return run_attn_gate;
  if (name == "qk-norm-rope-store") return run_qk_norm_rope_store;
  return nullptr;
}

struct Arguments {
  std::vector<Suite> suites;
  bool json = false, batch_invariant = false, chunk_invariant = false;
};

int run(const Arguments& arguments) {
  cudaStream_t stream;
  require_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  cudaDeviceProp properties;
  require_cuda(cudaGetDeviceProperties(&properties, 0), "device");
  const double copy_rate = copy_bandwidth(stream);
  Report report(arguments.json);
  report.row({{"device", properties.name}, {"copy_tb_per_s", copy_rate / 1e12, 2}});
  ContextOptions options;
  options.device = DeviceType::kCuda;
  options.stream = stream;
  options.batch_invariant = arguments.batch_invariant;
  options.chunk_invariant = arguments.chunk_invariant;
  auto context = Context::create(options);
  require_ok(context.status());
  for (const Suite suite : arguments.suites) suite(**context, stream, copy_rate, report);
  return 0;
}

}  // namespace
}  // namespace hybridattn::bench

int main(int argc, char** argv) {
  using namespace hybridattn;
  bench::Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--json") {
      arguments.json = true;
    } else if (argument == "--batch-invariant") {
      arguments.batch_invariant = true;
    } else if (argument == "--chunk-invariant") {
      arguments.chunk_invariant = true;
    } else if (const bench::Suite suite = bench::suite_of(argument); suite != nullptr) {
      arguments.suites.push_back(suite);
    } else {
      std::fprintf(stderr,
                   "bench: argument \"%s\", must be --json, --batch-invariant, --chunk-invariant, "
                   "gdn-decode, gdn-prefill, attn-prefill, attn-extend, attn-decode, "
                   "attn-shared, attn-gate or qk-norm-rope-store\n",
                   argv[i]);
      return 2;
    }
  }
  try {
    return bench::run(arguments);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench: %s\n", e.what());
    return 1;
  }
}
