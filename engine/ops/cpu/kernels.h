// The engine's kernels on the CPU. What they take was checked by the ops.
#pragma once

#include <cstdint>
#include <span>

#include "engine/ops/draw.h"
#include "engine/ops/embedding.h"
#include "engine/ops/greedy.h"
#include "hybridattn/context.h"
#include "hybridattn/tensor.h"

namespace hybridattn::engine::cpu {

void embed(Context& context, const EmbedArgs& args);
void gather_rows(Context& context, const ConstTensorView& x, std::span<const std::int32_t> rows,
                 const TensorView& out);
void greedy_tokens(Context& context, const ConstTensorView& logits, const std::int32_t* limits,
                   NextToken* tokens);
void draw_tokens(Context& context, const ConstTensorView& logits, const Draw* draws,
                 NextToken* tokens);

}  // namespace hybridattn::engine::cpu
