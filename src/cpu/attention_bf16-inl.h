// Softmax attention as products in bf16: queries, keys and values as they come, logits, softmax and
// sums in float32.
//
// Logits are computed as K Q^T, [key][query row]: keys are left operands where they lie in the
// cache, and the softmax goes down the keys with a query row in each lane. The weights, rounded to
// bf16, are turned back for the product with the values.
#include <algorithm>
#include <limits>

#include "src/cpu/attention_sight-inl.h"
#include "src/cpu/bf16_product-inl.h"
#include "src/cpu/scratch.h"
#include "src/ops/attention_params.h"

#if defined(HYBRIDATTN_CPU_ATTENTION_BF16_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HYBRIDATTN_CPU_ATTENTION_BF16_INL_H_
#undef HYBRIDATTN_CPU_ATTENTION_BF16_INL_H_
#else
#define HYBRIDATTN_CPU_ATTENTION_BF16_INL_H_
#endif

#if HYBRIDATTN_TARGET_HAS_TILES
HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

inline constexpr std::int64_t kWideKeys = ops::kAttentionBf16Keys;

/// Units of 4 bytes between the end of a row of scratch and the next row: rows a power of two apart
/// would meet in the same few sets of the first-level cache (products on tiles up to 1.4 times as
/// fast without that).
inline constexpr std::int64_t kSpare = ops::kAttentionBf16Spare;
inline constexpr std::int64_t kWeightStride = kWideKeys / 2 + kSpare;

/// The scratch of one worker, cut up, and what one task works on.
struct WideTile {
  WideTile(std::byte* scratch, const ops::AttentionParams& p, std::int64_t query_rows)
      : dim(p.q.dim(2)), v_dim(p.v.dim(3)), rows(query_rows), lanes_of_rows((rows + 15) / 16 * 16),
        row_stride(lanes_of_rows + kSpare), v_stride(v_dim + kSpare) {
    ScratchCut cut(scratch);
    cut.take(q_pairs, dim / 2 * row_stride);
    cut.take(keys, kWideKeys * dim);
    cut.take(v_pairs, kWideKeys / 2 * v_stride);
    cut.take(logits, kWideKeys * row_stride);
    cut.take(weight_pairs, kWideKeys / 2 * row_stride);
    cut.take(weights, lanes_of_rows * kWeightStride);
    cut.take(out, lanes_of_rows * v_stride);
    for (float** row : {&top, &sum, &shrink}) cut.take(*row, lanes_of_rows);
    for (std::int32_t** row : {&seen_begin, &seen_end}) cut.take(*row, lanes_of_rows);
    if (p.rows.parents != nullptr) cut.take(seen_new, kMaxTreeTokens * lanes_of_rows);
  }

  std::int64_t dim, v_dim;
  std::int64_t rows;            // query rows: tokens x heads of the group
  std::int64_t lanes_of_rows;   // the same, whole vectors
  std::int64_t row_stride;      // from a vector of all rows to the next
  std::int64_t v_stride;        // the same of v_dim numbers
  std::uint32_t* q_pairs;       // [dim / 2][rows]
  BF16* keys;                   // [keys, dim] where they do not lie in the cache as tiles want them
  std::uint32_t* v_pairs;       // [keys / 2][v_dim]
  float* logits;                // [keys][rows]
  std::uint32_t* weight_pairs;  // [keys / 2][rows]
  std::uint32_t* weights;       // [rows][keys / 2]
  float* out;                   // [rows][v_dim], not yet divided
  float* top;                   // [rows] running maximum
  float* sum;                   // [rows] running denominator
  float* shrink;                // [rows] what the last tile made of the sums before it
  std::int32_t* seen_begin;     // [rows] the keys that a row sees, from the tile's first on
  std::int32_t* seen_end;
  std::int32_t* seen_new = nullptr;  // [new token][rows] -1 where a row of a tree sees it, else 0
  bool tree = false;
  std::int64_t first_new = 0;  // where the new tokens of a tree begin, from the tile's first key on
  bool fresh = true;           // no tile was added to out
};

/// A cached row as bf16: where it lies, or converted into `copy`.
inline const BF16* bf16_row(const std::byte* row, DType dtype, std::int64_t dim, BF16* copy) {
  if (dtype == DType::kBF16) return reinterpret_cast<const BF16*>(row);
  for (std::int64_t i = 0; i < dim; i += kTileSide) {
    store_part(load_full(reinterpret_cast<const F8E4M3*>(row) + i), copy + i, kTileSide);
  }
  return copy;
}

