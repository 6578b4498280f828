// Token embedding: rows of a table by id.
#pragma once

#include <cstdint>
#include <span>

#include "hybridattn/context.h"
#include "hybridattn/tensor.h"

namespace hybridattn::engine {

/// out[t] = table[ids[t]] in float32. table [V, H] f32, bf16 or f16; out [T, H] f32. On CUDA
/// `device_ids` are the same ids on the device, which recorded calls read again at each replay.
/// Errors: out_of_range for an id outside [0, V), naming its position; nothing is written then.
/// Ids that replace these later are not checked: who writes them does.
Status embed(Context& context, const ConstTensorView& table, std::span<const std::int32_t> ids,
             const std::int32_t* device_ids, const TensorView& out);

/// Copies rows: out[i] = x[rows[i]], any dtype, dense rows of equal type, rows below x.dim(0).
/// `device_rows` as above.
Status gather_rows(Context& context, const ConstTensorView& x, std::span<const std::int32_t> rows,
                   const std::int32_t* device_rows, const TensorView& out);

}  // namespace hybridattn::engine
