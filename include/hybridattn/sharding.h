// Cutting fused tensors for tensor parallelism, by named parts.
//
// Convolution channels are q | k | v, and each rank owns heads of all three: a flat cut in
// world_size pieces would give the first rank all of q and some of k. So a dimension is described
// as parts made of heads, each part is cut by itself, and a shard holds its piece of every part in
// their order.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "hybridattn/export.h"
#include "hybridattn/layers.h"
#include "hybridattn/status.h"
#include "hybridattn/tensor.h"

namespace hybridattn {

/// One part of a fused dimension: `heads` heads of `head_size` elements each. What is interleaved
/// by head (query and gate of a head, or q, k, v, z of a key head's group) is one part whose head
/// is the whole group.
struct ShardPart {
  std::string_view name;
  std::int64_t heads = 0;
  std::int64_t head_size = 1;
  /// With fewer heads than ranks, world_size / heads ranks in a row share one (key-value heads of
  /// GQA); without it such a part is refused.
  bool replicate = false;
};

/// Elements [whole, whole + count) of the whole dimension are [shard, shard + count) of the
/// shard's.
struct ShardRange {
  std::int64_t whole = 0;
  std::int64_t shard = 0;
  std::int64_t count = 0;
};

/// q | k | v, as conv_weight, mixed_qkv and the convolution state have them.
HYBRIDATTN_API std::vector<ShardPart> conv_channel_parts(const RadixLinearAttention& layer);

/// What `rank` of `world_size` owns, one range a part. Errors: invalid_argument, naming the part
/// whose heads cannot be shared out.
HYBRIDATTN_API Result<std::vector<ShardRange>> shard_ranges(std::span<const ShardPart> parts,
                                                            std::int32_t rank,
                                                            std::int32_t world_size);

/// Copies the rank's ranges of dimension `dim` of `whole` to `shard`, which has the same other
/// dimensions and dtype. Host memory, any strides. Errors: invalid_argument; nothing is written
/// then.
HYBRIDATTN_API Status cut_shard(const ConstTensorView& whole, int dim,
                                std::span<const ShardPart> parts, std::int32_t rank,
                                std::int32_t world_size, const TensorView& shard);

/// The reverse: `shards` of all ranks, in their order. Of replicated heads the first rank's copy
/// counts. Errors: the same.
HYBRIDATTN_API Status join_shards(std::span<const ConstTensorView> shards, int dim,
                                  std::span<const ShardPart> parts, const TensorView& whole);

}  // namespace hybridattn