inline void load_query_pairs(const ops::AttentionParams& p, std::int64_t first_token,
                             std::int64_t kv_head, WideTile& t) {
  for (std::int64_t block = 0; block < t.rows; block += kTileSide) {
    const BF16* rows[kTileSide];
    for (std::int64_t r = 0; r < kTileSide; ++r) {
      // Rows past the last are copies of it.
      const std::int64_t m = block + r < t.rows ? block + r : t.rows - 1;
      const std::int64_t head = kv_head * p.group + m % p.group;
      rows[r] = reinterpret_cast<const BF16*>(row3(p.q, first_token + m / p.group, head));
    }
    turn_rows(rows, t.dim, t.q_pairs + block, t.row_stride);
  }
  for (std::int64_t m = 0; m < t.lanes_of_rows; ++m) {
    t.top[m] = -std::numeric_limits<float>::infinity();
    t.sum[m] = 0;
  }
}

/// Logits of keys [first, end), not yet scaled, the tile's first being key `begin`. Keys in a cache
/// go block by block, a block being what a page holds whole: then its rows have one stride. Nothing
/// is read of pages that hold no such key.
template <class Products>
void multiply_queries(const KeyPlaces& places, std::int64_t begin, std::int64_t first,
                      std::int64_t end, WideTile& t) {
  const ConstTensorView& k = places.p.k;
  const RightOperand queries{t.q_pairs, t.row_stride};
  const std::int64_t size = places.page_size;
  const std::int64_t block = k.dtype != DType::kBF16 ? 0
                             : size % 32 == 0        ? 32
                             : size % 16 == 0        ? 16
                                                     : 0;
  if (block == 0) {
    const std::int64_t padded = (end - begin + kTileSide - 1) / kTileSide * kTileSide;
    for (std::int64_t j = 0; j < padded; ++j) {
      const std::int64_t key = std::clamp(begin + j, first, end - 1);
      BF16* copy = t.keys + j * t.dim;
      const BF16* row = bf16_row(places.of(k, key), k.dtype, t.dim, copy);
      if (row != copy) std::memcpy(copy, row, static_cast<std::size_t>(t.dim * 2));
    }
    Products::template multiply<false>(padded, t.lanes_of_rows, t.dim, {t.keys, t.dim * 2}, queries,
                                       {t.logits, t.row_stride});
    return;
  }
  for (std::int64_t key = first / block * block; key < end; key += block) {
    Products::template multiply<false>(block, t.lanes_of_rows, t.dim,
                                       {places.of(k, key), k.stride(1) * 2}, queries,
                                       {t.logits + (key - begin) * t.row_stride, t.row_stride});
  }
}

/// Values [begin, end) of which `first` is the first that a row sees, as right operand: zeros for
/// the others and behind. Returns whether all are finite.
inline bool load_value_pairs(const KeyPlaces& places, std::int64_t begin, std::int64_t first,
                             std::int64_t end, WideTile& t) {
  const ConstTensorView& v = places.p.v;
  const std::int64_t pairs = (end - begin + kTileInner - 1) / kTileInner * kTileSide;
  alignas(64) BF16 copies[2][256];
  alignas(64) static constexpr BF16 kZeros[256] = {};
  const auto exponents = hn::Set(DU(), 0x7f807f80u);
  const hn::Repartition<std::uint16_t, DF> d16;
  auto infinite = hn::MaskFalse(d16);
  for (std::int64_t pair = 0; pair < pairs; ++pair) {
    const BF16* rows[2];
    for (std::int64_t i = 0; i < 2; ++i) {
      const std::int64_t key = begin + 2 * pair + i;
      rows[i] = key < first || key >= end
                    ? kZeros
                    : bf16_row(places.of(v, key), v.dtype, t.v_dim, copies[i]);
    }
    for (std::int64_t at = 0; at < t.v_dim; at += kTileSide) {
      const VU units = pair_of(rows[0] + at, rows[1] + at);
      const auto exponent = hn::BitCast(d16, hn::And(units, exponents));
      infinite = hn::Or(infinite, hn::Eq(exponent, hn::Set(d16, std::uint16_t{0x7f80})));
      hn::StoreU(units, DU(), t.v_pairs + pair * t.v_stride + at);
    }
  }
  return hn::AllFalse(d16, infinite);
}

