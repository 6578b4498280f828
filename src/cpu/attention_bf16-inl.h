// Softmax attention as products in bf16: queries, keys and values as they come, logits, softmax and
// sums in float32.
//
// A task takes as many query rows as a worker's second-level cache holds sums for: a tile of keys
// and values is made into operands once for all of them. Then the rows go through it a block at a
// time, logits, softmax and values one after the other, whose numbers the first-level cache holds.
#include <algorithm>
#include <limits>

#include "src/cpu/attention_operands-inl.h"
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
inline constexpr std::int64_t kBlockRows = ops::kAttentionBf16Block;

/// Units of 4 bytes between the end of a row of scratch and the next row: rows a power of two apart
/// would meet in the same few sets of the first-level cache (products on tiles up to 1.4 times as
/// fast without that).
inline constexpr std::int64_t kSpare = ops::kAttentionBf16Spare;

/// The scratch of one worker, cut up, and what one task works on.
struct WideTile {
  WideTile(std::byte* scratch, const ops::AttentionParams& p, std::int64_t query_rows)
      : dim(p.q.dim(2)), v_dim(p.v.dim(3)), rows(query_rows),
        padded_rows((rows + kTileSide - 1) / kTileSide * kTileSide), q_stride(dim + 2 * kSpare),
        v_stride(v_dim + kSpare) {
    const std::int64_t tokens = rows / p.group;
    ScratchCut cut(scratch);
    cut.take(q, padded_rows * q_stride);
    cut.take(keys, kTileSide * dim);
    cut.take(k_pairs, dim / 2 * kKeyStride);
    cut.take(v_pairs, kWideKeys / 2 * v_stride);
    cut.take(logits, kBlockRows * kKeyStride);
    cut.take(weights, kBlockRows * kWeightStride);
    cut.take(out, padded_rows * v_stride);
    cut.take(top, padded_rows);
    cut.take(sum, padded_rows);
    cut.take(sums, padded_rows * kTileSide);
    cut.take(seen, tokens);
    cut.take(trees, tokens);
  }
  static constexpr std::int64_t kKeyStride = kWideKeys + kSpare;
  static constexpr std::int64_t kWeightStride = kWideKeys + 2 * kSpare;

  struct Seen {
    std::int32_t begin, end;  // from the tile's first key on; all of a tree's branch is between
  };

  std::int64_t dim, v_dim;
  std::int64_t rows;         // query rows: tokens x heads of the group
  std::int64_t padded_rows;  // the same, whole tiles
  std::int64_t q_stride, v_stride;
  BF16* q;                 // [rows][dim]
  BF16* keys;              // [16][dim] keys that are not bf16 in the cache
  std::uint32_t* k_pairs;  // [dim / 2][keys]
  std::uint32_t* v_pairs;  // [keys / 2][v_dim], columns as interleaving leaves them
  float* logits;           // [rows of a block][keys]
  BF16* weights;           // [rows of a block][keys]
  float* out;              // [rows][v_dim], not yet divided, columns as in v_pairs
  float* top;              // [rows] running maximum of the exponents of 2
  float* sum;              // [rows] denominator
  float* sums;             // [rows][16] whose sum that will be
  Seen* seen;              // [tokens]
  TreeSight* trees;        // [tokens] where the row is a tree
  bool tree = false;
  std::int64_t first_new = 0;  // where the new tokens of a tree begin, from the tile's first key on
};

inline void load_query_rows(const ops::AttentionParams& p, std::int64_t first_token,
                            std::int64_t kv_head, WideTile& t) {
  for (std::int64_t m = 0; m < t.padded_rows; ++m) {
    const std::int64_t row = m < t.rows ? m : t.rows - 1;  // rows past the last are copies of it
    const std::int64_t head = kv_head * p.group + row % p.group;
    std::memcpy(t.q + m * t.q_stride, row3(p.q, first_token + row / p.group, head),
                static_cast<std::size_t>(t.dim * 2));
    t.top[m] = -std::numeric_limits<float>::infinity();
  }
  std::memset(t.sums, 0, static_cast<std::size_t>(t.padded_rows * kTileSide) * sizeof(float));
  std::memset(t.out, 0, static_cast<std::size_t>(t.padded_rows * t.v_stride) * sizeof(float));
}

