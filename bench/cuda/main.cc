// The GPU benchmarks as one program: hybridattn_bench_cuda SUITE...
#include <cstdio>
#include <cstring>

#include "bench/cuda/device.h"
#include "bench/cuda/suites.h"

int main(int argc, char** argv) {
  using namespace hybridattn;
  cudaStream_t stream;
  bench::require_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  cudaDeviceProp properties;
  bench::require_cuda(cudaGetDeviceProperties(&properties, 0), "device");
  const double copy_rate = bench::copy_bandwidth(stream);
  std::printf("%s, copy %.2f TB/s\n", properties.name, copy_rate / 1e12);
  ContextOptions options;
  options.device = DeviceType::kCuda;
  options.stream = stream;
  auto context = Context::create(options);
  bench::require_ok(context.status());
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "gdn-decode") == 0) {
      bench::run_gdn_decode(**context, stream, copy_rate);
    } else if (std::strcmp(argv[i], "gdn-prefill") == 0) {
      bench::run_gdn_prefill(**context, stream, copy_rate);
    } else {
      std::fprintf(stderr, "bench: suite is \"%s\", must be gdn-decode or gdn-prefill\n", argv[i]);
      return 2;
    }
  }
  return 0;
}
