// The gated delta rule for rows of any length, in chunks.
#pragma once

#include "hybridattn/context.h"
#include "hybridattn/ops/gdn_args.h"

namespace hybridattn {

/// Tokens of one chunk. Chunks start at the row's first new token.
inline constexpr int kGdnChunk = 64;
/// Segments that the rows of a call are cut into at most where they would leave a GPU idle.
inline constexpr int kGdnMaxSegments = 16;

/// The recurrence of `gdn_step`, token after token, computed 64 tokens at a time: with G the
/// running sum of g inside the chunk and D[i,j] = exp(G_i - G_j) for j <= i (only non-positive
/// exponents),
///   (I + strict_lower(diag(beta) K K^T * D)) U = diag(beta) (V - diag(exp G) K S^T)
///   O = scale (diag(exp G) Q S^T + lower(Q K^T * D) U)
///   S <- exp(G_last) S + sum_j exp(G_last - G_j) u_j k_j^T.
/// The running sum is in double, the solve in float32. Where each key channel decays by itself, D
/// stands inside of the products: sum_c k_ic k_jc exp(G_ic - G_jc). Source: the WY form of Gated
/// DeltaNet, and of Kimi Delta Attention.
///
/// CUDA takes chunks where K and V are 64 or 128, the log decay is [T, HV] and q, k, v and out are
/// of one type, bf16 or f16, in heads aligned to 16 bytes; other calls go token after token.
/// Hopper's own kernels are for K = V = 128; heads of 64 go through those of sm_80.
///
/// CUDA, where rows and heads are too few for the device: long rows are cut into segments that are
/// walked side by side from states found beforehand, S_end = S_start M + B with M and B of each
/// segment computed from the identity and from zero. A state that has decayed below 2^-64 is taken
/// for zero there. Contexts with batch_invariant never cut. Hopper, where they fill the device: one
/// kernel in place of two, with the same bits as these for rows that are not cut.
///
/// A checkpoint is the state after the last whole chunk before it, in float32, advanced by the
/// recurrence over the at most 63 tokens that are left, and rounded once, to the type of the pool.
/// Outputs and final states are those of the call without checkpoints, to the bit, where the same
/// kernels serve both; on Hopper the one kernel in place of two has none.
/// Errors: invalid_argument, out_of_range, unsupported; nothing is written on an error.
HYBRIDATTN_API Status gdn_prefill(Context& context, const GdnArgs& args);

}  // namespace hybridattn
