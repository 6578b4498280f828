// The intermediate tensors of one layer. Attention, GDN and feed-forward parts of a layer follow
// each other, so they share the same memory.
#pragma once

#include "engine/checkpoint/model_config.h"
#include "engine/model/arena.h"
#include "engine/ops/experts.h"

namespace hybridattn::engine {

/// Lives through all layers.
struct ResidualBuffers {
  TensorView hidden;   ///< [T, H] f32: the residual stream, float32 in every mode
  TensorView normed;   ///< [T, H]; where a norm was handed on, what is still to be divided
  TensorView squares;  ///< [T, H/8] f32: by what
  TensorView cos;      ///< [T, R/2] f32
  TensorView sin;      ///< [T, R/2] f32

  ResidualBuffers(Arena& arena, const ModelConfig& c, DType dtype, std::int64_t tokens)
      : hidden(arena.take(DType::kF32, {tokens, c.hidden_size})),
        normed(arena.take(dtype, {tokens, c.hidden_size})),
        squares(arena.take(DType::kF32, {tokens, c.hidden_size / 8})),
        cos(arena.take(DType::kF32, {tokens, c.rotary_dim / 2})),
        sin(arena.take(DType::kF32, {tokens, c.rotary_dim / 2})) {}
};

/// What one product over joined weights gives: columns that belong to several tensors. Rows begin
/// at multiples of 16 bytes.
class JoinedColumns {
 public:
  JoinedColumns(Arena& arena, DType dtype, std::int64_t tokens, std::int64_t width)
      : all_(arena.take(dtype, {tokens, (width + 7) / 8 * 8})), width_(width) {}

  TensorView whole() const { return all_.at(0, {all_.dim(0), width_}, {all_.stride(0), 1}); }
  /// The next columns, as heads of `dim`.
  TensorView heads(std::int64_t count, std::int64_t dim) {
    const TensorView view = all_.at(used_, {all_.dim(0), count, dim}, {all_.stride(0), dim, 1});
    used_ += count * dim;
    return view;
  }
  TensorView columns(std::int64_t count) {
    const TensorView view = all_.at(used_, {all_.dim(0), count}, {all_.stride(0), 1});
    used_ += count;
    return view;
  }

 private:
  TensorView all_;
  std::int64_t width_, used_ = 0;
};

/// `joined`: q_gate, k and v are columns of it.
struct FullAttentionBuffers {
  TensorView joined;  ///< [T, HQ 2 D + 2 HK D], or none
  TensorView q_gate;  ///< [T, HQ, 2 D]: per head query, then gate
  TensorView k;       ///< [T, HK, D]
  TensorView v;       ///< [T, HK, D]
  TensorView out;     ///< [T, HQ, D]

  FullAttentionBuffers(Arena& arena, const ModelConfig& c, DType dtype, std::int64_t tokens,
                       bool join) {
    const std::int64_t d = c.head_dim, hq = c.num_attention_heads, hk = c.num_key_value_heads;
    if (join) {
      JoinedColumns columns(arena, dtype, tokens, 2 * (hq + hk) * d);
      joined = columns.whole();
      q_gate = columns.heads(hq, 2 * d);
      k = columns.heads(hk, d);
      v = columns.heads(hk, d);
    } else {
      q_gate = arena.take(dtype, {tokens, hq, 2 * d});
      k = arena.take(dtype, {tokens, hk, d});
      v = arena.take(dtype, {tokens, hk, d});
    }
    out = arena.take(dtype, {tokens, hq, d});
  }
};

/// `joined`: mixed_qkv, z, b and a are columns of it, all of its type.
struct GdnBuffers {
  TensorView joined;     ///< [T, C + HV V + 2 HV], or none
  TensorView mixed_qkv;  ///< [T, C]
  TensorView z;          ///< [T, HV, V]
  TensorView a;          ///< [T, HV] f32
  TensorView b;          ///< [T, HV] f32
  TensorView out;        ///< [T, HV, V]

  GdnBuffers(Arena& arena, const ModelConfig& c, DType dtype, std::int64_t tokens, bool join) {
    const std::int64_t hv = c.linear_num_value_heads, dv = c.linear_value_head_dim;
    if (join) {
      JoinedColumns columns(arena, dtype, tokens, channels(c) + hv * dv + 2 * hv);
      joined = columns.whole();
      mixed_qkv = columns.columns(channels(c));
      z = columns.heads(hv, dv);
      b = columns.columns(hv);
      a = columns.columns(hv);
    } else {
      mixed_qkv = arena.take(dtype, {tokens, channels(c)});
      z = arena.take(dtype, {tokens, hv, dv});
      a = arena.take(DType::kF32, {tokens, hv});
      b = arena.take(DType::kF32, {tokens, hv});
    }
    out = arena.take(dtype, {tokens, hv, dv});
  }

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

/// Where a GPU keeps what the router says; `arena` only counts where it has no block.
inline DeviceRouting take_routing(Arena& arena, std::int64_t choices, std::int64_t experts) {
  const auto words = [&](std::int64_t count) { return arena.take(DType::kF32, {count}).data; };
  const auto ints = [&](std::int64_t count) { return static_cast<std::int32_t*>(words(count)); };
  return {ints(choices), static_cast<float*>(words(choices)), ints(experts + 1), ints(choices),
          ints(choices)};
}

struct MoeBuffers {
  TensorView router_in;    ///< [T, H] f32: the router runs in float32 in every mode
  TensorView logits;       ///< [T, E] f32
  TensorView gathered;     ///< [T * top_k, H] inputs, grouped by expert
  TensorView outputs;      ///< [T * top_k, H] f32
  MlpBuffers experts;      ///< [T * top_k, I]
  MlpBuffers shared;       ///< [T, shared width]
  TensorView shared_out;   ///< [T, H] f32
  TensorView shared_gate;  ///< [T, 1] f32
  DeviceRouting routing;

  MoeBuffers(Arena& arena, const ModelConfig& c, DType dtype, std::int64_t tokens)
      : router_in(arena.take(DType::kF32, {tokens, c.hidden_size})),
        logits(arena.take(DType::kF32, {tokens, c.moe.num_experts})),
        gathered(arena.take(dtype, {tokens * c.moe.experts_per_token, c.hidden_size})),
        outputs(arena.take(DType::kF32, {tokens * c.moe.experts_per_token, c.hidden_size})),
        experts(arena, dtype, tokens * c.moe.experts_per_token, c.moe.expert_width),
        shared(arena, dtype, tokens, c.moe.shared_expert_width),
        shared_out(arena.take(DType::kF32, {tokens, c.hidden_size})),
        shared_gate(arena.take(DType::kF32, {tokens, 1})),
        routing(take_routing(arena, tokens * c.moe.experts_per_token, c.moe.num_experts)) {}
};

}  // namespace hybridattn::engine
