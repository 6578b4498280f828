#include "src/cuda/smxx/gdn_decode_verify-inl.cuh"

namespace hybridattn::cuda {
template Status run_decode_verify<__nv_bfloat16, float, 128, 128>(const DecodeVerifyParams&,
                                                                  const core::DeviceLaunch&);
template Status run_decode_verify<__nv_bfloat16, __nv_bfloat16, 128, 128>(
    const DecodeVerifyParams&, const core::DeviceLaunch&);
}  // namespace hybridattn::cuda
