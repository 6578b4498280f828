#include "bench/cuda/device.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#include "bench/median.h"

namespace hybridattn::bench {
namespace {

/// `count` random elements of a dtype.
std::vector<std::byte> random_elements(DType dtype, std::int64_t count, double low, double high) {
  static std::mt19937 engine(7);
  std::uniform_real_distribution<float> uniform(static_cast<float>(low), static_cast<float>(high));
  std::vector<std::byte> out(static_cast<std::size_t>(count) * dtype_size(dtype));
  for (std::int64_t i = 0; i < count; ++i) {
    const float value = uniform(engine);
    std::byte* at = out.data() + static_cast<std::size_t>(i) * dtype_size(dtype);
    if (dtype == DType::kF32) {
      std::memcpy(at, &value, 4);
    } else if (dtype == DType::kF8E4M3) {
      const F8E4M3 rounded = to_f8_e4m3(value);
      std::memcpy(at, &rounded, 1);
    } else {
      const BF16 rounded = to_bf16(value);
      std::memcpy(at, &rounded, 2);
    }
  }
  return out;
}

float time_ms(cudaStream_t stream, const std::function<void()>& fn) {
  cudaEvent_t begin, end;
  require_cuda(cudaEventCreate(&begin), "event");
  require_cuda(cudaEventCreate(&end), "event");
  require_cuda(cudaEventRecord(begin, stream), "event");
  fn();
  require_cuda(cudaEventRecord(end, stream), "event");
  require_cuda(cudaEventSynchronize(end), "run");
  float ms = 0;
  require_cuda(cudaEventElapsedTime(&ms, begin, end), "event");
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return ms;
}

}  // namespace

void require_cuda(cudaError_t code, const char* what) {
  require(code == cudaSuccess, concat(what, ": ", cudaGetErrorString(code)));
}

DeviceTensor::DeviceTensor(DType dtype, std::vector<std::int64_t> shape, double low, double high)
    : dtype_(dtype), shape_(std::move(shape)) {
  std::int64_t count = 1;
  for (const std::int64_t dim : shape_) count *= dim;
  bytes_ = count * static_cast<std::int64_t>(dtype_size(dtype));
  require_cuda(cudaMalloc(&data_, static_cast<std::size_t>(std::max<std::int64_t>(bytes_, 1))),
               "cudaMalloc");
  // A block of random numbers, over and over.
  const std::int64_t block = std::min<std::int64_t>(count, 1 << 22);
  const auto random = random_elements(dtype, block, low, high);
  for (std::int64_t at = 0; at < bytes_; at += static_cast<std::int64_t>(random.size())) {
    const auto part = std::min<std::int64_t>(static_cast<std::int64_t>(random.size()), bytes_ - at);
    require_cuda(cudaMemcpy(static_cast<std::byte*>(data_) + at, random.data(),
                            static_cast<std::size_t>(part), cudaMemcpyHostToDevice),
                 "cudaMemcpy");
  }
}

DeviceTensor::~DeviceTensor() { cudaFree(data_); }

DeviceTensor& DeviceTensor::operator=(DeviceTensor&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(dtype_, other.dtype_);
  std::swap(shape_, other.shape_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

TensorView DeviceTensor::view() const {
  TensorView view;
  view.data = data_;
  view.dtype = dtype_;
  view.rank = static_cast<int>(shape_.size());
  std::int64_t stride = 1;
  for (int d = view.rank - 1; d >= 0; --d) {
    const auto i = static_cast<std::size_t>(d);
    view.shape[i] = shape_[i];
    view.strides[i] = stride;
    stride *= shape_[i];
  }
  return view;
}

std::vector<float> DeviceTensor::read(std::int64_t first, std::int64_t count) const {
  std::vector<std::byte> bytes(static_cast<std::size_t>(count) * dtype_size(dtype_));
  require_cuda(cudaDeviceSynchronize(), "run");
  require_cuda(cudaMemcpy(bytes.data(),
                          static_cast<const std::byte*>(data_) +
                              first * static_cast<std::int64_t>(dtype_size(dtype_)),
                          bytes.size(), cudaMemcpyDeviceToHost),
               "cudaMemcpy");
  std::vector<float> out(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (dtype_ == DType::kF32) {
      std::memcpy(&out[i], bytes.data() + 4 * i, 4);
    } else if (dtype_ == DType::kF8E4M3) {
      F8E4M3 value;
      std::memcpy(&value, bytes.data() + i, 1);
      out[i] = to_float(value);
    } else {
      BF16 value;
      std::memcpy(&value, bytes.data() + 2 * i, 2);
      out[i] = to_float(value);
    }
  }
  return out;
}

double host_time(const std::function<Status()>& call) {
  std::vector<double> times;
  for (int i = 0; i < 41; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    require_ok(call());
    times.push_back(
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin)
            .count());
    require_cuda(cudaDeviceSynchronize(), "run");
  }
  return median(times);
}

double time_in_graph(cudaStream_t stream, const std::vector<std::function<Status()>>& calls,
                     int replays) {
  for (const auto& call : calls) require_ok(call());  // modules, workspace
  require_cuda(cudaStreamSynchronize(stream), "run");
  require_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (const auto& call : calls) require_ok(call());
  cudaGraph_t graph;
  require_cuda(cudaStreamEndCapture(stream, &graph), "capture");
  cudaGraphExec_t executable;
  require_cuda(cudaGraphInstantiate(&executable, graph, 0), "instantiate");
  std::vector<double> times;
  for (int i = 0; i < replays + 3; ++i) {
    const float ms =
        time_ms(stream, [&] { require_cuda(cudaGraphLaunch(executable, stream), "graph launch"); });
    if (i >= 3) times.push_back(ms * 1e3 / static_cast<double>(calls.size()));
  }
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  return median(times);
}

double copy_bandwidth(cudaStream_t stream) {
  constexpr std::int64_t kBytes = std::int64_t{2} << 30;
  const DeviceTensor from(DType::kF32, {kBytes / 4}, -1, 1), to(DType::kF32, {kBytes / 4}, -1, 1);
  std::vector<double> rates;
  for (int i = 0; i < 13; ++i) {
    const float ms = time_ms(stream, [&] {
      require_cuda(cudaMemcpyAsync(to.view().data, from.view().data, kBytes,
                                   cudaMemcpyDeviceToDevice, stream),
                   "copy");
    });
    if (i >= 3) rates.push_back(2.0 * static_cast<double>(kBytes) / ms * 1e3);
  }
  return median(rates);
}

double relative_error(const std::vector<float>& got, const std::vector<float>& want) {
  double off = 0, whole = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double d = static_cast<double>(got[i]) - static_cast<double>(want[i]);
    off += d * d;
    whole += static_cast<double>(want[i]) * static_cast<double>(want[i]);
  }
  return std::isfinite(off) ? std::sqrt(off / whole) : 1e30;
}

}  // namespace hybridattn::bench
