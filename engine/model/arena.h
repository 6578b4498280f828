// Arena: takes tensors off one block, or only counts what they would need.
#pragma once

#include <initializer_list>

#include "hybridattn/context.h"
#include "hybridattn/status_macros.h"
#include "hybridattn/tensor.h"

namespace hybridattn::engine {

/// One block of the context's allocator. An arena without a block counts: the views that it gives
/// have no data, and `used()` is what a block must have. Owns the block.
class Arena {
 public:
  explicit Arena(Context& context) : context_(context) {}
  ~Arena() {
    if (block_ != nullptr) context_.allocator().deallocate(block_, capacity_);
  }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// A block of at least `bytes`. Errors: resource_exhausted; the old block stays then.
  Status reserve(std::size_t bytes) {
    if (bytes <= capacity_) return {};
    auto* grown = static_cast<std::byte*>(context_.allocator().allocate(bytes));
    if (grown == nullptr) {
      return error(StatusCode::kResourceExhausted, "activations: the allocator gave no ", bytes,
                   " bytes");
    }
    if (block_ != nullptr) context_.allocator().deallocate(block_, capacity_);
    block_ = grown;
    capacity_ = bytes;
    return {};
  }

  TensorView take(DType dtype, std::initializer_list<std::int64_t> dims) {
    TensorView view(block_ != nullptr ? block_ + used_ : nullptr, dtype, dims);
    const auto bytes = static_cast<std::size_t>(view.num_elements()) * dtype_size(dtype);
    used_ += (bytes + 63) / 64 * 64;
    return view;
  }
  void rewind(std::size_t used = 0) { used_ = used; }
  std::size_t used() const { return used_; }
  std::size_t capacity() const { return capacity_; }

 private:
  Context& context_;
  std::byte* block_ = nullptr;
  std::size_t capacity_ = 0;
  std::size_t used_ = 0;
};

}  // namespace hybridattn::engine
