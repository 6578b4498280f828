#include "engine/parallel/communicator.h"

#include "hybridattn/graph.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::engine {
namespace {

Status check_matrix(const char* op, const TensorView& x, bool dense) {
  const bool fits = x.rank == 2 && x.dtype == DType::kF32 && x.stride(1) == 1 &&
                    (dense ? x.stride(0) == x.dim(1) : x.stride(0) >= x.dim(1));
  if (fits) return {};
  return invalid_argument(op, ": x is ", dtype_name(x.dtype), " of rank ", x.rank,
                          ", must be f32 of rank 2 with dense ",
                          dense ? "rows that follow each other" : "rows");
}

}  // namespace

Status Communicator::all_reduce(Context& context, const TensorView& x) {
  HYBRIDATTN_TRY(check_matrix("all_reduce", x, true));
  if (x.num_elements() == 0 || size_ == 1) return {};
  return run_or_record(context, "all_reduce",
                       [this, &context, x] { return do_all_reduce(context, x); });
}

Status Communicator::all_gather_columns(Context& context, const TensorView& x) {
  HYBRIDATTN_TRY(check_matrix("all_gather_columns", x, false));
  if (x.dim(1) % size_ != 0) {
    return invalid_argument("all_gather_columns: x has ", x.dim(1), " columns, which ", size_,
                            " ranks cannot share out evenly");
  }
  if (x.num_elements() == 0 || size_ == 1) return {};
  return run_or_record(context, "all_gather_columns",
                       [this, &context, x] { return do_all_gather_columns(context, x); });
}

}  // namespace hybridattn::engine
