// The weights of a hybrid model, as views: large matrices into the mapped files, in the type they
// are stored in; small vectors as float32 copies.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "engine/checkpoint/model_config.h"
#include "engine/checkpoint/safetensors.h"
#include "hybridattn/tensor.h"

namespace hybridattn::engine {

/// A SwiGLU network: gate and up [F, H], down [H, F].
struct MlpWeights {
  ConstTensorView gate;
  ConstTensorView up;
  ConstTensorView down;
};

struct MoeWeights {
  ConstTensorView router;           ///< [E, H]
  std::vector<MlpWeights> experts;  ///< [E]
  std::optional<MlpWeights> shared;
  ConstTensorView shared_gate;  ///< [1, H], where there is a shared expert
};

struct FullAttentionWeights {
  ConstTensorView q_proj;  ///< [HQ * 2 * D, H]: per head D rows of query, then D of gate
  ConstTensorView k_proj;  ///< [HK * D, H]
  ConstTensorView v_proj;  ///< [HK * D, H]
  ConstTensorView o_proj;  ///< [H, HQ * D]
  ConstTensorView q_norm;  ///< [D] f32, zero-centred
  ConstTensorView k_norm;  ///< [D] f32, zero-centred
};

struct GdnWeights {
  ConstTensorView in_qkv;    ///< [C, H], rows q | k | v
  ConstTensorView in_z;      ///< [HV * V, H]
  ConstTensorView in_b;      ///< [HV, H]
  ConstTensorView in_a;      ///< [HV, H]
  ConstTensorView conv;      ///< [C, W] f32
  ConstTensorView a_log;     ///< [HV] f32
  ConstTensorView dt_bias;   ///< [HV] f32
  ConstTensorView norm;      ///< [V] f32, plain
  ConstTensorView out_proj;  ///< [H, HV * V]
};

struct LayerWeights {
  ConstTensorView input_norm;           ///< [H] f32, zero-centred
  ConstTensorView post_attention_norm;  ///< [H] f32, zero-centred
  std::optional<FullAttentionWeights> full;
  std::optional<GdnWeights> gdn;
  std::optional<MlpWeights> mlp;
  std::optional<MoeWeights> moe;
};

/// Called with the share of the weights that is loaded, 0 to 1.
using LoadProgress = std::function<void(double)>;

class ModelWeights {
 public:
  /// Maps the checkpoint of `directory` and takes every parameter exactly once. Errors: as
  /// Checkpoint::open; not_found for a missing parameter; data_loss for a wrong shape, a wrong type
  /// or a tensor that nothing takes (only mtp.* and model.visual.* may be left over).
  static Result<std::unique_ptr<ModelWeights>> load(const std::filesystem::path& directory,
                                                    const ModelConfig& config,
                                                    const LoadProgress& progress = {});

  ConstTensorView embedding;   ///< [V, H]
  ConstTensorView final_norm;  ///< [H] f32, zero-centred
  ConstTensorView lm_head;     ///< [V, H]; the embedding where they are tied
  bool tied = false;
  std::vector<LayerWeights> layers;

  std::int64_t num_parameters = 0;
  std::int64_t mapped_bytes = 0;  ///< used from the files in place
  std::int64_t copied_bytes = 0;  ///< float32 copies and reordered matrices

 private:
  friend class WeightLoader;
  explicit ModelWeights(Checkpoint checkpoint) : checkpoint_(std::move(checkpoint)) {}
  Checkpoint checkpoint_;
  std::vector<std::unique_ptr<std::byte[]>> copies_;
};

}  // namespace hybridattn::engine
