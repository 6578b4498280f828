// Rows of a matrix in eight bits.
#pragma once

#include <cstdint>

#include "hybridattn/context.h"
#include "hybridattn/tensor.h"

namespace hybridattn::engine {

/// Rounds each row of a dense matrix [rows, columns] of f32, bf16 or f16: scale = max |w| / 127,
/// out = w / scale to the nearest, ties to even. A row with an infinity or a NaN gets a NaN as
/// scale: its products are none either way. `executor` may be null.
void to_int8_rows(const ConstTensorView& matrix, std::int64_t rows, std::int64_t columns,
                  Executor* executor, std::int8_t* out, float* scale);

}  // namespace hybridattn::engine
