// The intermediate tensors of one layer. Attention, GDN and feed-forward parts of a layer follow
// each other, so they share the same memory.
#pragma once

#include "engine/checkpoint/model_config.h"
#include "engine/model/arena.h"

namespace hybridattn::engine {

/// Lives through all layers.
struct ResidualBuffers {
  TensorView hidden;  ///< [T, H] f32: the residual stream, float32 in every mode
  TensorView normed;  ///< [T, H]
  TensorView cos;     ///< [T, R/2] f32
  TensorView sin;     ///< [T, R/2] f32

  ResidualBuffers(Arena& arena, const ModelConfig& c, DType dtype, std::int64_t tokens)
      : hidden(arena.take(DType::kF32, {tokens, c.hidden_size})),
        normed(arena.take(dtype, {tokens, c.hidden_size})),
        cos(arena.take(DType::kF32, {tokens, c.rotary_dim / 2})),
        sin(arena.take(DType::kF32, {tokens, c.rotary_dim / 2})) {}
};

struct FullAttentionBuffers {
  TensorView q_gate;  ///< [T, HQ, 2 D]: per head query, then gate
  TensorView k;       ///< [T, HK, D]
  TensorView v;       ///< [T, HK, D]
  TensorView out;     ///< [T, HQ, D]

  FullAttentionBuffers(Arena& arena, const ModelConfig& c, DType dtype, std::int64_t tokens)
      : q_gate(arena.take(dtype, {tokens, c.num_attention_heads, 2 * std::int64_t{c.head_dim}})),
        k(arena.take(dtype, {tokens, c.num_key_value_heads, c.head_dim})),
        v(arena.take(dtype, {tokens, c.num_key_value_heads, c.head_dim})),
        out(arena.take(dtype, {tokens, c.num_attention_heads, c.head_dim})) {}
};

struct GdnBuffers {
  TensorView mixed_qkv;  ///< [T, C]
  TensorView z;          ///< [T, HV, V]
  TensorView a;          ///< [T, HV] f32
  TensorView b;          ///< [T, HV] f32
  TensorView out;        ///< [T, HV, V]

  GdnBuffers(Arena& arena, const ModelConfig& c, DType dtype, std::int64_t tokens)
      : mixed_qkv(arena.take(dtype, {tokens, channels(c)})),
        z(arena.take(dtype, {tokens, c.linear_num_value_heads, c.linear_value_head_dim})),
        a(arena.take(DType::kF32, {tokens, c.linear_num_value_heads})),
        b(arena.take(DType::kF32, {tokens, c.linear_num_value_heads})),
        out(arena.take(dtype, {tokens, c.linear_num_value_heads, c.linear_value_head_dim})) {}

  static std::int64_t channels(const ModelConfig& c) {
    return 2 * std::int64_t{c.linear_num_key_heads} * c.linear_key_head_dim +
           std::int64_t{c.linear_num_value_heads} * c.linear_value_head_dim;
  }
};

struct MlpBuffers {
  TensorView gated;  ///< [T, F]; silu(gate) * up is formed in place of gate

  MlpBuffers(Arena& arena, DType dtype, std::int64_t tokens, std::int64_t width)
      : gated(arena.take(dtype, {tokens, width})) {}
};

struct MoeBuffers {
  TensorView router_in;    ///< [T, H] f32: the router runs in float32 in every mode
  TensorView logits;       ///< [T, E] f32
  TensorView gathered;     ///< [T * top_k, H] inputs, grouped by expert
  TensorView outputs;      ///< [T * top_k, H] f32
  MlpBuffers experts;      ///< [T * top_k, I]
  MlpBuffers shared;       ///< [T, shared width]
  TensorView shared_out;   ///< [T, H] f32
  TensorView shared_gate;  ///< [T, 1] f32

  MoeBuffers(Arena& arena, const ModelConfig& c, DType dtype, std::int64_t tokens)
      : router_in(arena.take(DType::kF32, {tokens, c.hidden_size})),
        logits(arena.take(DType::kF32, {tokens, c.moe.num_experts})),
        gathered(arena.take(dtype, {tokens * c.moe.experts_per_token, c.hidden_size})),
        outputs(arena.take(DType::kF32, {tokens * c.moe.experts_per_token, c.hidden_size})),
        experts(arena, dtype, tokens * c.moe.experts_per_token, c.moe.expert_width),
        shared(arena, dtype, tokens, c.moe.shared_expert_width),
        shared_out(arena.take(DType::kF32, {tokens, c.hidden_size})),
        shared_gate(arena.take(DType::kF32, {tokens, 1})) {}
};

}  // namespace hybridattn::engine
