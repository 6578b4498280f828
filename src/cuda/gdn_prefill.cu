// The implementations of gdn_prefill on CUDA.
#include "hybridattn/status_macros.h"
#include "src/cuda/kernels.h"
#include "src/cuda/sm80/gdn_walk.cuh"
#include "src/cuda/sm90/gdn_walk.cuh"
#include "src/cuda/smxx/gdn_recurrence.cuh"

namespace hybridattn::cuda {
namespace {

/// The half that walks over the chunks.
using WalkChunks = Status (*)(const ChunkParams&, const core::DeviceLaunch&);

/// Prepares all chunks and walks over them, then over what lies between chunks and checkpoints; a
/// walk for each type of q, k, v and out.
template <WalkChunks kBF16, WalkChunks kF16>
Status run_chunks(const ops::GdnPrefillParams& p, const core::DeviceLaunch& launch) {
  const ChunkParams params = chunk_params(p, launch);
  if (params.rows.chunks == 0) return {};
  if (p.q.dtype == DType::kBF16) {
    HYBRIDATTN_TRY(prepare_chunks<__nv_bfloat16>(params, launch));
    HYBRIDATTN_TRY(kBF16(params, launch));
  } else {
    HYBRIDATTN_TRY(prepare_chunks<__half>(params, launch));
    HYBRIDATTN_TRY(kF16(params, launch));
  }
  if (p.checkpoints.host.count == 0) return {};
  const std::int64_t heads = p.v.dim(1);
  const ConstTensorView boundary(params.boundary,
                                 {p.checkpoints.host.count, heads, kChunkDim, kChunkDim});
  return finish_checkpoints(p, View(boundary), launch);
}

#if defined(HYBRIDATTN_CUDA_SM90)
const char* refusal_sm90(const ops::GdnPrefillParams& p, const core::DeviceInfo& info) {
  if (info.compute_major != 9) return "the sm90 kernels run on compute capability 9.0 alone";
  if (p.k.dim(2) != kChunkDim || p.v.dim(2) != kChunkDim) {
    return "the sm90 kernels have K = V = 128 only";
  }
  return chunk_refusal(p);
}
const char* refusal_sm90_fused(const ops::GdnPrefillParams& p, const core::DeviceInfo& info) {
  if (p.checkpoints.host.count > 0) return "the sm90_fused kernel stores no checkpoints";
  return refusal_sm90(p, info);
}
Status run_sm90_fused(const ops::GdnPrefillParams& p, const core::DeviceLaunch& launch) {
  const ChunkParams params = chunk_params(p, launch);
  if (params.rows.chunks == 0) return {};
  return p.q.dtype == DType::kBF16 ? run_chunks_fused<__nv_bfloat16>(params, launch)
                                   : run_chunks_fused<__half>(params, launch);
}
constexpr auto run_sm90 = run_chunks<walk_chunks_sm90<__nv_bfloat16>, walk_chunks_sm90<__half>>;
#endif

const char* refusal_sm80(const ops::GdnPrefillParams& p, const core::DeviceInfo& info) {
  if (info.compute_major < 8) return "the sm80 kernels need compute capability 8.0 or more";
  return chunk_refusal(p);
}
constexpr auto run_sm80 = run_chunks<walk_chunks_sm80<__nv_bfloat16>, walk_chunks_sm80<__half>>;

Status run_smxx(const ops::GdnPrefillParams& p, const core::DeviceLaunch& launch) {
  return run_recurrence("gdn_prefill", recurrence_params(p), launch);
}

}  // namespace

core::DeviceKernels<ops::GdnPrefillParams> gdn_prefill_kernels() {
  return {{
#if defined(HYBRIDATTN_CUDA_SM90)
      {"sm90_fused", refusal_sm90_fused, nullptr, run_sm90_fused, fused_is_faster},
      {"sm90", refusal_sm90, chunk_needs, run_sm90},
#endif
      {"sm80", refusal_sm80, chunk_needs, run_sm80},
      {"smxx", nullptr, nullptr, run_smxx},
  }};
}

}  // namespace hybridattn::cuda
