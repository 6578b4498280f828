// Matrix products with weights as checkpoints store them.
#pragma once

#include <cstddef>

#include "hybridattn/context.h"
#include "hybridattn/tensor.h"

namespace hybridattn {

struct LinearArgs {
  ConstTensorView x{};       ///< [M, K] f32, bf16 or f16; any row stride
  ConstTensorView weight{};  ///< [N, K] f32, bf16 or f16; any row stride
  TensorView out{};          ///< [M, N] f32, bf16 or f16; any row stride; may not overlap an input
  bool accumulate = false;   ///< out += in place of out =
  ConstTensorView gate{};    ///< [M, N] of the type of out, or none; any row stride; may be out
  /// [N, K], or none: then silu(x gate_weight^T) is the gate. Not with `gate`.
  ConstTensorView gate_weight{};
  /// [K], or none: then x, which is f32 or of the type of weight, enters as its RMS norm by
  /// 1 + norm_weight in the type of weight: see rms_norm.
  ConstTensorView norm_weight{};
  float norm_epsilon = 1e-6f;
  /// A norm handed on, on CUDA where linear_takes says so (weights in bf16, up to 32 rows, or up to
  /// 128 where the "multicast" kernels serve; compute capability 9, not batch_invariant): a product
  /// whose `out` is float32, added to or not, makes of the new out next_x = out (1 + next_norm)
  /// and, of each 8 columns, next_squares = the sum of out^2. Those are x and x_squares of the
  /// product behind the norm, which divides its sums by sqrt(sum(x_squares) / K + norm_epsilon).
  /// All three or none; not with a gate. next_x and next_squares may not overlap an input, out or
  /// each other.
  ConstTensorView next_norm{};  ///< [N] f32, or none; N a multiple of 8
  TensorView next_x{};          ///< [M, N] of the type of weight; any row stride
  TensorView next_squares{};    ///< [M, N / 8] f32; any row stride
  ConstTensorView x_squares{};  ///< [M, K / 8] f32, or none; any row stride; not with norm_weight
};

/// out = x W^T, no bias, summed in float32, rounded once; with a gate out = silu(gate) * x W^T, the
/// second half of a SwiGLU network without a pass of its own: see silu_mul; with the weights of a
/// gate both halves.
///
/// CPU: where both operands are bf16, AMX tiles or bf16 dot products serve if the processor has
/// them, those but on Intel's, where they are slow. The order of the sum over K is the same for
/// every M: a row's result does not depend on the rows beside it. A gate that is computed here is
/// rounded to the type of out.
///
/// CUDA: weights of up to 16 rows of bf16 or f16 are read at the speed of memory ("few_rows"), on
/// compute capability 9 those of up to 32 rows ("streamed"). Up to 128 rows of x are shared by the
/// blocks of a cluster there ("multicast"), from 17 rows on where K is no more than 1,536 and N no
/// less than 32,768, from 33 on where K is no more than 1,536, weights take no more than 18 MB, or
/// cuBLASLt does not serve. On compute capability 9 weights and norm_weight of all these are read
/// while the kernels in front on the stream still run: what a kernel wrote, an op of this library
/// or the caller's, needs a Context::synchronize before it is a weight. More rows, or f32, go
/// through cuBLASLt where its library is found, without TF32; mixed types and rows that do not
/// begin at multiples of 16 bytes through a plain kernel ("tiles"). A
/// context with batch_invariant takes one algorithm for each N and K, which does not split the sum
/// over K; then a row's result does not depend on the rows beside it here either. Products of
/// cuBLASLt are rounded to the type of out before a gate multiplies them or they are added to it.
/// Two neighbouring halves of one matrix, the gate's first, are one product there. The kernels of
/// few rows take the norm of bf16 with f32 in their stride: x (1 + norm_weight) is rounded, and the
/// sums are divided by the root mean square.
///
/// Errors: invalid_argument, unsupported. Nothing is written on an error.
HYBRIDATTN_API Status linear(Context& context, const LinearArgs& args);

/// Whether linear takes these arguments on this context. Nothing is read or written but the views
/// themselves.
HYBRIDATTN_API bool linear_takes(Context& context, const LinearArgs& args);

/// Workspace of each worker in any call of linear on this context, for Context::reserve_workspace;
/// on CUDA that of cuBLASLt, beside which a gate takes as much as the output, and the weights of
/// one twice as much, a norm as much as x in the type of weight.
HYBRIDATTN_API std::size_t linear_workspace_bytes(const Context& context) noexcept;
/// Shared workspace of a call with x [rows, inner] of `dtype` on this context: x as tiles take it,
/// 0 where there are none. A norm takes another rows x inner elements on the CPU.
HYBRIDATTN_API std::size_t linear_shared_workspace_bytes(const Context& context, DType dtype,
                                                         std::int64_t rows,
                                                         std::int64_t inner) noexcept;

}  // namespace hybridattn
