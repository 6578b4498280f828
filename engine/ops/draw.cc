#include "engine/ops/draw.h"

#include "engine/ops/cpu/kernels.h"
#include "engine/ops/cuda/kernels.h"

namespace hybridattn::engine {

Status draw_tokens(Context& context, const ConstTensorView& logits, const Draw* draws,
                   const Draw* device_draws, NextToken* tokens) {
  if (context.device() == DeviceType::kCuda) {
    return cuda::draw_tokens(context, logits, device_draws, tokens);
  }
  cpu::draw_tokens(context, logits, draws, tokens);
  return {};
}

}  // namespace hybridattn::engine