/// Keys [first, end), the tile's first being key `begin`, as columns of a right operand, with whole
/// tiles of columns: beside them stand copies. Nothing else is read.
inline void load_key_pairs(const KeyPlaces& places, std::int64_t begin, std::int64_t first,
                           std::int64_t end, WideTile& t) {
  const ConstTensorView& k = places.p.k;
  KeyWalk walk(places, k, first);
  const std::byte* row = walk.next();
  const std::int64_t from = (first - begin) / kTileInner * kTileInner;
  for (std::int64_t column = from; begin + column < end; column += kTileSide) {
    const BF16* rows[kTileSide];
    for (std::int64_t i = 0; i < kTileSide; ++i) {
      const std::int64_t key = begin + column + i;
      if (key > first && key < end) row = walk.next();
      rows[i] = bf16_row(row, k.dtype, t.dim, t.keys + i * t.dim);
    }
    turn_rows(rows, t.dim, t.k_pairs + column, WideTile::kKeyStride);
  }
  // The last product takes two tiles of columns.
  const std::int64_t columns = (end - begin + kTileSide - 1) / kTileSide * kTileSide;
  for (std::int64_t i = 0; columns % kTileInner != 0 && i < t.dim / 2; ++i) {
    std::uint32_t* pairs = t.k_pairs + i * WideTile::kKeyStride + columns;
    hn::StoreU(hn::LoadU(DU(), pairs - kTileSide), DU(), pairs);
  }
}

/// Values [first, end) as right operand: zeros before and behind. Where `checks`, returns whether
/// all are finite.
inline bool load_value_pairs(const KeyPlaces& places, std::int64_t begin, std::int64_t first,
                             std::int64_t end, bool checks, WideTile& t) {
  const ConstTensorView& v = places.p.v;
  KeyWalk walk(places, v, first);
  alignas(64) BF16 copies[2][256];
  alignas(64) static constexpr BF16 kZeros[256] = {};
  bool finite = true;
  const std::int64_t from = (first - begin) / kTileInner * kTileInner;
  for (std::int64_t at = from; begin + at < end || at % kTileInner != 0; at += 2) {
    const BF16* rows[2];
    for (std::int64_t i = 0; i < 2; ++i) {
      const std::int64_t key = begin + at + i;
      rows[i] =
          key < first || key >= end ? kZeros : bf16_row(walk.next(), v.dtype, t.v_dim, copies[i]);
      if (checks) finite = finite && all_finite(rows[i], t.v_dim);
    }
    interleave_rows(rows[0], rows[1], t.v_dim, t.v_pairs + at / 2 * t.v_stride);
  }
  return finite;
}

/// Once a task: which of a tree's tokens each of its tokens sees.
inline void load_tree_sight(const ops::AttentionParams& p, std::int32_t row,
                            std::int64_t first_query, WideTile& t) {
  t.tree = true;
  for (std::int64_t i = 0; i < t.rows / p.group; ++i) {
    t.trees[i] = tree_sight(p, row, first_query + i);
  }
}

/// The range of keys that each token sees in the tile; returns whether all see all of it.
inline bool load_sight(const ops::AttentionParams& p, std::int32_t row, std::int64_t first_query,
                       std::int64_t begin, std::int64_t end, WideTile& t) {
  bool all = !t.tree;
  t.first_new = p.rows.kv_length[row] - p.rows.q_length[row] - begin;
  for (std::int64_t i = 0; i < t.rows / p.group; ++i) {
    core::KeyRange seen = range_of(p, row, first_query + i);
    if (t.tree) seen = {t.trees[i].begin, end};
    const std::int64_t from = std::clamp(seen.begin - begin, std::int64_t{0}, end - begin);
    const std::int64_t to = std::clamp(seen.end - begin, from, end - begin);
    t.seen[i] = {static_cast<std::int32_t>(from), static_cast<std::int32_t>(to)};
    all = all && from == 0 && to == end - begin;
  }
  return all;
}

