// Attention of one token on tiles, where many query heads share a key head: a run of keys as in
// attention_decode-inl.h, whose products then take more time than memory does.
//
// Logits are K Q^T, [key][query head], so that keys are left operands where they lie; the softmax
// goes down the keys with a query head in each lane. Weights are turned for the product with the
// values. Nothing is fetched ahead: the processor follows rows that are read in blocks, and fetches
// in bursts or between the steps of products made this 5 to 20 % slower.
#include <algorithm>
#include <limits>

#include "src/cpu/attention_decode-inl.h"

#if defined(HYBRIDATTN_CPU_ATTENTION_TILES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HYBRIDATTN_CPU_ATTENTION_TILES_INL_H_
#undef HYBRIDATTN_CPU_ATTENTION_TILES_INL_H_
#else
#define HYBRIDATTN_CPU_ATTENTION_TILES_INL_H_
#endif

#if HYBRIDATTN_TARGET_HAS_TILES
HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

/// Keys and values that are multiplied at a time.
inline constexpr std::int64_t kTileKeys = ops::kAttentionTileKeys;
inline constexpr std::int64_t kTileValues = ops::kAttentionTileValues;

/// The scratch of one worker, cut up. A key head has the lanes of its query heads, whole vectors.
struct DecodeTiles {
  static constexpr std::int64_t kPart = ops::kAttentionPart;
  static constexpr std::int64_t kSpare = ops::kAttentionBf16Spare;
  static constexpr std::int64_t kWeightStride = kPart / 2 + kSpare;

  DecodeTiles(std::byte* scratch, const ops::AttentionParams& p, std::int64_t key_heads)
      : group(p.group), lanes(ops::attention_padded(p.group)), rows(key_heads * lanes),
        dim(p.q.dim(2)), dv(p.v.dim(3)), v_stride(dv + kSpare) {
    ScratchCut cut(scratch);
    cut.take(q_pairs, rows * dim / 2);
    cut.take(keys, kTileKeys * dim);
    cut.take(logits, rows * kPart);
    cut.take(weight_pairs, kPart / 2 * lanes);
    cut.take(weights, rows * kWeightStride);
    cut.take(v_pairs, kTileValues / 2 * v_stride);
    cut.take(out, rows * dv);
    cut.take(top, rows);
    cut.take(sum, rows);
  }

  std::int64_t group, lanes;
  std::int64_t rows;  // lanes of all key heads
  std::int64_t dim, dv;
  std::int64_t v_stride;
  std::uint32_t* q_pairs;       // [key heads][dim / 2][lanes]
  BF16* keys;                   // [kTileKeys, dim] where they do not lie as tiles want them
  float* logits;                // [key heads][kPart][lanes]
  std::uint32_t* weight_pairs;  // [kPart / 2][lanes]
  std::uint32_t* weights;       // [rows][kPart / 2]
  std::uint32_t* v_pairs;       // [kTileValues / 2][dv]
  float* out;                   // [rows, dv], not yet divided
  float* top;                   // [rows]
  float* sum;                   // [rows]
};

inline std::int64_t head_bytes(const ConstTensorView& view) {
  return view.stride(2) * static_cast<std::int64_t>(dtype_size(view.dtype));
}
/// Some keys, `head` bytes behind their rows, as a left operand: where they lie if whole tiles of
/// them have one stride.
inline LeftOperand key_tiles(const std::byte* const* rows, std::int64_t count, std::int64_t head,
                             DType dtype, const DecodeTiles& t) {
  const std::int64_t stride = count > 1 ? rows[1] - rows[0] : 0;
  bool even = dtype == DType::kBF16 && count % kTileSide == 0;
  for (std::int64_t i = 1; i < count; ++i) even = even && rows[i] - rows[i - 1] == stride;
  if (even) return {rows[0] + head, stride};
  for (std::int64_t i = 0; i < ops::attention_padded(count); ++i) {
    BF16* copy = t.keys + i * t.dim;
    // Behind the last key stand copies of it; their logits are not used.
    const BF16* row = bf16_row(rows[std::min(i, count - 1)] + head, dtype, t.dim, copy);
    if (row != copy) std::memcpy(copy, row, static_cast<std::size_t>(t.dim * 2));
  }
  return {t.keys, t.dim * 2};
}

/// Products of all keys of the run.
inline void multiply_keys(const ops::AttentionParams& p, const KeyRun& run, DecodeTiles& t) {
  RowWalk walk(p, p.k, run);
  const std::int64_t skip = head_bytes(p.k);
  for (std::int64_t key = run.begin; key < run.end; key += kTileKeys) {
    const std::int64_t count = std::min(kTileKeys, run.end - key);
    const std::byte* rows[kTileKeys];
    for (std::int64_t i = 0; i < count; ++i) rows[i] = walk.next();
    for (std::int64_t h = 0; h < run.heads; ++h) {
      float* logits = t.logits + (h * DecodeTiles::kPart + key - run.begin) * t.lanes;
      TileProducts::multiply<false>(ops::attention_padded(count), t.lanes, t.dim,
                                    key_tiles(rows, count, h * skip, p.k.dtype, t),
                                    {t.q_pairs + h * t.dim / 2 * t.lanes, t.lanes},
                                    {logits, t.lanes});
    }
  }
}

