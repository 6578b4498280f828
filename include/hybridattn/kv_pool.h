// PagedKvPool: pages of keys and values for all attention layers, with their allocator.
#pragma once

#include <memory>

#include "hybridattn/context.h"
#include "hybridattn/handle_allocator.h"
#include "hybridattn/paged_attn_backend.h"

namespace hybridattn {

struct PagedKvShape {
  std::int32_t num_layers = 0;    ///< layers that hold keys and values
  std::int32_t page_size = 16;    ///< tokens of a page, at least 1
  std::int32_t num_kv_heads = 0;  ///< HK
  std::int32_t head_dim = 0;      ///< D
  std::int32_t v_head_dim = 0;    ///< DV
  DType dtype = DType::kBF16;     ///< f32, bf16, f16 or f8_e4m3

  /// Bytes of one page over all layers, keys and values; 2^63 - 1 for any more.
  HYBRIDATTN_API std::int64_t page_bytes() const noexcept;
};

/// Owns `[num_pages, page_size, HK, D]` for K and for V of each layer. A page id is the same page
/// in every layer.
class HYBRIDATTN_API PagedKvPool {
 public:
  /// Errors: invalid_argument for a shape that is not positive or a dtype that is no cache dtype;
  /// resource_exhausted with the bytes when the context's allocator has none.
  static Result<std::unique_ptr<PagedKvPool>> create(Context& context, const PagedKvShape& shape,
                                                     std::int32_t num_pages);
  ~PagedKvPool();
  PagedKvPool(const PagedKvPool&) = delete;
  PagedKvPool& operator=(const PagedKvPool&) = delete;

  HandleAllocator& pages() noexcept { return pages_; }
  const PagedKvShape& shape() const noexcept { return shape_; }
  const PagedKvView& view() const noexcept { return view_; }
  /// Bytes allocated: num_pages * shape().page_bytes().
  std::int64_t bytes() const noexcept { return bytes_; }
  Status check() const { return pages_.check(); }

 private:
  PagedKvPool(Context& context, const PagedKvShape& shape, std::int32_t num_pages, void* memory);
  Context& context_;
  PagedKvShape shape_;
  void* memory_;
  std::int64_t bytes_;
  PagedKvView view_;
  HandleAllocator pages_;
};

}  // namespace hybridattn
