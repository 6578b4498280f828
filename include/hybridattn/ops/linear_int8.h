// Matrix products with weights of eight bits.
#pragma once

#include <cstddef>

#include "hybridattn/context.h"
#include "hybridattn/tensor.h"

namespace hybridattn {

struct LinearInt8Args {
  ConstTensorView x{};             ///< [M, K] f32, bf16 or f16; any row stride; K up to 65536
  ConstTensorView weight{};        ///< [N, K] i8, -127 to 127; any row stride
  ConstTensorView weight_scale{};  ///< [N] f32: row n stands for weight_scale[n] * weight[n]
  TensorView out{};                ///< [M, N] f32, bf16 or f16; any row stride; may not overlap x
  bool accumulate = false;         ///< out += in place of out =
  ConstTensorView gate{};          ///< [M, N] of the type of out, or none; may be out: see linear
};

/// out = x W^T where W is given in eight bits with a symmetric scale for each row. Each row of x is
/// rounded to eight bits as well, s = max |x| / 127, q = round(x * (127 / max |x|)), in float32 and
/// to even; products and sums are exact in 32 bits; out[m, n] = s[m] * weight_scale[n] * sum,
/// times silu(gate[m, n]) where there is a gate, rounded once. A row without a value above 2^-100
/// counts as zeros; one with an infinity or a NaN gives NaN. A row's result does not depend on the
/// rows beside it. After the dynamic quantisation of activations of LLM.int8() (Dettmers and
/// others, 2022) without its outliers. On the CPU. Errors: invalid_argument, unsupported. Nothing
/// is written on an error.
HYBRIDATTN_API Status linear_int8(Context& context, const LinearInt8Args& args);

/// Workspace of each worker in any call of linear_int8, for Context::reserve_workspace.
HYBRIDATTN_API std::size_t linear_int8_workspace_bytes() noexcept;
/// Shared workspace of a call with x [rows, inner]: x in eight bits.
HYBRIDATTN_API std::size_t linear_int8_shared_workspace_bytes(std::int64_t rows,
                                                              std::int64_t inner) noexcept;

}  // namespace hybridattn
