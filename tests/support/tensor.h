// Owned tensors of any dtype and layout, and how tests compare them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "hybridattn/tensor.h"
#include "tests/support/shared_memory.h"

namespace hybridattn::testing {

using Shape = std::vector<std::int64_t>;
using Index = std::vector<std::int64_t>;

/// SplitMix64 (Steele, Lea, Flood 2014): one word of state, so that a fresh one for each token
/// costs nothing.
class RandomEngine {
 public:
  using result_type = std::uint64_t;
  explicit RandomEngine(std::uint64_t seed) : state_(seed) {}
  static constexpr result_type min() { return 0; }
  static constexpr result_type max() { return ~result_type{0}; }
  result_type operator()() {
    std::uint64_t x = state_ += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
  }

 private:
  std::uint64_t state_;
};

/// The same numbers on every platform: standard distributions are not.
class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}
  double uniform(double low, double high) {
    return low + (high - low) * static_cast<double>(engine_() >> 11) * 0x1p-53;
  }
  /// In [low, high].
  std::int64_t integer(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(engine_() % static_cast<std::uint64_t>(high - low + 1));
  }
  std::vector<double> values(std::int64_t count, double low, double high);
  RandomEngine& engine() { return engine_; }

 private:
  RandomEngine engine_;
};

/// How a buffer lies in memory. The gaps hold NaN and must still do so after every call.
enum class Layout : std::uint8_t {
  kDense,
  kSliced,      ///< a slice of a wider tensor: every dimension but the first has a gap behind it
  kTransposed,  ///< dimensions 0 and 1 (rank 3) or 1 and 2 (rank 4) are swapped in memory
  // The same with gaps of 16 bytes or a multiple: kernels that move 16 bytes at once take them.
  kAlignedSliced,
  kAlignedTransposed,
};

/// Bytes of 0xff everywhere at first: NaN in every float type, -1 in every integer type.
class Buffer {
 public:
  Buffer() = default;
  Buffer(DType dtype, Shape shape, Layout layout = Layout::kDense);

  TensorView view();
  ConstTensorView view() const;
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  std::int64_t num_elements() const;

  double get(const Index& index) const;
  void set(const Index& index, double value);
  /// All elements in row-major order.
  std::vector<double> values() const;
  /// Rounds each value to the dtype.
  void fill(const std::vector<double>& values);
  /// Random values for everything under a first index.
  void fill_part(std::int64_t first, Random& random, double low, double high);
  /// A dense copy in double.
  Buffer to_f64() const;
  /// Rounds a value to the element at a byte offset, as for_each gives them.
  void store(std::size_t offset, double value);
  /// All bytes of everything under `prefix` become 0xff.
  void poison(const Index& prefix);
  /// Row-major values of the parts with the given first indices, one after the other.
  std::vector<double> gather(const std::vector<std::int64_t>& first) const;
  /// Bytes of one part.
  std::vector<Byte> bytes(std::int64_t first) const;
  /// Every byte under `prefix` is still 0xff.
  bool is_poison(const Index& prefix) const;
  /// Every byte outside of the elements is still 0xff.
  bool gaps_intact() const;
  /// Calls fn(byte offset) for each element under `prefix`, in row-major order.
  void for_each(const Index& prefix, const std::function<void(std::size_t)>& fn) const;

  const Bytes& memory() const { return memory_; }
  Bytes& memory() { return memory_; }
  std::size_t element_size() const { return dtype_size(dtype_); }

 private:
  double load(std::size_t offset) const;

  DType dtype_ = DType::kF32;
  Shape shape_;
  Shape strides_;
  std::int64_t base_ = 0;
  Bytes memory_;
};

/// Largest errors that a result may have, both relative: of the whole in the 2-norm, and of the
/// worst element against the largest wanted one.
struct Bound {
  double l2;
  double max;
};
struct Error {
  double l2 = 0;
  double max = 0;
  std::string failure;  ///< a NaN or an infinity where none belongs
};

/// A NaN never passes; infinities must stand in the same places with the same sign.
Error measure(const std::vector<double>& got, const std::vector<double>& want);
::testing::AssertionResult near(const std::vector<double>& got, const std::vector<double>& want,
                                const Bound& bound);

/// Half a unit in the last place of 1: what one rounding costs at most.
double half_ulp(DType dtype);

}  // namespace hybridattn::testing
