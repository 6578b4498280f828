#include "src/cuda/sm80/attention_tiles-inl.cuh"

namespace hybridattn::cuda {

#define HYBRIDATTN_INSTANCE(KV, Few)                                                           \
  template Status run_attention_tiles<__nv_bfloat16, KV, 256, Few>(const AttentionTileParams&, \
                                                                   const core::DeviceLaunch&)
HYBRIDATTN_INSTANCE(__nv_bfloat16, true);
HYBRIDATTN_INSTANCE(__nv_bfloat16, false);
HYBRIDATTN_INSTANCE(std::uint8_t, true);
HYBRIDATTN_INSTANCE(std::uint8_t, false);
#undef HYBRIDATTN_INSTANCE

}  // namespace hybridattn::cuda
