#include "src/cuda/sm90/cache_maps.cuh"

#include "src/cuda/sm90/tensor_map.h"

namespace hybridattn::cuda {
namespace {

constexpr std::int64_t kBlockKeys = 8;

CacheShape shape_of(const AttentionCall& call, int dim) {
  if (call.tables.pages == nullptr) return {1, call.cache_pages, call.kv_heads, dim};
  return {call.cache_pages, call.page_size.divisor(), call.kv_heads, dim};
}

/// A cache as its map's shape has it: dense keys are one page.
View view_of(const AttentionCall& call, const View& cache) {
  View view = cache;
  if (call.tables.pages == nullptr) view.stride[1] = cache.stride[0];
  return view;
}

bool mappable(const View& view, const CacheShape& shape) {
  constexpr std::int64_t kMostElements = std::int64_t{1} << 39;  // strides below 2^40 bytes
  const auto good = [](std::int64_t count, std::int64_t stride) {
    return count == 1 || (stride > 0 && stride < kMostElements);
  };
  return good(shape.pages, view.stride[0]) && good(shape.page_size, view.stride[1]) &&
         good(shape.heads, view.stride[2]);
}

}  // namespace

bool in_boxes(const AttentionCall& call) {
  const CacheShape shape = shape_of(call, 64);
  if (call.cache_pages >= 0x7fffffff) return false;
  if (call.tables.pages != nullptr && shape.page_size % kBlockKeys != 0) return false;
  return mappable(view_of(call, call.k), shape) && mappable(view_of(call, call.v), shape);
}

Status map_cache(const AttentionCall& call, int dim, CacheMaps* maps) {
  const CacheShape shape = shape_of(call, dim);
  HYBRIDATTN_TRY(encode_key_boxes(view_of(call, call.k), shape, &maps->k));
  return encode_key_boxes(view_of(call, call.v), shape, &maps->v);
}

}  // namespace hybridattn::cuda
