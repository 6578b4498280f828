#include "tests/support/tensor.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

namespace hybridattn::testing {
namespace {

std::size_t to_size(std::int64_t value) { return static_cast<std::size_t>(value); }

std::int64_t product(const Shape& shape) {
  std::int64_t n = 1;
  for (const std::int64_t dim : shape) n *= dim;
  return n;
}

/// Strides of `shape` when dimensions lie in memory in the order `order`, with gaps between.
Shape strides_of(const Shape& shape, const std::vector<std::size_t>& order, std::int64_t gap) {
  Shape strides(shape.size());
  std::int64_t next = 1;
  for (std::size_t i = order.size(); i-- > 0;) {
    strides[order[i]] = next;
    next *= shape[order[i]] + (i > 0 ? gap : 0);
  }
  return strides;
}

struct Run {
  std::size_t offset;
  std::size_t bytes;
};

/// Everything under `prefix` as one stretch of memory, where it is one: whole parts are compared
/// and poisoned far more often than elements of gapped layouts.
std::optional<Run> dense_run(const Buffer& buffer, const Index& prefix) {
  const ConstTensorView view = buffer.view();
  std::int64_t elements = 1;
  for (int d = view.rank - 1; d >= static_cast<int>(prefix.size()); --d) {
    if (view.stride(d) != elements) return std::nullopt;
    elements *= view.dim(d);
  }
  std::int64_t at = 0;
  for (std::size_t d = 0; d < prefix.size(); ++d) at += prefix[d] * view.strides[d];
  const auto base = static_cast<const Byte*>(view.data) - buffer.memory().data();
  return Run{static_cast<std::size_t>(base) + to_size(at) * buffer.element_size(),
             to_size(elements) * buffer.element_size()};
}

}  // namespace

std::vector<double> Random::values(std::int64_t count, double low, double high) {
  std::vector<double> out;
  for (std::int64_t i = 0; i < count; ++i) out.push_back(uniform(low, high));
  return out;
}

Buffer::Buffer(DType dtype, Shape shape, Layout layout) : dtype_(dtype), shape_(std::move(shape)) {
  std::vector<std::size_t> order;
  for (std::size_t d = 0; d < shape_.size(); ++d) order.push_back(d);
  const bool transposed = layout == Layout::kTransposed || layout == Layout::kAlignedTransposed;
  if (transposed && shape_.size() == 3) std::swap(order[0], order[1]);
  if (transposed && shape_.size() == 4) std::swap(order[1], order[2]);
  const bool aligned = layout == Layout::kAlignedSliced || layout == Layout::kAlignedTransposed;
  const std::int64_t gap = layout == Layout::kDense ? 0 : aligned ? 16 : 3;
  strides_ = strides_of(shape_, order, gap);
  base_ = gap;
  std::int64_t last = base_;
  for (std::size_t d = 0; d < shape_.size(); ++d) last += (shape_[d] - 1) * strides_[d];
  const std::int64_t elements = product(shape_) == 0 ? 1 : last + 1 + gap;
  memory_ = Bytes(to_size(elements) * dtype_size(dtype_), 0xff);
}

TensorView Buffer::view() {
  TensorView view;
  view.data = memory_.data() + to_size(base_) * element_size();
  view.dtype = dtype_;
  view.rank = static_cast<int>(shape_.size());
  for (std::size_t d = 0; d < shape_.size(); ++d) {
    view.shape[d] = shape_[d];
    view.strides[d] = strides_[d];
  }
  return view;
}

ConstTensorView Buffer::view() const { return const_cast<Buffer*>(this)->view(); }

std::int64_t Buffer::num_elements() const { return product(shape_); }

double Buffer::load(std::size_t offset) const {
  const Byte* from = memory_.data() + offset;
  const auto read = [&]<class T>(T value) {
    std::memcpy(&value, from, sizeof(value));
    return value;
  };
  switch (dtype_) {
    case DType::kF32: return static_cast<double>(read(0.0f));
    case DType::kBF16: return static_cast<double>(to_float(read(BF16{})));
    case DType::kF16: return static_cast<double>(to_float(read(F16{})));
    case DType::kF8E4M3: return static_cast<double>(to_float(read(F8E4M3{})));
    case DType::kF64: return read(0.0);
    case DType::kI32: return static_cast<double>(read(std::int32_t{}));
    case DType::kI64: return static_cast<double>(read(std::int64_t{}));
    case DType::kI8: return static_cast<double>(read(std::int8_t{}));
  }
  return 0;
}

void Buffer::store(std::size_t offset, double value) {
  const auto write = [&](const auto& rounded) {
    std::memcpy(memory_.data() + offset, &rounded, sizeof(rounded));
  };
  const auto single = static_cast<float>(value);
  switch (dtype_) {
    case DType::kF32: return write(single);
    case DType::kBF16: return write(to_bf16(single));
    case DType::kF16: return write(to_f16(single));
    case DType::kF8E4M3: return write(to_f8_e4m3(single));
    case DType::kF64: return write(value);
    case DType::kI32: return write(static_cast<std::int32_t>(value));
    case DType::kI64: return write(static_cast<std::int64_t>(value));
    case DType::kI8: return write(static_cast<std::int8_t>(value));
  }
}

void Buffer::for_each(const Index& prefix, const std::function<void(std::size_t)>& fn) const {
  if (const auto run = dense_run(*this, prefix)) {
    for (std::size_t b = 0; b < run->bytes; b += element_size()) fn(run->offset + b);
    return;
  }
  std::int64_t at = base_;
  for (std::size_t d = 0; d < prefix.size(); ++d) at += prefix[d] * strides_[d];
  if (prefix.size() == shape_.size()) return fn(to_size(at) * element_size());
  Index longer = prefix;
  longer.push_back(0);
  for (std::int64_t i = 0; i < shape_[prefix.size()]; ++i) {
    longer.back() = i;
    for_each(longer, fn);
  }
}

double Buffer::get(const Index& index) const {
  double value = 0;
  for_each(index, [&](std::size_t offset) { value = load(offset); });
  return value;
}

void Buffer::set(const Index& index, double value) {
  for_each(index, [&](std::size_t offset) { store(offset, value); });
}

std::vector<double> Buffer::values() const {
  std::vector<double> out;
  for_each({}, [&](std::size_t offset) { out.push_back(load(offset)); });
  return out;
}

void Buffer::fill(const std::vector<double>& values) {
  ASSERT_EQ(static_cast<std::int64_t>(values.size()), num_elements());
  std::size_t next = 0;
  for_each({}, [&](std::size_t offset) { store(offset, values[next++]); });
}

void Buffer::fill_part(std::int64_t first, Random& random, double low, double high) {
  for_each({first}, [&](std::size_t offset) { store(offset, random.uniform(low, high)); });
}

Buffer Buffer::to_f64() const {
  Buffer copy(DType::kF64, shape_);
  copy.fill(values());
  return copy;
}

void Buffer::poison(const Index& prefix) {
  if (const auto run = dense_run(*this, prefix)) {
    std::memset(memory_.data() + run->offset, 0xff, run->bytes);
    return;
  }
  for_each(prefix,
           [&](std::size_t offset) { std::memset(memory_.data() + offset, 0xff, element_size()); });
}

std::vector<double> Buffer::gather(const std::vector<std::int64_t>& first) const {
  std::vector<double> out;
  for (const std::int64_t i : first) {
    for_each({i}, [&](std::size_t offset) { out.push_back(load(offset)); });
  }
  return out;
}

std::vector<Byte> Buffer::bytes(std::int64_t first) const {
  if (const auto run = dense_run(*this, {first})) {
    const auto begin = memory_.begin() + static_cast<std::ptrdiff_t>(run->offset);
    return {begin, begin + static_cast<std::ptrdiff_t>(run->bytes)};
  }
  std::vector<Byte> out;
  for_each({first}, [&](std::size_t offset) {
    for (std::size_t b = 0; b < element_size(); ++b) out.push_back(memory_[offset + b]);
  });
  return out;
}

bool Buffer::is_poison(const Index& prefix) const {
  bool intact = true;
  for_each(prefix, [&](std::size_t offset) {
    for (std::size_t b = 0; b < element_size(); ++b) {
      intact = intact && memory_[offset + b] == Byte{0xff};
    }
  });
  return intact;
}

bool Buffer::gaps_intact() const {
  std::vector<bool> element(memory_.size(), false);
  for_each({}, [&](std::size_t offset) {
    for (std::size_t b = 0; b < element_size(); ++b) element[offset + b] = true;
  });
  for (std::size_t i = 0; i < memory_.size(); ++i) {
    if (!element[i] && memory_[i] != Byte{0xff}) return false;
  }
  return true;
}

Error measure(const std::vector<double>& got, const std::vector<double>& want) {
  Error error;
  if (got.size() != want.size()) {
    error.failure = "sizes differ";
    return error;
  }
  double difference = 0;
  double whole = 0;
  double worst = 0;
  double largest = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (!std::isfinite(got[i]) || !std::isfinite(want[i])) {
      if (got[i] == want[i]) continue;  // never true for NaN
      error.failure = "element " + std::to_string(i) + " is " + std::to_string(got[i]) +
                      ", wanted " + std::to_string(want[i]);
      return error;
    }
    const double off = std::fabs(got[i] - want[i]);
    difference += off * off;
    whole += want[i] * want[i];
    worst = std::fmax(worst, off);
    largest = std::fmax(largest, std::fabs(want[i]));
  }
  error.l2 = difference == 0 ? 0 : std::sqrt(difference / whole);
  error.max = worst == 0 ? 0 : worst / largest;
  return error;
}

::testing::AssertionResult near(const std::vector<double>& got, const std::vector<double>& want,
                                const Bound& bound) {
  const Error error = measure(got, want);
  if (!error.failure.empty()) return ::testing::AssertionFailure() << error.failure;
  if (error.l2 <= bound.l2 && error.max <= bound.max) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure()
         << "relative l2 error " << error.l2 << " (bound " << bound.l2 << "), worst element "
         << error.max << " (bound " << bound.max << ")";
}

double half_ulp(DType dtype) {
  switch (dtype) {
    case DType::kBF16: return 0x1p-8;
    case DType::kF16: return 0x1p-11;
    case DType::kF8E4M3: return 0x1p-4;
    case DType::kF64: return 0x1p-53;
    default: return 0x1p-24;
  }
}

}  // namespace hybridattn::testing
