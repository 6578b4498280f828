// The implementations of gdn_prefill on CUDA.
#include "hybridattn/status_macros.h"
#include "src/cuda/kernels.h"
#include "src/cuda/sm80/gdn_walk.cuh"
#include "src/cuda/sm90/gdn_walk.cuh"
#include "src/cuda/smxx/gdn_recurrence.cuh"

namespace hybridattn::cuda {
namespace {

/// Prepares all chunks and walks over them. X: the type of q, k, v and out.
template <class X>
using Walk = Status (*)(const ChunkParams&, const core::DeviceLaunch&);

template <class X>
Status run_chunks(const ChunkParams& p, const core::DeviceLaunch& launch, Walk<X> walk) {
  if (p.rows.chunks == 0) return {};
  HYBRIDATTN_TRY(prepare_chunks<X>(p, launch));
  return walk(p, launch);
}

#if defined(HYBRIDATTN_CUDA_SM90)
const char* refusal_sm90(const ops::GdnPrefillParams& p, const core::DeviceInfo& info) {
  if (info.compute_major != 9) return "the sm90 kernels run on compute capability 9.0 alone";
  return chunk_refusal(p);
}

Status run_sm90(const ops::GdnPrefillParams& p, const core::DeviceLaunch& launch) {
  const ChunkParams params = chunk_params(p, launch);
  return p.q.dtype == DType::kBF16
             ? run_chunks<__nv_bfloat16>(params, launch, walk_chunks_sm90<__nv_bfloat16>)
             : run_chunks<__half>(params, launch, walk_chunks_sm90<__half>);
}
#endif

const char* refusal_sm80(const ops::GdnPrefillParams& p, const core::DeviceInfo& info) {
  if (info.compute_major < 8) return "the sm80 kernels need compute capability 8.0 or more";
  return chunk_refusal(p);
}

Status run_sm80(const ops::GdnPrefillParams& p, const core::DeviceLaunch& launch) {
  const ChunkParams params = chunk_params(p, launch);
  return p.q.dtype == DType::kBF16
             ? run_chunks<__nv_bfloat16>(params, launch, walk_chunks_sm80<__nv_bfloat16>)
             : run_chunks<__half>(params, launch, walk_chunks_sm80<__half>);
}

Status run_smxx(const ops::GdnPrefillParams& p, const core::DeviceLaunch& launch) {
  return run_recurrence("gdn_prefill", recurrence_params(p), launch);
}

}  // namespace

core::DeviceKernels<ops::GdnPrefillParams> gdn_prefill_kernels() {
  return {{
#if defined(HYBRIDATTN_CUDA_SM90)
      {"sm90", refusal_sm90, chunk_needs, run_sm90},
#endif
      {"sm80", refusal_sm80, chunk_needs, run_sm80},
      {"smxx", nullptr, nullptr, run_smxx},
  }};
}

}  // namespace hybridattn::cuda
