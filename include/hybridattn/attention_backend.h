// AttentionBackend: plans a step once, then runs each layer of it.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "hybridattn/context.h"
#include "hybridattn/forward_batch.h"
#include "hybridattn/layers.h"
#include "hybridattn/ops/gated_rms_norm.h"
#include "hybridattn/tensor.h"

namespace hybridattn {

/// What one full-attention layer of a step takes. T = tokens of the batch.
struct AttentionRunArgs {
  ConstTensorView q{};  ///< [T, HQ, D]
  ConstTensorView k{};  ///< [T, HK, D]; without data: attend to what the layer's cache holds already
  ConstTensorView v{};  ///< [T, HK, DV]; given exactly where k is
  TensorView out{};     ///< [T, HQ, DV], the caller's; pad rows become zeros
  bool save_kv_cache = true;  ///< store k and v before attending; false = they are stored already
  ConstTensorView q_norm{};     ///< optional [D]: zero-centred RMSNorm of q before the rotation
  ConstTensorView k_norm{};     ///< optional [D]: the same for k
  float norm_epsilon = 1e-6f;
  ConstTensorView cos{};   ///< optional [T, R/2] f32: rotate q and k
  ConstTensorView sin{};   ///< optional [T, R/2] f32
  ConstTensorView gate{};  ///< optional [T, HQ, DV]: out * sigmoid(gate)
  TensorView lse{};        ///< optional [T, HQ] f32
};

/// What one GDN layer of a step takes.
struct GdnRunArgs {
  ConstTensorView mixed_qkv{};  ///< [T, C], before the convolution, channels q | k | v
  ConstTensorView a{};          ///< [T, HV]
  ConstTensorView b{};          ///< [T, HV]
  TensorView out{};             ///< [T, HV, V], the caller's; pad rows become zeros
  ConstTensorView z{};            ///< optional [T, HV, V]: gated RMSNorm of the output
  ConstTensorView norm_weight{};  ///< [V], given exactly where z is
  float norm_epsilon = 1e-6f;
  GateKind gate = GateKind::kSilu;
};

/// What a backend worked out for one batch. It holds copies: the batch may go. Several may live at
/// once, and each serves the backend that made it.
class HYBRIDATTN_API Plan {
 public:
  virtual ~Plan() = default;
  std::uint64_t batch_id() const noexcept { return batch_id_; }
  std::int32_t num_tokens() const noexcept { return num_tokens_; }
  ForwardMode mode() const noexcept { return mode_; }

 protected:
  explicit Plan(const ForwardBatch& batch);

 private:
  std::uint64_t batch_id_;
  std::int32_t num_tokens_;
  ForwardMode mode_;
};

/// The verbs that every backend has. `plan` may allocate; the run verbs do not, nor do they
/// synchronise. A backend serves one thread at a time, that of its context.
class HYBRIDATTN_API AttentionBackend {
 public:
  virtual ~AttentionBackend() = default;

  virtual std::string_view name() const noexcept = 0;
  /// Errors: invalid_argument, out_of_range, unsupported, naming the row; resource_exhausted.
  virtual Result<std::unique_ptr<Plan>> plan(const ForwardBatch& batch) = 0;
  /// Makes the context's workspace large enough for batches of up to `max_tokens` tokens, so that no
  /// plan of such a batch allocates any. Errors: invalid_argument, resource_exhausted.
  virtual Status reserve(std::int32_t max_tokens) = 0;
  /// Runs one full-attention layer. Errors: as the ops; failed_precondition for a plan of another
  /// backend; unsupported from a backend without full attention.
  virtual Status run_attention(const Plan& plan, const RadixAttention& layer,
                               const AttentionRunArgs& args);
  /// Runs one GDN layer. Errors: the same.
  virtual Status run_gdn(const Plan& plan, const RadixLinearAttention& layer,
                         const GdnRunArgs& args);

  // The upstream names: the plan of the last init_forward_metadata is the current one.

  /// Plans `batch` and keeps the plan as the current one; on an error the old one stays.
  Status init_forward_metadata(const ForwardBatch& batch);
  /// Dispatches on the mode: decode batches to forward_decode, idle ones give zeros, all others
  /// go to forward_extend. Errors: failed_precondition when `batch` is not the planned one.
  Status forward(const RadixAttention& layer, const ForwardBatch& batch,
                 const AttentionRunArgs& args);
  Status forward_extend(const RadixAttention& layer, const ForwardBatch& batch,
                        const AttentionRunArgs& args);
  /// Errors: also failed_precondition when the batch has rows that do not decode.
  Status forward_decode(const RadixAttention& layer, const ForwardBatch& batch,
                        const AttentionRunArgs& args);
  Status forward_gdn(const RadixLinearAttention& layer, const ForwardBatch& batch,
                     const GdnRunArgs& args);

 private:
  Status check_current(const char* verb, const ForwardBatch& batch) const;
  std::unique_ptr<Plan> current_;
};

}  // namespace hybridattn
