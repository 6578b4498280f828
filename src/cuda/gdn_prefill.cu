// The implementations of gdn_prefill on CUDA.
#include "hybridattn/status_macros.h"
#include "src/cuda/kernels.h"
#include "src/cuda/sm90/gdn_walk.cuh"
#include "src/cuda/smxx/gdn_recurrence.cuh"

namespace hybridattn::cuda {
namespace {

#if defined(HYBRIDATTN_CUDA_SM90)
const char* refusal_sm90(const ops::GdnPrefillParams& p, const core::DeviceInfo& info) {
  if (info.compute_major != 9) return "the sm90 kernels run on compute capability 9.0 alone";
  return chunk_refusal(p);
}

template <class X>
Status run_chunks(const ChunkParams& p, const core::DeviceLaunch& launch) {
  if (p.rows.chunks == 0) return {};
  HYBRIDATTN_TRY(prepare_chunks<X>(p, launch));
  return walk_chunks_sm90<X>(p, launch);
}

Status run_sm90(const ops::GdnPrefillParams& p, const core::DeviceLaunch& launch) {
  const ChunkParams params = chunk_params(p, launch);
  return p.q.dtype == DType::kBF16 ? run_chunks<__nv_bfloat16>(params, launch)
                                   : run_chunks<__half>(params, launch);
}

#endif

Status run_smxx(const ops::GdnPrefillParams& p, const core::DeviceLaunch& launch) {
  return run_recurrence("gdn_prefill", recurrence_params(p), launch);
}

}  // namespace

core::DeviceKernels<ops::GdnPrefillParams> gdn_prefill_kernels() {
#if defined(HYBRIDATTN_CUDA_SM90)
  return {{{"sm90", refusal_sm90, chunk_needs, run_sm90}, {"smxx", nullptr, nullptr, run_smxx}}};
#else
  return {{{"smxx", nullptr, nullptr, run_smxx}}};
#endif
}

}  // namespace hybridattn::cuda
