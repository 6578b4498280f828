// Plain descriptions of the two kinds of layer. They own nothing and compute nothing.
#pragma once

#include <cstdint>
#include <string_view>

#include "hybridattn/export.h"
#include "hybridattn/tensor.h"

namespace hybridattn {

/// Who sees whom, under the upstream's names.
enum class AttentionType : std::uint8_t {
  kDecoder,               ///< causal
  kDecoderBidirectional,  ///< each query sees every key of its row that is there in this step
  kEncoderOnly,  ///< not served: it keeps no cache; the op `attention` does it over dense keys
};
HYBRIDATTN_API std::string_view attention_type_name(AttentionType type) noexcept;

/// A full-attention layer.
struct RadixAttention {
  std::int32_t layer_id = 0;         ///< index among all layers of the model
  std::int32_t kv_index = 0;         ///< index among the layers that hold keys and values
  std::int32_t num_heads = 0;        ///< HQ
  std::int32_t num_kv_heads = 0;     ///< HK
  std::int32_t head_dim = 0;         ///< D
  std::int32_t v_head_dim = 0;       ///< DV
  float scaling = 0.0f;              ///< on q.k, required: usually D^-1/2
  float logit_cap = 0.0f;            ///< 0 = off
  std::int32_t sliding_window = -1;  ///< keys, the current one counted; -1 = off
  ConstTensorView sinks{};           ///< optional [HQ] f32
  AttentionType attn_type = AttentionType::kDecoder;
  bool is_cross_attention =
      false;                   ///< not served: keys and values of other tokens than the batch's
  float k_scale = 1.0f;        ///< the cache holds k / k_scale: for caches in f8_e4m3
  float v_scale = 1.0f;        ///< the cache holds v / v_scale
  ConstTensorView k_scales{};  ///< optional [HK] f32: one for each head, beside k_scale = 1
  ConstTensorView v_scales{};  ///< optional [HK] f32: one for each head, beside v_scale = 1
};

/// A Gated DeltaNet layer. The tensors are borrowed: they must outlive the descriptor.
struct RadixLinearAttention {
  std::int32_t layer_id = 0;      ///< index among all layers of the model
  std::int32_t gdn_index = 0;     ///< index among the GDN layers
  std::int32_t num_k_heads = 0;   ///< HK
  std::int32_t num_v_heads = 0;   ///< HV
  std::int32_t head_k_dim = 0;    ///< K
  std::int32_t head_v_dim = 0;    ///< V
  ConstTensorView conv_weight{};  ///< [C, W] with C = 2 HK K + HV V, channels q | k | v
  ConstTensorView a_log{};        ///< [HV]
  ConstTensorView dt_bias{};      ///< [HV]
  bool allow_neg_eigval = false;
  /// Each key channel decays by itself (Kimi Delta Attention): a is [T, HV, K], dt_bias [HV, K].
  bool channel_decay = false;

  std::int64_t key_channels() const noexcept { return std::int64_t{num_k_heads} * head_k_dim; }
  std::int64_t value_channels() const noexcept { return std::int64_t{num_v_heads} * head_v_dim; }
  std::int64_t conv_channels() const noexcept { return 2 * key_channels() + value_channels(); }
};

}  // namespace hybridattn
