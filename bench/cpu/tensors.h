// Tensors of the CPU benchmarks: large blocks full of small random numbers.
#pragma once

#include <cmath>
#include <initializer_list>
#include <vector>

#include "bench/cpu/memory.h"
#include "hybridattn/tensor.h"

namespace hybridattn::bench {

/// A dense tensor of numbers in [low, high), of a float type. Owns them.
class HostTensor {
 public:
  HostTensor(DType dtype, std::initializer_list<std::int64_t> dims, float low, float high)
      : view_(nullptr, dtype, dims),
        block_(view_.num_elements() * static_cast<std::int64_t>(dtype_size(dtype))) {
    view_.data = block_.data();
    std::uint32_t state = 1;
    for (std::int64_t i = 0; i < view_.num_elements(); ++i) {
      state = state * 1664525u + 1013904223u;
      const float unit = static_cast<float>(state >> 8) / (1 << 24);
      set(i, low + (high - low) * unit);
    }
  }

  const TensorView& view() const { return view_; }
  std::int64_t bytes() const {
    return view_.num_elements() * static_cast<std::int64_t>(dtype_size(view_.dtype));
  }
  float at(std::int64_t i) const {
    switch (view_.dtype) {
      case DType::kF32: return static_cast<const float*>(view_.data)[i];
      case DType::kF16: return to_float(static_cast<const F16*>(view_.data)[i]);
      case DType::kF8E4M3: return to_float(static_cast<const F8E4M3*>(view_.data)[i]);
      default: return to_float(static_cast<const BF16*>(view_.data)[i]);
    }
  }

 private:
  void set(std::int64_t i, float value) {
    switch (view_.dtype) {
      case DType::kF32: static_cast<float*>(view_.data)[i] = value; return;
      case DType::kF16: static_cast<F16*>(view_.data)[i] = to_f16(value); return;
      case DType::kF8E4M3: static_cast<F8E4M3*>(view_.data)[i] = to_f8_e4m3(value); return;
      default: static_cast<BF16*>(view_.data)[i] = to_bf16(value);
    }
  }

  TensorView view_;
  BigBlock block_;
};

/// ||got - want|| / ||want|| over the first `count` elements.
inline double relative_error(const HostTensor& got, const HostTensor& want, std::int64_t count) {
  double difference = 0, size = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const double d = double{got.at(i)} - want.at(i);
    difference += d * d;
    size += double{want.at(i)} * want.at(i);
  }
  return size > 0 ? std::sqrt(difference / size) : std::sqrt(difference);
}

}  // namespace hybridattn::bench
