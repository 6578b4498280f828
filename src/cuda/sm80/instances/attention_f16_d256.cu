#include "src/cuda/sm80/attention_tiles-inl.cuh"

namespace hybridattn::cuda {
HYBRIDATTN_INSTANCES(__half, 256);
}  // namespace hybridattn::cuda
