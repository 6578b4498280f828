// The check that all ops over verify rows share.
#pragma once

#include "hybridattn/ops/ragged_rows.h"
#include "hybridattn/ops/verify_rows.h"
#include "src/core/arg_check.h"

namespace hybridattn::ops {

/// Every parent of a row is an earlier token or -1, and a tree is not too large.
Status check_parents(const char* op, std::int32_t row, const std::int32_t* parents,
                     std::int64_t first, std::int64_t length);

/// What verify ops ask of their kept states: the dtype and not the memory of the pool that is
/// read, slots inside it, parents earlier than their tokens. The shapes of both are bound in
/// `check`, kept slots under that name; `rows` are checked already. `names`: what the op calls its
/// pool and its kept states.
struct KeptNames {
  const char* state = "state";
  const char* kept = "kept";
};
Status check_kept(core::ArgCheck& check, const ConstTensorView& state, const ConstTensorView& kept,
                  const RaggedRows& rows, const VerifyRows& verify, const KeptNames& names = {});

}  // namespace hybridattn::ops
