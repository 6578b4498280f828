// Which part of a model one rank of several has: heads, and columns of the feed-forward networks.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/checkpoint/model_config.h"
#include "hybridattn/sharding.h"

namespace hybridattn::engine {

/// The part of rank `rank` of `size`.
struct ModelShard {
  std::int32_t rank = 0;
  std::int32_t size = 1;

  bool whole() const { return size == 1; }
};

/// The configuration of what each of `ranks` ranks computes: heads, head groups and widths are its
/// own, the residual stream and the vocabulary are whole. Key-value heads are shared by
/// neighbouring ranks where there are fewer heads than ranks. Errors: invalid_argument, naming what
/// the ranks cannot share out evenly.
Result<ModelConfig> shard_config(const ModelConfig& config, std::int32_t ranks);

/// What of a tensor a rank keeps: of dimension `dim` its range of each part, one after the other.
/// No parts: all of it.
struct WeightCut {
  int dim = 0;
  std::vector<ShardPart> parts;
};

/// The cuts of a whole model's tensors. A matrix that makes heads is cut by rows, one that reads
/// them by columns: its products over all ranks add up to the whole one.
class WeightCuts {
 public:
  /// `config` is the whole model's. Borrowed.
  explicit WeightCuts(const ModelConfig& config) : c_(config) {}

  /// q_proj: of each head the query, then the gate.
  WeightCut queries() const;
  /// k_proj and v_proj.
  WeightCut keys() const;
  /// o_proj.
  WeightCut attention_out() const;
  /// q | k | v, and with z behind them.
  WeightCut gdn_channels() const;
  WeightCut gdn_channels_and_z() const;
  WeightCut gdn_z() const;
  /// in_proj_b, in_proj_a, A_log, dt_bias: one row a value head; of b and a in one tensor two
  /// parts.
  WeightCut gdn_value_heads() const;
  WeightCut gdn_b_and_a() const;
  /// out_proj.
  WeightCut gdn_out() const;
  /// gate_proj and up_proj of a network that is `width` wide, and down_proj.
  static WeightCut wide(std::int64_t width);
  static WeightCut narrow(std::int64_t width);
  /// The same of all experts in one tensor [E, 2 width, H] and [E, H, width].
  WeightCut stacked_wide() const;
  WeightCut stacked_narrow() const;
  /// lm_head; whole where the ranks cannot share out the vocabulary evenly.
  WeightCut vocabulary(std::int32_t ranks) const;

 private:
  const ModelConfig& c_;
};

}  // namespace hybridattn::engine
