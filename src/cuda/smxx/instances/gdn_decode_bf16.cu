#include "src/cuda/smxx/gdn_decode-inl.cuh"

namespace hybridattn::cuda {
template Status run_decode<__nv_bfloat16, float, 128, 128>(const DecodeParams&,
                                                           const core::DeviceLaunch&);
template Status run_decode<__nv_bfloat16, __nv_bfloat16, 128, 128>(const DecodeParams&,
                                                                   const core::DeviceLaunch&);
}  // namespace hybridattn::cuda
