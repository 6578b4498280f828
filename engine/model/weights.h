// The weights of a hybrid model, as views: large matrices into the mapped files, in the type they
// are stored in, or copies in eight bits; small vectors as float32 copies. On a GPU all are copies.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "engine/checkpoint/model_config.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/model/device_weights.h"
#include "engine/model/model_shard.h"
#include "engine/model/weight_blocks.h"
#include "hybridattn/context.h"
#include "hybridattn/tensor.h"

namespace hybridattn::engine {

/// A matrix as it is stored, or i8 with a scale for each row: see linear_int8.
struct WeightMatrix : ConstTensorView {
  WeightMatrix() = default;
  WeightMatrix(const ConstTensorView& view, const ConstTensorView& row_scale = {})
      : ConstTensorView(view), scale(row_scale) {}

  ConstTensorView scale;  ///< [rows] f32, where the elements are i8
};

/// A SwiGLU network: gate and up [F, H], down [H, F].
struct MlpWeights {
  WeightMatrix gate;
  WeightMatrix up;
  WeightMatrix down;
};

struct MoeWeights {
  ConstTensorView router;           ///< [E, H]
  std::vector<MlpWeights> experts;  ///< [E]
  std::optional<MlpWeights> shared;
  ConstTensorView shared_gate;  ///< [1, H], where there is a shared expert
  // On a GPU, in place of `experts`:
  ConstTensorView gate_up;  ///< [E * 2 I, H] of each expert gate, then up
  ConstTensorView down;     ///< [E * H, I]
};

struct FullAttentionWeights {
  WeightMatrix q_proj;     ///< [HQ * 2 * D, H]: per head D rows of query, then D of gate
  WeightMatrix k_proj;     ///< [HK * D, H]
  WeightMatrix v_proj;     ///< [HK * D, H]
  WeightMatrix o_proj;     ///< [H, HQ * D]
  ConstTensorView q_norm;  ///< [D] f32, zero-centred
  ConstTensorView k_norm;  ///< [D] f32, zero-centred
  ConstTensorView joined;  ///< q, k and v as one matrix, on a GPU
};

struct GdnWeights {
  WeightMatrix in_qkv;      ///< [C, H], rows q | k | v
  WeightMatrix in_z;        ///< [HV * V, H]
  ConstTensorView in_b;     ///< [HV, H]
  ConstTensorView in_a;     ///< [HV, H]
  ConstTensorView conv;     ///< [C, W] f32
  ConstTensorView a_log;    ///< [HV] f32
  ConstTensorView dt_bias;  ///< [HV] f32
  ConstTensorView norm;     ///< [V] f32, plain
  WeightMatrix out_proj;    ///< [H, HV * V]
  ConstTensorView joined;   ///< qkv, z, b and a as one matrix, on a GPU
};

struct LayerWeights {
  ConstTensorView input_norm;           ///< [H] f32, zero-centred
  ConstTensorView post_attention_norm;  ///< [H] f32, zero-centred
  std::optional<FullAttentionWeights> full;
  std::optional<GdnWeights> gdn;
  std::optional<MlpWeights> mlp;
  std::optional<MoeWeights> moe;
};

/// How matrices are held that products read, router and gates left out, which few bits would hurt
/// most: what is under 64 rows, too, stays as stored.
enum class WeightFormat : std::uint8_t {
  kStored,
  kInt8,  ///< rounded at load, a symmetric scale for each row
  /// Copied at load, the projections of a layer that read one input as one matrix. On a GPU always;
  /// on the CPU of models without experts.
  kJoined,
};
std::string_view weight_format_name(WeightFormat format);

/// Called with the share of the weights that is loaded, 0 to 1.
using LoadProgress = std::function<void(double)>;

class ModelWeights {
 public:
  /// Maps the checkpoint of `directory` and takes every parameter exactly once. Errors: as
  /// Checkpoint::open; not_found for a missing parameter; data_loss for a wrong shape, a wrong type
  /// or a tensor that nothing takes (only mtp.* and model.visual.* may be left over);
  /// invalid_argument for a shard that the model cannot be cut to. `config` is the whole model's,
  /// as num_parameters is. `executor`, where given, rounds matrices.
  static Result<std::unique_ptr<ModelWeights>> load(const std::filesystem::path& directory,
                                                    const ModelConfig& config,
                                                    const LoadProgress& progress = {},
                                                    WeightFormat format = WeightFormat::kStored,
                                                    Executor* executor = nullptr,
                                                    const ModelShard& shard = {});

  ConstTensorView embedding;   ///< [V, H]
  ConstTensorView final_norm;  ///< [H] f32, zero-centred
  /// [V, H], of a shard its rows if they can be shared out evenly; those of the embedding where
  /// they are tied, or an i8 copy.
  WeightMatrix lm_head;
  bool tied = false;
  std::vector<LayerWeights> layers;

  std::int64_t num_parameters = 0;
  std::int64_t mapped_bytes = 0;  ///< used from the files in place
  std::int64_t copied_bytes =
      0;  ///< float32 copies, reordered matrices, those in eight bits; a GPU's
  WeightFormat format = WeightFormat::kStored;

  /// Whether they were moved to memory of the context's device: see upload_weights.
  bool on_device() const { return on_device_ != nullptr; }

 private:
  friend class WeightLoader;
  friend Status upload_weights(Context& context, DType dtype, ModelWeights& weights,
                               const LoadProgress& progress);
  explicit ModelWeights(Checkpoint checkpoint) : checkpoint_(std::move(checkpoint)) {}
  std::optional<Checkpoint> checkpoint_;  // none once all is on a device
  WeightBlocks copies_;
  std::unique_ptr<DeviceBlocks> on_device_;
};

}  // namespace hybridattn::engine
