#include "src/cuda/sm90/tensor_map.h"

#include <cudaTypedefs.h>
#include <cuda_runtime.h>

#include "hybridattn/status_macros.h"
#include "src/cuda/check.h"

namespace hybridattn::cuda {
namespace {

/// The driver's encoder: the library links the runtime alone.
Status load_encoder(PFN_cuTensorMapEncodeTiled_v12000* encode) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  HYBRIDATTN_TRY(check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                        cudaEnableDefault, &found),
                       "cuTensorMapEncodeTiled"));
  *encode = reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  return {};
}

}  // namespace

Status encode_token_boxes(const View& x, std::int64_t tokens, int heads, int channels,
                          CUtensorMap* map) {
  PFN_cuTensorMapEncodeTiled_v12000 encode = nullptr;
  HYBRIDATTN_TRY(load_encoder(&encode));
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(channels), static_cast<cuuint64_t>(heads),
                              static_cast<cuuint64_t>(tokens)};
  // The stride of a single head or token is nobody's, but must be one that a map can have.
  const std::int64_t head = heads > 1 ? x.stride[1] : channels;
  const std::int64_t token = tokens > 1 ? x.stride[0] : channels;
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(head) * 2,
                                static_cast<cuuint64_t>(token) * 2};
  const cuuint32_t box[] = {64, 1, 64};
  const cuuint32_t steps[] = {1, 1, 1};
  const auto type =
      x.dtype == DType::kBF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  const CUresult result =
      encode(map, type, 3, x.data, sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return {};
  return error(StatusCode::kDeviceError, "cuTensorMapEncodeTiled: error ", static_cast<int>(result),
               " for [", tokens, ", ", heads, ", ", channels, "] with strides of ", strides[1],
               " and ", strides[0], " bytes");
}

}  // namespace hybridattn::cuda
