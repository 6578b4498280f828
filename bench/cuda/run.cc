#include <algorithm>
#include <iterator>

#include "bench/cuda/device.h"
#include "bench/cuda/suites.h"
#include "bench/gpu.h"
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
