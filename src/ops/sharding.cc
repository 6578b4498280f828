#include "hybridattn/sharding.h"

#include <cstring>
#include <limits>
#include <utility>

#include "hybridattn/status_macros.h"

namespace hybridattn {
namespace {

constexpr std::int64_t kMostHeads = std::numeric_limits<std::int32_t>::max();

std::int64_t whole_size(std::span<const ShardPart> parts) {
  std::int64_t size = 0;
  for (const ShardPart& part : parts) size += part.heads * part.head_size;
  return size;
}

std::int64_t shard_size(std::span<const ShardRange> ranges) {
  std::int64_t size = 0;
  for (const ShardRange& range : ranges) size += range.count;
  return size;
}

/// The two tensors agree in all but `dim`, whose sizes are as given.
Status check_pair(const char* verb, const ConstTensorView& whole, const ConstTensorView& shard,
                  int dim, std::int64_t wanted_whole, std::int64_t wanted_shard) {
  if (dim < 0 || dim >= whole.rank || shard.rank != whole.rank || shard.dtype != whole.dtype) {
    return invalid_argument(verb, ": whole is ", dtype_name(whole.dtype), " of rank ", whole.rank,
                            ", shard ", dtype_name(shard.dtype), " of rank ", shard.rank,
                            ", dim is ", dim, ", must be one dtype and rank and a dimension of it");
  }
  for (int d = 0; d < whole.rank; ++d) {
    const std::int64_t in_whole = d == dim ? wanted_whole : whole.dim(d);
    const std::int64_t in_shard = d == dim ? wanted_shard : whole.dim(d);
    if (whole.dim(d) != in_whole || shard.dim(d) != in_shard) {
      return invalid_argument(verb, ": dimension ", d, " of whole is ", whole.dim(d),
                              " and of shard ", shard.dim(d), ", must be ", in_whole, " and ",
                              in_shard);
    }
  }
  if (whole.num_elements() > 0 && (whole.data == nullptr || shard.data == nullptr)) {
    return invalid_argument(verb, ": ", whole.data == nullptr ? "whole" : "shard",
                            " has no data (a null pointer)");
  }
  return {};
}

/// Copies `count` slices of dimension `dim`, in runs that both have in one piece.
void copy_slices(const ConstTensorView& from, std::int64_t from_first, const TensorView& to,
                 std::int64_t to_first, int dim, std::int64_t count) {
  std::array<std::int64_t, kMaxRank> size{1, 1, 1, 1};
  for (int d = 0; d < from.rank; ++d) size[static_cast<std::size_t>(d)] = from.dim(d);
  size[static_cast<std::size_t>(dim)] = count;
  std::int64_t run = 1;
  for (int d = from.rank - 1; d >= 0 && from.stride(d) == run && to.stride(d) == run; --d) {
    run *= std::exchange(size[static_cast<std::size_t>(d)], 1);
  }
  const auto bytes = static_cast<std::int64_t>(dtype_size(from.dtype));
  const auto* source =
      static_cast<const std::byte*>(from.data) + from_first * from.stride(dim) * bytes;
  auto* target = static_cast<std::byte*>(to.data) + to_first * to.stride(dim) * bytes;
  for (std::int64_t i = 0; i < size[0]; ++i) {
    for (std::int64_t j = 0; j < size[1]; ++j) {
      for (std::int64_t k = 0; k < size[2]; ++k) {
        for (std::int64_t l = 0; l < size[3]; ++l) {
          const auto at = [&](const auto& view) {
            return (i * view.stride(0) + j * view.stride(1) + k * view.stride(2) +
                    l * view.stride(3)) *
                   bytes;
          };
          std::memcpy(target + at(to), source + at(from), static_cast<std::size_t>(run * bytes));
        }
      }
    }
  }
}

}  // namespace

std::vector<ShardPart> conv_channel_parts(const RadixLinearAttention& layer) {
  return {{"q", layer.num_k_heads, layer.head_k_dim},
          {"k", layer.num_k_heads, layer.head_k_dim},
          {"v", layer.num_v_heads, layer.head_v_dim}};
}

Result<std::vector<ShardRange>> shard_ranges(std::span<const ShardPart> parts, std::int32_t rank,
                                             std::int32_t world_size) {
  if (world_size < 1 || rank < 0 || rank >= world_size) {
    return invalid_argument("shard_ranges: rank is ", rank, " of ", world_size,
                            ", must be in [0, world_size)");
  }
  std::vector<ShardRange> ranges;
  std::int64_t whole = 0;
  std::int64_t shard = 0;
  for (const ShardPart& part : parts) {
    if (part.heads > kMostHeads || part.head_size > kMostHeads) {
      return invalid_argument("shard_ranges: part ", part.name, " has ", part.heads, " heads of ",
                              part.head_size, " elements, must be under 2^31 each");
    }
    const bool shared = part.replicate && part.heads > 0 && part.heads < world_size;
    if (part.heads < 0 || part.head_size < 0 ||
        (shared ? world_size % part.heads : part.heads % world_size) != 0) {
      return invalid_argument("shard_ranges: part ", part.name, " has ", part.heads, " heads of ",
                              part.head_size, " elements, which ", world_size,
                              " ranks cannot share out evenly");
    }
    const std::int64_t heads = shared ? 1 : part.heads / world_size;
    const std::int64_t first = shared ? rank / (world_size / part.heads) : rank * heads;
    ranges.push_back({whole + first * part.head_size, shard, heads * part.head_size});
    whole += part.heads * part.head_size;
    shard += heads * part.head_size;
  }
  return ranges;
}

Status cut_shard(const ConstTensorView& whole, int dim, std::span<const ShardPart> parts,
                 std::int32_t rank, std::int32_t world_size, const TensorView& shard) {
  HYBRIDATTN_ASSIGN(const std::vector<ShardRange> ranges, shard_ranges(parts, rank, world_size));
  HYBRIDATTN_TRY(check_pair("cut_shard", whole, shard, dim, whole_size(parts), shard_size(ranges)));
  if (whole.num_elements() == 0) return {};
  for (const ShardRange& range : ranges) {
    copy_slices(whole, range.whole, shard, range.shard, dim, range.count);
  }
  return {};
}

Status join_shards(std::span<const ConstTensorView> shards, int dim,
                   std::span<const ShardPart> parts, const TensorView& whole) {
  const auto world_size = static_cast<std::int32_t>(shards.size());
  std::vector<std::vector<ShardRange>> all;
  for (std::int32_t rank = 0; rank < world_size; ++rank) {
    HYBRIDATTN_ASSIGN(std::vector<ShardRange> ranges, shard_ranges(parts, rank, world_size));
    HYBRIDATTN_TRY(check_pair("join_shards", whole, shards[static_cast<std::size_t>(rank)], dim,
                              whole_size(parts), shard_size(ranges)));
    all.push_back(std::move(ranges));
  }
  if (shards.empty()) return invalid_argument("join_shards: shards is empty");
  if (whole.num_elements() == 0) return {};
  // Backwards, so that of copies the first rank's is the one that stays.
  for (std::size_t rank = shards.size(); rank-- > 0;) {
    for (const ShardRange& range : all[rank]) {
      copy_slices(shards[rank], range.shard, whole, range.whole, dim, range.count);
    }
  }
  return {};
}

}  // namespace hybridattn
