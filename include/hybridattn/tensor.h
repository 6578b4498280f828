// A tensor as the ops see it: a pointer, a type, a shape and strides. It owns nothing.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "hybridattn/dtype.h"

namespace hybridattn {

inline constexpr int kMaxRank = 4;

/// The only "no slot" and "no page". Kernels skip it and write zeros to its outputs.
inline constexpr std::int32_t kPadIndex = -1;

/// A strided view. Strides count elements, not bytes, and may be any value that keeps every element
/// inside the caller's memory; ops say which dimension they need dense (stride 1).
/// A default view has no data and stands for "not given".
template <class Void>
struct BasicTensorView {
  Void* data = nullptr;
  DType dtype = DType::kF32;
  int rank = 0;
  std::array<std::int64_t, kMaxRank> shape{};
  std::array<std::int64_t, kMaxRank> strides{};

  BasicTensorView() = default;

  /// A dense row-major view.
  BasicTensorView(Void* pointer, DType type, std::initializer_list<std::int64_t> dims)
      : data(pointer), dtype(type), rank(static_cast<int>(dims.size())) {
    int i = 0;
    for (const std::int64_t dim : dims) shape[static_cast<std::size_t>(i++)] = dim;
    std::int64_t stride = 1;
    for (int d = rank - 1; d >= 0; --d) {
      strides[static_cast<std::size_t>(d)] = stride;
      stride *= shape[static_cast<std::size_t>(d)];
    }
  }

  /// The same; the pointer says the type.
  template <class T>
  BasicTensorView(T* pointer, std::initializer_list<std::int64_t> dims)
      : BasicTensorView(static_cast<Void*>(pointer), dtype_of<std::remove_const_t<T>>, dims) {}

  /// A view with given strides, in elements.
  BasicTensorView(Void* pointer, DType type, std::initializer_list<std::int64_t> dims,
                  std::initializer_list<std::int64_t> element_strides)
      : BasicTensorView(pointer, type, dims) {
    int i = 0;
    for (const std::int64_t stride : element_strides)
      strides[static_cast<std::size_t>(i++)] = stride;
  }

  /// A writable view serves wherever a read-only one is wanted.
  template <class Other>
  requires(std::is_same_v<Void, const void>&& std::is_same_v<Other, void>)
      BasicTensorView(const BasicTensorView<Other>& other)  // NOLINT: implicit by design.
      : data(other.data), dtype(other.dtype), rank(other.rank), shape(other.shape),
        strides(other.strides) {}

  bool empty() const noexcept { return data == nullptr; }
  std::int64_t dim(int d) const noexcept { return shape[static_cast<std::size_t>(d)]; }
  std::int64_t stride(int d) const noexcept { return strides[static_cast<std::size_t>(d)]; }

  std::int64_t num_elements() const noexcept {
    std::int64_t n = 1;
    for (int d = 0; d < rank; ++d) n *= dim(d);
    return n;
  }

  /// The same memory from element `offset` on, with other dimensions.
  BasicTensorView at(std::int64_t offset, std::initializer_list<std::int64_t> dims,
                     std::initializer_list<std::int64_t> element_strides) const {
    using Byte = std::conditional_t<std::is_const_v<Void>, const std::byte, std::byte>;
    Byte* base = static_cast<Byte*>(data);
    if (base != nullptr) base += offset * static_cast<std::int64_t>(dtype_size(dtype));
    return BasicTensorView(base, dtype, dims, element_strides);
  }
};

using TensorView = BasicTensorView<void>;
using ConstTensorView = BasicTensorView<const void>;

}  // namespace hybridattn
