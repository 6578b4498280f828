#include "src/cuda/sm90/tensor_map.h"

#include <atomic>
#include <string>

#include <cudaTypedefs.h>
#include <cuda_runtime.h>

#include "hybridattn/status_macros.h"
#include "src/cuda/check.h"

namespace hybridattn::cuda {
namespace {

using Encoder = PFN_cuTensorMapEncodeTiled_v12000;

/// The driver's encoder: the library links the runtime alone. Looked up once.
Status find_encoder(Encoder* encode) {
  static std::atomic<Encoder> found{nullptr};
  *encode = found.load(std::memory_order_relaxed);
  if (*encode != nullptr) return {};
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result{};
  HYBRIDATTN_TRY(check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                        cudaEnableDefault, &result),
                       "cuTensorMapEncodeTiled"));
  *encode = reinterpret_cast<Encoder>(function);
  found.store(*encode, std::memory_order_relaxed);
  return {};
}

/// Boxes of a tensor of 16-bit elements, in 128-byte swizzle. Strides count elements, from the
/// second dimension on.
template <int Rank>
Status encode_boxes(const View& x, const std::int64_t (&sizes)[Rank],
                    const std::int64_t (&strides)[Rank - 1], const cuuint32_t (&box)[Rank],
                    CUtensorMap* map) {
  Encoder encode = nullptr;
  HYBRIDATTN_TRY(find_encoder(&encode));
  cuuint64_t counts[Rank], bytes[Rank - 1];
  cuuint32_t steps[Rank];
  for (int d = 0; d < Rank; ++d) {
    counts[d] = static_cast<cuuint64_t>(sizes[d]);
    steps[d] = 1;
    // The stride of a single one is nobody's, but must be one that a map can have.
    if (d > 0) bytes[d - 1] = static_cast<cuuint64_t>(sizes[d] > 1 ? strides[d - 1] : 64) * 2;
  }
  const auto type =
      x.dtype == DType::kBF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  const CUresult result =
      encode(map, type, Rank, x.data, counts, bytes, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return {};
  std::string shape;
  for (int d = 0; d < Rank; ++d) {
    shape += concat(d > 0 ? ", " : "", counts[d]);
    if (d > 0) shape += concat(" at ", bytes[d - 1], " bytes");
  }
  return error(StatusCode::kDeviceError, "cuTensorMapEncodeTiled: error ", static_cast<int>(result),
               " for a tensor of (", shape, ")");
}

}  // namespace

Status encode_token_boxes(const View& x, std::int64_t tokens, int heads, int channels,
                          CUtensorMap* map) {
  return encode_boxes<3>(x, {channels, heads, tokens}, {x.stride[1], x.stride[0]}, {64, 1, 64},
                         map);
}

Status encode_row_boxes(const View& x, std::int64_t rows, std::int64_t columns, int box_rows,
                        CUtensorMap* map) {
  return encode_boxes<2>(x, {columns, rows}, {x.stride[0]}, {64, static_cast<cuuint32_t>(box_rows)},
                         map);
}

Status encode_key_boxes(const View& cache, const CacheShape& shape, CUtensorMap* map) {
  const auto groups = static_cast<cuuint32_t>(shape.dim / 64);
  return encode_boxes<5>(cache, {64, shape.page_size, shape.dim / 64, shape.heads, shape.pages},
                         {cache.stride[1], 64, cache.stride[2], cache.stride[0]},
                         {64, 8, groups, 1, 1}, map);
}

}  // namespace hybridattn::cuda