/// The same for a tree, once a task: which of its tokens each row sees.
inline void load_tree_sight(const ops::AttentionParams& p, std::int32_t row,
                            std::int64_t first_query, WideTile& t) {
  t.tree = true;
  for (std::int64_t m = 0; m < t.lanes_of_rows; ++m) {
    const std::int64_t query = first_query + (m < t.rows ? m : t.rows - 1) / p.group;
    const TreeSight sight = tree_sight(p, row, query);
    for (std::int64_t i = 0; i < p.rows.q_length[row]; ++i) {
      t.seen_new[i * t.lanes_of_rows + m] = (sight.path >> i & 1) != 0 ? -1 : 0;
    }
  }
}

/// The range of keys that each row sees in the tile; returns whether all see all of it.
inline bool load_sight(const ops::AttentionParams& p, std::int32_t row, std::int64_t first_query,
                       std::int64_t begin, std::int64_t end, WideTile& t) {
  bool all = !t.tree;
  t.first_new = p.rows.kv_length[row] - p.rows.q_length[row] - begin;
  for (std::int64_t m = 0; m < t.lanes_of_rows; ++m) {
    const std::int64_t query = first_query + (m < t.rows ? m : t.rows - 1) / p.group;
    core::KeyRange seen = range_of(p, row, query);
    if (t.tree) seen = {tree_sight(p, row, query).begin, end};
    const std::int64_t from = std::clamp(seen.begin - begin, std::int64_t{0}, end - begin);
    const std::int64_t to = std::clamp(seen.end - begin, from, end - begin);
    t.seen_begin[m] = static_cast<std::int32_t>(from);
    t.seen_end[m] = static_cast<std::int32_t>(to);
    all = all && from == 0 && to == end - begin;
  }
  return all;
}

/// Softmax of sixteen rows over the first `count` keys of the tile: logits become pairs of weights.
template <bool kAll>
void soften_lanes(const Logits& finish, std::int64_t count, std::int64_t lane, WideTile& t) {
  const DF d;
  const hn::RebindToSigned<DF> di;
  const VF lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
  const VF log2e = hn::Set(d, 1.44269504f);
  const auto begin = hn::LoadU(di, t.seen_begin + lane), end = hn::LoadU(di, t.seen_end + lane);
  const auto visible = [&](std::int64_t key) HWY_ATTR {
    const auto at = hn::Set(di, static_cast<std::int32_t>(key));
    auto seen = hn::And(hn::Ge(at, begin), hn::Lt(at, end));
    if (t.tree && key >= t.first_new) {
      const auto* bits = t.seen_new + (key - t.first_new) * t.lanes_of_rows + lane;
      seen = hn::And(seen, hn::Ne(hn::LoadU(di, bits), hn::Zero(di)));
    }
    return hn::RebindMask(d, seen);
  };
  float* logits = t.logits + lane;
  VF tile_top = lowest;
  for (std::int64_t key = 0; key < count; ++key) {
    VF logit = finish(hn::LoadU(d, logits + key * t.row_stride));
    if constexpr (!kAll) logit = hn::IfThenElse(visible(key), logit, lowest);
    hn::StoreU(logit, d, logits + key * t.row_stride);
    tile_top = hn::Max(tile_top, logit);
  }
  const VF old_top = hn::LoadU(d, t.top + lane);
  const VF top = hn::Max(tile_top, old_top);
  const auto blind = hn::Eq(top, lowest);  // has seen no key yet
  const VF shift = hn::IfThenZeroElse(blind, top);
  const VF shrink =
      hn::IfThenElse(blind, hn::Set(d, 1.0f), exp2_of(hn::Mul(hn::Sub(old_top, shift), log2e)));
  VF total = hn::Zero(d);
  const auto weight_of = [&](std::int64_t key) HWY_ATTR {
    if (key >= count) return hn::Zero(d);
    const VF logit = hn::LoadU(d, logits + key * t.row_stride);
    VF weight = exp2_of(hn::Mul(hn::Sub(logit, shift), log2e));
    if constexpr (!kAll) weight = hn::IfThenElseZero(visible(key), weight);
    total = hn::Add(total, weight);
    return weight;
  };
  const std::int64_t padded = (count + kTileInner - 1) / kTileInner * kTileInner;
  for (std::int64_t key = 0; key < padded; key += 2) {
    const VF first = weight_of(key);
    const VF second = weight_of(key + 1);
    hn::StoreU(pair_rounded(first, second), DU(), t.weight_pairs + key / 2 * t.row_stride + lane);
  }
  hn::StoreU(top, d, t.top + lane);
  hn::StoreU(hn::MulAdd(hn::LoadU(d, t.sum + lane), shrink, total), d, t.sum + lane);
  hn::StoreU(shrink, d, t.shrink + lane);
}

