#include "src/cuda/sm90/attention_tiles-inl.cuh"

namespace hybridattn::cuda {
template Status run_attention_sm90<__half, 64>(const AttentionTileParams&,
                                               const core::DeviceLaunch&);
template Status run_attention_sm90<__half, 128>(const AttentionTileParams&,
                                                const core::DeviceLaunch&);
template Status run_attention_sm90<__half, 256>(const AttentionTileParams&,
                                                const core::DeviceLaunch&);
}  // namespace hybridattn::cuda
