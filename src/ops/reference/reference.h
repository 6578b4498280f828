// The slow, obvious, double-precision form of each op: one element at a time, one token at a time,
// nothing fused and nothing chunked. Tests hold the kernels against these. The arguments are the
// ops' own; tensors may also be f64, so that inputs need not be rounded. Nothing is checked.
#pragma once

#include "hybridattn/ops.h"

namespace hybridattn::reference {

void rms_norm(const RmsNormArgs& args);
void gated_rms_norm(const GatedRmsNormArgs& args);
void l2norm(const L2NormArgs& args);
void sigmoid_gate(const SigmoidGateArgs& args);
void silu_mul(const SiluMulArgs& args);
void rotary(const RotaryArgs& args);
void rotary_table(const RotaryTableArgs& args);
void gdn_gates(const GdnGatesArgs& args);
void causal_conv(const CausalConvArgs& args);
/// The recurrence, token by token, for rows of any length: the reference of gdn_step and
/// gdn_prefill.
void gdn_recurrence(const GdnArgs& args);
void gdn_decode(const GdnDecodeArgs& args);
void gdn_decode_verify(const GdnDecodeVerifyArgs& args);
void gdn_verify(const GdnVerifyArgs& args);
void causal_conv_verify(const CausalConvVerifyArgs& args);
void store_kv(const StoreKvArgs& args);
void qk_norm_rope_store(const QkNormRopeStoreArgs& args);
void attention(const AttentionArgs& args);
void merge_states(const MergeStatesArgs& args);
void linear(const LinearArgs& args);
void linear_int8(const LinearInt8Args& args);

}  // namespace hybridattn::reference
