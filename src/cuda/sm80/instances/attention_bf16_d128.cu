#include "src/cuda/sm80/attention_tiles-inl.cuh"

namespace hybridattn::cuda {
HYBRIDATTN_INSTANCES(__nv_bfloat16, 128);
}  // namespace hybridattn::cuda