/// The keys that a query row sees in the tile.
class RowSight {
 public:
  RowSight(const WideTile& t, std::int64_t token)
      : begin_(t.seen[token].begin), end_(t.seen[token].end) {
    if (!t.tree) return;
    first_new_ = t.first_new;
    path_ = t.trees[token].path;
  }
  bool sees(std::int64_t key) const {
    if (key < begin_ || key >= end_) return false;
    return key < first_new_ || (path_ >> (key - first_new_) & 1) != 0;
  }
  /// Whether it sees all of [begin, end) or nothing, by 32 keys from `begin` on.
  bool is_whole(std::int64_t begin, std::int64_t end) const {
    return begin_ == begin && end_ == end && first_new_ >= end;
  }
  /// Those from `key` on, in a vector.
  HWY_INLINE auto mask(std::int64_t key) const {
    const DF d;
    const auto up_to = [&](std::int64_t last) HWY_ATTR {
      const std::int64_t count = std::clamp(last - key, std::int64_t{0}, kTileSide);
      return (std::uint32_t{1} << count) - 1;
    };
    std::uint32_t bits = up_to(end_) & ~up_to(begin_);
    if (key + kTileSide > first_new_) {
      const std::int64_t ahead = key - first_new_;
      const std::uint64_t branch = ahead >= 64 ? 0 : ahead >= 0 ? path_ >> ahead : path_ << -ahead;
      bits &= static_cast<std::uint32_t>(branch) | up_to(first_new_);
    }
    const auto bytes = static_cast<std::uint16_t>(bits);
    return hn::LoadMaskBits(d, reinterpret_cast<const std::uint8_t*>(&bytes));
  }

 private:
  std::int64_t begin_, end_;
  std::int64_t first_new_ = std::numeric_limits<std::int64_t>::max();
  std::uint64_t path_ = 0;
};

/// Softmax of row m over keys [begin, end) of the tile, multiples of 32, of which it sees what
/// `sight` says (kWhole: all). Logits become weights, and the row's sums are brought to its new
/// maximum.
template <bool kWhole>
HWY_INLINE void soften_row(const Exponents& exponents, const RowSight& sight, std::int64_t begin,
                           std::int64_t end, std::int64_t m, float* logits, BF16* weights,
                           WideTile& t) {
  const DF d;
  const hn::Repartition<hwy::bfloat16_t, DF> db;
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  if (exponents.bends()) {
    for (std::int64_t key = begin; key < end; key += kTileSide) {
      hn::StoreU(exponents.bend(hn::LoadU(d, logits + key)), d, logits + key);
    }
  }
  VF tops[2] = {hn::Set(d, kLowest), hn::Set(d, kLowest)};
  for (std::int64_t key = begin; key < end; key += kTileInner) {
    for (int i = 0; i < 2; ++i) {
      const std::int64_t at = key + i * kTileSide;
      VF logit = hn::LoadU(d, logits + at);
      if constexpr (!kWhole) logit = hn::IfThenElse(sight.mask(at), logit, hn::Set(d, kLowest));
      tops[i] = hn::Max(tops[i], logit);
    }
  }
  const float tile_top = hn::ReduceMax(d, hn::Max(tops[0], tops[1])) * exponents.factor();
  const float old_top = t.top[m];
  VF total = hn::LoadU(d, t.sums + m * kTileSide);
  if (tile_top > old_top) {
    if (old_top > kLowest) {
      const float shrink = hn::GetLane(exp2_down(hn::Set(d, old_top - tile_top)));
      total = hn::Mul(total, hn::Set(d, shrink));
      float* out = t.out + m * t.v_stride;
      for (std::int64_t at = 0; at < t.v_dim; at += kTileSide) {
        hn::StoreU(hn::Mul(hn::LoadU(d, out + at), hn::Set(d, shrink)), d, out + at);
      }
    }
    t.top[m] = tile_top;
  }
  const VF shift = hn::Set(d, t.top[m] > kLowest ? t.top[m] : 0);  // else it has seen no key yet
  const VF factor = hn::Set(d, exponents.factor());
  const auto weight_of = [&](std::int64_t key) HWY_ATTR __attribute__((always_inline)) {
    VF weight = exp2_down(hn::MulSub(hn::LoadU(d, logits + key), factor, shift));
    if constexpr (!kWhole) weight = hn::IfThenElseZero(sight.mask(key), weight);
    return weight;
  };
  VF more = hn::Zero(d);
  for (std::int64_t key = begin; key < end; key += kTileInner) {
    const VF first = weight_of(key), second = weight_of(key + kTileSide);
    total = hn::Add(total, first);
    more = hn::Add(more, second);
    hn::StoreU(hn::BitCast(DU(), hn::OrderedDemote2To(db, first, second)), DU(),
               reinterpret_cast<std::uint32_t*>(weights + key));
  }
  hn::StoreU(hn::Add(total, more), d, t.sums + m * kTileSide);
}

