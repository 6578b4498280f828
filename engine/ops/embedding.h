// Token embedding: rows of a table by id.
#pragma once

#include <cstdint>
#include <span>

#include "engine/ops/greedy.h"
#include "hybridattn/context.h"
#include "hybridattn/tensor.h"

namespace hybridattn::engine {

/// In place of an id that only the device knows yet: it is chosen[place].id of EmbedArgs.
constexpr std::int32_t chosen_id(std::int32_t place) { return -1 - place; }

struct EmbedArgs {
  ConstTensorView table;              ///< [V, H] f32, bf16 or f16
  std::span<const std::int32_t> ids;  ///< [T] of the host
  const std::int32_t* device_ids;     ///< CUDA: the same on the device
  std::span<NextToken> chosen;        ///< where kernels read them, which are those of `table`
  TensorView out;                     ///< [T, H] f32
};

/// out[t] = table[ids[t]] in float32. Errors: out_of_range for an id that is neither in [0, V) nor
/// a place of `chosen`, naming its position; nothing is written then. On CUDA recorded calls read
/// `device_ids` again at each replay; ids that replace those are not checked: who writes them does.
Status embed(Context& context, const EmbedArgs& args);

/// Whether all ids are in [0, vocab), or places of so many chosen tokens: see chosen_id. Errors:
/// out_of_range, naming `op` and the position.
Status check_ids(const char* op, std::span<const std::int32_t> ids, std::int64_t vocab,
                 std::size_t chosen);

/// Copies rows: out[i] = x[rows[i]], any dtype, dense rows of equal type, rows below x.dim(0).
/// `device_rows` as above.
Status gather_rows(Context& context, const ConstTensorView& x, std::span<const std::int32_t> rows,
                   const std::int32_t* device_rows, const TensorView& out);

}  // namespace hybridattn::engine
