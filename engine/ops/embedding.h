// Token embedding: rows of a table by id.
#pragma once

#include <cstdint>
#include <span>

#include "hybridattn/context.h"
#include "hybridattn/tensor.h"

namespace hybridattn::engine {

/// out[t] = table[ids[t]] in float32. table [V, H] f32, bf16 or f16; out [T, H] f32.
/// Errors: out_of_range for an id outside [0, V), naming its position; nothing is written then.
Status embed(Context& context, const ConstTensorView& table, std::span<const std::int32_t> ids,
             const TensorView& out);

/// Copies rows: out[i] = x[rows[i]], any dtype, dense rows of equal type.
Status gather_rows(Context& context, const ConstTensorView& x, std::span<const std::int32_t> rows,
                   const TensorView& out);

}  // namespace hybridattn::engine
