#include "src/ops/verify_check.h"

#include "hybridattn/status_macros.h"

namespace hybridattn::ops {

Status check_parents(const char* op, std::int32_t row, const std::int32_t* parents,
                     std::int64_t first, std::int64_t length) {
  if (parents == nullptr || length == 0 || parents[first] == kChain) return {};
  if (length > kMaxTreeTokens) {
    return error(StatusCode::kUnsupported, op, ": row ", row, " is a tree of ", length,
                 " tokens, must have at most ", kMaxTreeTokens);
  }
  for (std::int64_t i = 0; i < length; ++i) {
    const std::int32_t parent = parents[first + i];
    if (parent < -1 || parent >= i) {
      return error(StatusCode::kOutOfRange, op, ": row ", row, ": token ", i, " follows token ",
                   parent, ", must be -1 or an earlier one");
    }
  }
  return {};
}

Status check_kept(core::ArgCheck& check, const ConstTensorView& state, const ConstTensorView& kept,
                  const RaggedRows& rows, const VerifyRows& verify, const KeptNames& names) {
  check.require(kept.dtype == state.dtype, names.kept, " has dtype ", dtype_name(kept.dtype),
                ", must be that of ", names.state, ": ", dtype_name(state.dtype));
  check.distinct(names.kept, kept, names.state, state);
  check.array("verify.kept", verify.kept, rows.count);
  if (!check.ok()) return check.status();
  const char* op = check.op();
  const std::int64_t kept_slots = check["kept slots"];
  for (std::int32_t r = 0; r < rows.count; ++r) {
    if (rows.slot[r] == kPadIndex) continue;
    const std::int64_t first = verify.kept[r];
    if (first < 0 || first + rows.length[r] > kept_slots) {
      return error(StatusCode::kOutOfRange, op, ": row ", r, " keeps ", rows.length[r],
                   " states from slot ", first, " on, must lie in [0, ", kept_slots, ")");
    }
    HYBRIDATTN_TRY(check_parents(op, r, verify.parents, rows.start[r], rows.length[r]));
  }
  return {};
}

}  // namespace hybridattn::ops