/// Products of sixteen lanes become weights, relative to the largest, in pairs of keys.
inline void weigh_lanes(const Exponents& exponents, std::int64_t count, std::int64_t row,
                        float* logits, std::uint32_t* pairs, DecodeTiles& t) {
  const DF d;
  const VF lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
  if (exponents.bends()) {
    for (std::int64_t key = 0; key < count; ++key) {
      float* at = logits + key * t.lanes;
      hn::StoreU(exponents.bend(hn::LoadU(d, at)), d, at);
    }
  }
  VF tops[2] = {lowest, lowest};
  for (std::int64_t key = 0; key < count; ++key) {
    tops[key % 2] = hn::Max(tops[key % 2], hn::LoadU(d, logits + key * t.lanes));
  }
  const VF factor = hn::Set(d, exponents.factor());
  const VF top = hn::Mul(hn::Max(tops[0], tops[1]), factor);
  // Where all are minus infinity nothing is seen.
  const VF shift = hn::IfThenZeroElse(hn::Eq(top, lowest), top);
  VF totals[2] = {hn::Zero(d), hn::Zero(d)};
  const std::int64_t padded = (count + kTileInner - 1) / kTileInner * kTileInner;
  for (std::int64_t key = 0; key < padded; key += 2) {
    VF weights[2] = {hn::Zero(d), hn::Zero(d)};
    for (std::int64_t i = 0; i < 2 && key + i < count; ++i) {
      weights[i] = exp2_down(hn::MulSub(hn::LoadU(d, logits + (key + i) * t.lanes), factor, shift));
      totals[i] = hn::Add(totals[i], weights[i]);
    }
    hn::StoreU(pair_rounded(weights[0], weights[1]), DU(), pairs + key / 2 * t.lanes);
  }
  hn::StoreU(hn::Mul(top, hn::Set(d, kLn2)), d, t.top + row);
  hn::StoreU(hn::Add(totals[0], totals[1]), d, t.sum + row);
  for (std::int64_t pair = 0; pair < padded / 2; pair += kTileSide) {
    turn_units(pairs + pair * t.lanes, t.lanes, kTileSide,
               t.weights + row * DecodeTiles::kWeightStride + pair, DecodeTiles::kWeightStride);
  }
}

/// Values of all keys of the run, times their weights.
inline void add_values(const ops::AttentionParams& p, const KeyRun& run, DecodeTiles& t) {
  RowWalk walk(p, p.v, run);
  const std::int64_t skip = head_bytes(p.v);
  alignas(64) BF16 copies[2][256];
  alignas(64) static constexpr BF16 kNothing[256] = {};
  for (std::int64_t key = run.begin; key < run.end; key += kTileValues) {
    const std::int64_t count = std::min(kTileValues, run.end - key);
    const std::int64_t padded = (count + kTileInner - 1) / kTileInner * kTileInner;
    const std::byte* rows[kTileValues];
    for (std::int64_t i = 0; i < count; ++i) rows[i] = walk.next();
    for (std::int64_t h = 0; h < run.heads; ++h) {
      const auto value = [&](std::int64_t i, BF16* copy) {
        return i < count ? bf16_row(rows[i] + h * skip, p.v.dtype, t.dv, copy) : kNothing;
      };
      for (std::int64_t i = 0; i < padded; i += 2) {
        interleave_rows(value(i, copies[0]), value(i + 1, copies[1]), t.dv,
                        t.v_pairs + i / 2 * t.v_stride);
      }
      const std::uint32_t* weights =
          t.weights + h * t.lanes * DecodeTiles::kWeightStride + (key - run.begin) / 2;
      TileProducts::multiply<true>(t.lanes, t.dv, padded, {weights, DecodeTiles::kWeightStride * 4},
                                   {t.v_pairs, t.v_stride}, {t.out + h * t.lanes * t.dv, t.dv});
    }
  }
}

/// The query heads of a run's key heads over its keys: t.out, t.top and t.sum. The calling thread
/// has its tiles.
inline void attend_run(const ops::AttentionParams& p, const KeyRun& run, DecodeTiles& t) {
  for (std::int64_t m = 0; m < t.rows; ++m) {
    t.top[m] = -std::numeric_limits<float>::infinity();
    t.sum[m] = 0;
  }
  std::memset(t.out, 0, static_cast<std::size_t>(t.rows * t.dv) * sizeof(float));
  if (run.begin == run.end) return;
  const std::int64_t token = p.rows.q_start[run.row] + run.query;
  for (std::int64_t row = 0; row < t.rows; row += kTileSide) {
    const std::int64_t h = row / t.lanes, lane = row % t.lanes;
    const BF16* heads[kTileSide];
    for (std::int64_t i = 0; i < kTileSide; ++i) {
      // Lanes past the last query head are copies of it.
      const std::int64_t g = std::min(lane + i, t.group - 1);
      heads[i] = reinterpret_cast<const BF16*>(row3(p.q, token, (run.head + h) * t.group + g));
    }
    turn_rows(heads, t.dim, t.q_pairs + h * t.dim / 2 * t.lanes + lane, t.lanes);
  }
  multiply_keys(p, run, t);
  for (std::int64_t row = 0; row < t.rows; row += kTileSide) {
    const std::int64_t h = row / t.lanes, lane = row % t.lanes;
    const Exponents exponents(p.options, p.k_scale.of(run.head + h));
    weigh_lanes(exponents, run.end - run.begin, row,
                t.logits + h * DecodeTiles::kPart * t.lanes + lane, t.weight_pairs + lane, t);
  }
  add_values(p, run, t);
  for (std::int64_t m = 0; m < t.rows; ++m) straighten(t.dv, t.out + m * t.dv);
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // HYBRIDATTN_TARGET_HAS_TILES

#endif  // HYBRIDATTN_CPU_ATTENTION_TILES_INL_H_
