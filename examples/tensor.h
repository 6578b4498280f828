// Stands for an engine's own tensors in the examples: floats with a shape.
#pragma once

#include <algorithm>
#include <cmath>
#include <random>
#include <span>
#include <vector>

#include "hybridattn/tensor.h"

namespace examples {

/// The memory stays where it is as long as the tensor lives, so views of it may be kept.
class Tensor {
 public:
  using Dims = std::initializer_list<std::int64_t>;

  explicit Tensor(Dims dims, float value = 0.0f) : layout_(static_cast<float*>(nullptr), dims) {
    values_.assign(static_cast<std::size_t>(layout_.num_elements()), value);
  }
  Tensor(Tensor&&) = default;

  operator hybridattn::TensorView() { return rows(0, layout_.dim(0)); }
  operator hybridattn::ConstTensorView() const { return rows(0, layout_.dim(0)); }
  /// A view of rows first .. first + count - 1 along the first dimension.
  hybridattn::TensorView rows(std::int64_t first, std::int64_t count) {
    return cut(hybridattn::TensorView(layout_), values_.data(), first, count);
  }
  hybridattn::ConstTensorView rows(std::int64_t first, std::int64_t count) const {
    return cut(hybridattn::ConstTensorView(layout_), values_.data(), first, count);
  }
  /// The values, or those of one row.
  std::span<float> values() { return values_; }
  std::span<const float> values() const { return values_; }
  std::span<float> row(std::int64_t i) {
    const auto size = static_cast<std::size_t>(layout_.stride(0));
    return values().subspan(static_cast<std::size_t>(i) * size, size);
  }

 private:
  template <class View, class T>
  static View cut(View view, T* data, std::int64_t first, std::int64_t count) {
    view.data = data + first * view.stride(0);
    view.shape[0] = count;
    return view;
  }
  hybridattn::TensorView layout_;  // without the memory
  std::vector<float> values_;
};

/// Values between -1 and 1, the same ones for the same seed.
inline void fill_noise(Tensor& tensor, std::int32_t seed) {
  std::minstd_rand random(static_cast<std::uint32_t>(seed) + 1);
  for (float& value : tensor.values()) value = static_cast<float>(random() % 2001) / 1000.0f - 1.0f;
}
inline Tensor noise(Tensor::Dims dims, std::int32_t seed) {
  Tensor tensor(dims);
  fill_noise(tensor, seed);
  return tensor;
}

/// The largest difference; infinite where one is not a number.
inline float max_difference(std::span<const float> a, std::span<const float> b) {
  float largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const float difference = std::abs(a[i] - b[i]);
    largest = std::isnan(difference) ? INFINITY : std::max(largest, difference);
  }
  return largest;
}

}  // namespace examples
