// The GPU benchmarks as a program that is quickly copied to a machine:
// hybridattn_bench_cuda [--json] [--batch-invariant] [--chunk-invariant] SUITE...
// `hybridattn bench SUITE --device cuda` runs them too.
#include <cstdio>
#include <exception>
#include <string_view>

#include "bench/gpu.h"

int main(int argc, char** argv) {
  std::vector<std::string> suites;
  hybridattn::ContextOptions options;
  options.device = hybridattn::DeviceType::kCuda;
  bool json = false;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--json") {
      json = true;
    } else if (argument == "--batch-invariant") {
      options.batch_invariant = true;
    } else if (argument == "--chunk-invariant") {
      options.chunk_invariant = true;
    } else {
      suites.emplace_back(argument);
    }
  }
  try {
    const hybridattn::Status status = hybridattn::bench::run_gpu_suites(suites, options, json);
    if (status.ok()) return 0;
    std::fprintf(stderr, "%s\n", status.message().c_str());
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench: %s\n", e.what());
  }
  return 1;
}
