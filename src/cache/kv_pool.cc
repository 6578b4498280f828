#include "hybridattn/kv_pool.h"

#include "hybridattn/status_macros.h"
#include "src/cache/pool_memory.h"
#include "src/core/arg_check.h"
#include "src/core/saturate.h"

namespace hybridattn {
namespace {

std::int64_t token_bytes(const PagedKvShape& shape, std::int32_t dim) {
  return core::saturating_product(
      {shape.num_kv_heads, dim, static_cast<std::int64_t>(dtype_size(shape.dtype))});
}

Status check_shape(const PagedKvShape& shape, std::int32_t num_pages) {
  core::ArgCheck check("PagedKvPool");
  check.require(shape.num_layers >= 1, "num_layers is ", shape.num_layers, ", must be at least 1");
  check.require(shape.page_size >= 1, "page_size is ", shape.page_size, ", must be at least 1");
  check.require(shape.num_kv_heads >= 1, "num_kv_heads is ", shape.num_kv_heads,
                ", must be at least 1");
  check.require(shape.head_dim >= 1, "head_dim is ", shape.head_dim, ", must be at least 1");
  check.require(shape.v_head_dim >= 1, "v_head_dim is ", shape.v_head_dim, ", must be at least 1");
  check.require(num_pages >= 0, "num_pages is ", num_pages, ", must be at least 0");
  check.require_supported(is_cache_float(shape.dtype), "dtype is ", dtype_name(shape.dtype),
                          ", must be f32, bf16, f16 or f8_e4m3");
  return check.status();
}

}  // namespace

std::int64_t PagedKvShape::page_bytes() const noexcept {
  return core::saturating_product(
      {num_layers, page_size,
       core::saturating_sum(token_bytes(*this, head_dim), token_bytes(*this, v_head_dim))});
}

PagedKvPool::PagedKvPool(Context& context, const PagedKvShape& shape, std::int32_t num_pages,
                         void* memory)
    : context_(context), shape_(shape), memory_(memory), bytes_(num_pages * shape.page_bytes()),
      pages_("page", num_pages) {
  cache::Cutter cutter(memory);
  const std::int64_t tokens = std::int64_t{num_pages} * shape.page_size;
  for (std::int32_t layer = 0; layer < shape.num_layers; ++layer) {
    view_.k.emplace_back(cutter.take(tokens * token_bytes(shape, shape.head_dim)), shape.dtype,
                         std::initializer_list<std::int64_t>{num_pages, shape.page_size,
                                                             shape.num_kv_heads, shape.head_dim});
    view_.v.emplace_back(cutter.take(tokens * token_bytes(shape, shape.v_head_dim)), shape.dtype,
                         std::initializer_list<std::int64_t>{num_pages, shape.page_size,
                                                             shape.num_kv_heads, shape.v_head_dim});
  }
}

PagedKvPool::~PagedKvPool() {
  context_.allocator().deallocate(memory_, static_cast<std::size_t>(bytes_ > 0 ? bytes_ : 1));
}

Result<std::unique_ptr<PagedKvPool>> PagedKvPool::create(Context& context,
                                                         const PagedKvShape& shape,
                                                         std::int32_t num_pages) {
  HYBRIDATTN_TRY(check_shape(shape, num_pages));
  HYBRIDATTN_ASSIGN(void* memory,
                    cache::allocate_pool(context, "PagedKvPool", num_pages, shape.page_bytes()));
  return std::unique_ptr<PagedKvPool>(new PagedKvPool(context, shape, num_pages, memory));
}

}  // namespace hybridattn
