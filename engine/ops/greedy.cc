#include "engine/ops/greedy.h"

#include "engine/ops/cpu/kernels.h"
#include "engine/ops/cuda/kernels.h"

namespace hybridattn::engine {

Status greedy_tokens(Context& context, const ConstTensorView& logits, const std::int32_t* limits,
                     std::byte* scratch, NextToken* tokens) {
  if (context.device() == DeviceType::kCuda) {
    return cuda::greedy_tokens(context, logits, limits, scratch, tokens);
  }
  cpu::greedy_tokens(context, logits, limits, tokens);
  return {};
}

}  // namespace hybridattn::engine