/// Some value of the tile is infinite or no number: row m takes those that it sees, one by one.
inline void add_values_seen(const RowSight& sight, std::int64_t begin, std::int64_t end,
                            std::int64_t m, const BF16* weights, WideTile& t) {
  const DF d;
  for (std::int64_t key = begin; key < end; ++key) {
    if (!sight.sees(key)) continue;
    const VF weight = hn::Set(d, to_float(weights[key]));
    const std::uint32_t* pairs = t.v_pairs + key / 2 * t.v_stride;
    for (std::int64_t at = 0; at < t.v_dim; at += kTileSide) {
      const VU pair = hn::LoadU(DU(), pairs + at);
      const VU value =
          key % 2 == 0 ? hn::ShiftLeft<16>(pair) : hn::And(pair, hn::Set(DU(), 0xffff0000u));
      float* out = t.out + m * t.v_stride + at;
      hn::StoreU(hn::MulAdd(weight, hn::BitCast(d, value), hn::LoadU(d, out)), d, out);
    }
  }
}

/// Query rows [first_row, first_row + count) of the task through the tile. `finite`: of all values.
template <class Products>
void attend_block(const Exponents& exponents, std::int64_t group, std::int64_t first_row,
                  std::int64_t count, bool finite, WideTile& t) {
  const std::int64_t first = first_row / group, last = (first_row + count - 1) / group;
  std::int64_t begin = kWideKeys, end = 0;
  for (std::int64_t token = first; token <= last; ++token) {
    if (t.seen[token].begin == t.seen[token].end) continue;
    begin = std::min<std::int64_t>(begin, t.seen[token].begin);
    end = std::max<std::int64_t>(end, t.seen[token].end);
  }
  if (begin >= end) return;
  begin = begin / kTileInner * kTileInner;
  end = (end + kTileInner - 1) / kTileInner * kTileInner;
  const std::int64_t rows = (count + Products::kRows - 1) / Products::kRows * Products::kRows;
  Products::template multiply<false>(
      rows, end - begin, t.dim, {t.q + first_row * t.q_stride, t.q_stride * 2},
      {t.k_pairs + begin, WideTile::kKeyStride}, {t.logits + begin, WideTile::kKeyStride});
  bool all_whole = true;
  for (std::int64_t r = 0, token = first, head = first_row % group; r < count; ++r) {
    const RowSight sight(t, token);
    float* logits = t.logits + r * WideTile::kKeyStride;
    BF16* weights = t.weights + r * WideTile::kWeightStride;
    if (sight.is_whole(begin, end)) {
      soften_row<true>(exponents, sight, begin, end, first_row + r, logits, weights, t);
    } else {
      all_whole = false;
      soften_row<false>(exponents, sight, begin, end, first_row + r, logits, weights, t);
    }
    if (++head == group) {
      head = 0;
      ++token;
    }
  }
  if (finite || all_whole) {
    Products::template multiply<true>(rows, t.v_dim, end - begin,
                                      {t.weights + begin, WideTile::kWeightStride * 2},
                                      {t.v_pairs + begin / 2 * t.v_stride, t.v_stride},
                                      {t.out + first_row * t.v_stride, t.v_stride});
    return;
  }
  for (std::int64_t r = 0; r < count; ++r) {
    add_values_seen(RowSight(t, (first_row + r) / group), begin, end, first_row + r,
                    t.weights + r * WideTile::kWeightStride, t);
  }
}

/// All query rows of the task against keys [first, end) of a tile that begins with key `begin`.
template <class Products>
void attend_wide(const ops::AttentionParams& p, std::int32_t row, std::int64_t first_query,
                 const KeyPlaces& places, std::int64_t begin, std::int64_t first, std::int64_t end,
                 WideTile& t) {
  const bool all = load_sight(p, row, first_query, begin, end, t);
  load_key_pairs(places, begin, first, end, t);
  const bool finite = load_value_pairs(places, begin, first, end, !all, t);
  const Exponents exponents(p.options, p.k_scale.of(places.kv_head));
  for (std::int64_t block = 0; block < t.rows; block += kBlockRows) {
    attend_block<Products>(exponents, p.group, block, std::min(kBlockRows, t.rows - block), finite,
                           t);
  }
}

/// What all tiles have left, as results want it.
inline void finish_rows(WideTile& t) {
  const DF d;
  for (std::int64_t m = 0; m < t.rows; ++m) {
    t.sum[m] = hn::ReduceSum(d, hn::LoadU(d, t.sums + m * kTileSide));
    t.top[m] *= kLn2;
    straighten(t.v_dim, t.out + m * t.v_stride);
  }
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // HYBRIDATTN_TARGET_HAS_TILES

#endif  // HYBRIDATTN_CPU_ATTENTION_BF16_INL_H_
