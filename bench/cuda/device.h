// What the GPU benchmarks share: memory, random data, time inside graphs, ceilings.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <cuda_runtime_api.h>

#include "bench/require.h"
#include "hybridattn/context.h"
#include "hybridattn/tensor.h"

namespace hybridattn::bench {

void require_cuda(cudaError_t code, const char* what);

/// Device memory with random numbers in it.
class DeviceTensor {
 public:
  DeviceTensor() = default;
  DeviceTensor(DType dtype, std::vector<std::int64_t> shape, double low, double high);
  ~DeviceTensor();
  DeviceTensor(DeviceTensor&& other) noexcept { *this = std::move(other); }
  DeviceTensor& operator=(DeviceTensor&& other) noexcept;

  TensorView view() const;
  std::int64_t bytes() const { return bytes_; }
  /// Elements [first, first + count) of the flat tensor, as floats.
  std::vector<float> read(std::int64_t first, std::int64_t count) const;

 private:
  void* data_ = nullptr;
  DType dtype_ = DType::kF32;
  std::vector<std::int64_t> shape_;
  std::int64_t bytes_ = 0;
};

/// Microseconds of one call, the median over replays of a graph that makes each call once.
double time_in_graph(cudaStream_t stream, const std::vector<std::function<Status()>>& calls,
                     int replays = 15);

/// Microseconds of the host for one call, the median.
double host_time(const std::function<Status()>& call);

/// Bytes a second, read and written, of a large copy.
double copy_bandwidth(cudaStream_t stream);

/// ||got - want|| / ||want||.
double relative_error(const std::vector<float>& got, const std::vector<float>& want);

}  // namespace hybridattn::bench