inline void shrink_sums(WideTile& t) {
  for (std::int64_t m = 0; m < t.rows && !t.fresh; ++m) {
    if (t.shrink[m] != 1)
      scale_row(t.out + m * t.v_stride, t.shrink[m], t.v_dim, t.out + m * t.v_stride);
  }
}

/// Some value of the tile is infinite or no number: each row takes those that it sees, one by one.
inline void add_values_seen(const KeyPlaces& places, std::int64_t begin, WideTile& t) {
  const DF d;
  alignas(64) BF16 copy[256];
  if (t.fresh) {
    std::memset(t.out, 0, static_cast<std::size_t>(t.rows * t.v_stride) * sizeof(float));
  }
  const auto* weights = reinterpret_cast<const BF16*>(t.weights);
  for (std::int64_t m = 0; m < t.rows; ++m) {
    for (std::int64_t key = t.seen_begin[m]; key < t.seen_end[m]; ++key) {
      if (t.tree && key >= t.first_new &&
          t.seen_new[(key - t.first_new) * t.lanes_of_rows + m] == 0) {
        continue;
      }
      const ConstTensorView& v = places.p.v;
      const BF16* row = bf16_row(places.of(v, begin + key), v.dtype, t.v_dim, copy);
      const VF weight = hn::Set(d, to_float(weights[m * 2 * kWeightStride + key]));
      for (std::int64_t at = 0; at < t.v_dim; at += kTileSide) {
        float* out = t.out + m * t.v_stride + at;
        hn::StoreU(hn::MulAdd(weight, load_full(row + at), hn::LoadU(d, out)), d, out);
      }
    }
  }
}

template <class Products>
void attend_wide(const ops::AttentionParams& p, std::int32_t row, std::int64_t first_query,
                 const KeyPlaces& places, std::int64_t tile, std::int64_t first, std::int64_t end,
                 WideTile& t) {
  // Blocks of keys start at multiples of 32 from the tile's first: rows see no difference.
  const std::int64_t begin = tile + (first - tile) / kTileInner * kTileInner;
  const std::int64_t count = end - begin;
  multiply_queries<Products>(places, begin, first, end, t);
  const bool all_visible = load_sight(p, row, first_query, begin, end, t);
  const Logits finish(p.options, p.k_scale.of(places.kv_head));
  for (std::int64_t lane = 0; lane < t.lanes_of_rows; lane += kTileSide) {
    if (all_visible) {
      soften_lanes<true>(finish, count, lane, t);
    } else {
      soften_lanes<false>(finish, count, lane, t);
    }
  }
  const std::int64_t padded = (count + kTileInner - 1) / kTileInner * kTileInner;
  for (std::int64_t pairs = 0; pairs < padded / 2; pairs += kTileSide) {
    for (std::int64_t lane = 0; lane < t.lanes_of_rows; lane += kTileSide) {
      turn_units(t.weight_pairs + pairs * t.row_stride + lane, t.row_stride, kTileSide,
                 t.weights + lane * kWeightStride + pairs, kWeightStride);
    }
  }
  const bool finite = load_value_pairs(places, begin, first, end, t);
  shrink_sums(t);
  const std::int64_t rows = (t.rows + Products::kRows - 1) / Products::kRows * Products::kRows;
  const LeftOperand weights{t.weights, kWeightStride * 4};
  const RightOperand values{t.v_pairs, t.v_stride};
  if (!finite && !all_visible) {
    add_values_seen(places, begin, t);
  } else if (t.fresh) {
    Products::template multiply<false>(rows, t.v_dim, padded, weights, values, {t.out, t.v_stride});
  } else {
    Products::template multiply<true>(rows, t.v_dim, padded, weights, values, {t.out, t.v_stride});
  }
  t.fresh = false;
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // HYBRIDATTN_TARGET_HAS_TILES

#endif  // HYBRIDATTN_CPU_ATTENTION_BF16_INL_H_
