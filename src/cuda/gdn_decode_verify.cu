// The implementations of gdn_decode_verify on CUDA: as gdn_decode's.
#include "src/cuda/kernels.h"
#include "src/cuda/smxx/gdn_decode_verify.cuh"

namespace hybridattn::cuda {
namespace {

const char* refusal(const ops::GdnDecodeVerifyParams& p, const core::DeviceInfo&) {
  if (const char* of_step = decode_refusal(p.decode)) return of_step;
  return rows_aligned(p.kept) ? nullptr : "the fused kernel needs kept states aligned to 16 bytes";
}

template <class X>
Status run_typed(const DecodeVerifyParams& p, const core::DeviceLaunch& launch) {
  if (p.decode.state.dtype == DType::kF32) return run_decode_verify<X, float, 128, 128>(p, launch);
  return run_decode_verify<X, __nv_bfloat16, 128, 128>(p, launch);
}

Status run(const ops::GdnDecodeVerifyParams& p, const core::DeviceLaunch& launch) {
  const DecodeVerifyParams params{decode_params(p.decode, launch), View(p.kept), View(p.kept_conv),
                                  p.verify.device_kept, p.verify.device_parents};
  switch (p.decode.args.mixed_qkv.dtype) {
    case DType::kBF16: return run_typed<__nv_bfloat16>(params, launch);
    case DType::kF16: return run_typed<__half>(params, launch);
    default: return run_typed<float>(params, launch);
  }
}

}  // namespace

core::DeviceKernels<ops::GdnDecodeVerifyParams> gdn_decode_verify_kernels() {
  return {{{"smxx", refusal, nullptr, run}}};
}

}  // namespace hybridattn::cuda
