#include <algorithm>
#include <iterator>

#include "bench/cuda/device.h"
#include "bench/cuda/suites.h"
#include "bench/gpu.h"
#include "hybridattn/ops/linear.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::bench {
namespace {

const GpuSuite* find_suite(const std::string& name) {
  const auto* found = std::find_if(std::begin(kGpuSuites), std::end(kGpuSuites),
                                   [&](const GpuSuite& suite) { return name == suite.name; });
  return found == std::end(kGpuSuites) ? nullptr : found;
}

std::string joined(const std::vector<std::string>& names) {
  std::string all;
  for (const std::string& name : names) all += (all.empty() ? "" : ", ") + name;
  return all;
}

}  // namespace

Result<GpuCeilings> measure_gpu(const ContextOptions& options) {
  if (options.device != DeviceType::kCuda) {
    return error(StatusCode::kUnsupported, "bench: the device is the CPU, must be cuda");
  }
  HYBRIDATTN_ASSIGN(const std::unique_ptr<Context> context, Context::create(options));
  require_cuda(cudaSetDevice(options.device_index), "device");
  cudaDeviceProp properties;
  require_cuda(cudaGetDeviceProperties(&properties, options.device_index), "device");
  const auto stream = static_cast<cudaStream_t>(context->stream());
  GpuCeilings ceilings{properties.name, copy_bandwidth(stream), 0};
  constexpr std::int64_t kSide = 8192;
  const DeviceTensor x(DType::kBF16, {kSide, kSide}, -1, 1), w(DType::kBF16, {kSide, kSide}, -1, 1);
  const DeviceTensor out(DType::kBF16, {kSide, kSide}, 0, 0);
  const auto product = [&] { return linear(*context, {x.view(), w.view(), out.view()}); };
  const double us = time_in_graph(stream, {product});
  ceilings.bf16_products = 2.0 * kSide * kSide * kSide / us * 1e6;
  return ceilings;
}

std::vector<std::string> gpu_suites() {
  std::vector<std::string> names;
  for (const GpuSuite& suite : kGpuSuites) names.emplace_back(suite.name);
  return names;
}

Status run_gpu_suites(const std::vector<std::string>& names, const ContextOptions& options,
                      bool json) {
  for (const std::string& name : names) {
    if (find_suite(name) == nullptr) {
      return invalid_argument("bench: suite is ", name, ", must on a GPU be one of ",
                              joined(gpu_suites()));
    }
  }
  ContextOptions on_stream = options;
  HYBRIDATTN_ASSIGN(const std::unique_ptr<Context> probe, Context::create(options));  // the device
  require_cuda(cudaSetDevice(options.device_index), "device");
  cudaStream_t stream;
  require_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  on_stream.stream = stream;
  HYBRIDATTN_ASSIGN(const std::unique_ptr<Context> context, Context::create(on_stream));
  cudaDeviceProp properties;
  require_cuda(cudaGetDeviceProperties(&properties, options.device_index), "device");
  const double copy_rate = copy_bandwidth(stream);
  Report report(json);
  report.row({{"device", properties.name}, {"copy_tb_per_s", copy_rate / 1e12, 2}});
  for (const std::string& name : names) find_suite(name)->run(*context, stream, copy_rate, report);
  return {};
}

}  // namespace hybridattn::bench
