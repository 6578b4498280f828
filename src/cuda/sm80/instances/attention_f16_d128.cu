#include "src/cuda/sm80/attention_tiles-inl.cuh"

namespace hybridattn::cuda {
HYBRIDATTN_INSTANCES(__half, 128);
}  // namespace hybridattn::cuda
