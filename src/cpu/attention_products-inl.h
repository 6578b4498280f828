// Products of a few query heads with the keys and values of a run, along the rows in which they
// lie: in float32, and in bf16.
#include "src/cpu/attention_operands-inl.h"
#include "src/cpu/scratch.h"

#if defined(HYBRIDATTN_CPU_ATTENTION_PRODUCTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HYBRIDATTN_CPU_ATTENTION_PRODUCTS_INL_H_
#undef HYBRIDATTN_CPU_ATTENTION_PRODUCTS_INL_H_
#else
#define HYBRIDATTN_CPU_ATTENTION_PRODUCTS_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

/// Query heads that are multiplied at a time, and the values that their sums stay in registers for.
inline constexpr std::int64_t kHeadBlock = ops::kAttentionHeadBlock;
inline constexpr std::int64_t kValueBlock = 16;
inline constexpr std::int64_t kLineBytes = 64;

/// The scratch of one worker, cut up. Query heads of all key heads of the task follow each other.
struct DecodeTile {
  DecodeTile(std::byte* scratch, const ops::AttentionParams& p, std::int64_t key_heads)
      : rows(key_heads * p.group), dim(p.q.dim(2)), v_dim(p.v.dim(3)),
        d(ops::attention_padded(dim)), dv(ops::attention_padded(v_dim)) {
    ScratchCut cut(scratch);
    cut.take(q, rows * d);
    cut.take(weights, rows * ops::kAttentionPart);
    cut.take(rounded, rows * ops::kAttentionPart);
    cut.take(out, rows * dv);
    cut.take(top, rows);
    cut.take(sum, rows);
  }

  std::int64_t rows;
  std::int64_t dim, v_dim;  // true head dims
  std::int64_t d, dv;       // the same, padded
  float* q;                 // [rows, d] floats, or bf16
  float* weights;           // [rows, kAttentionPart] logits, then their weights
  BF16* rounded;            // [rows, kAttentionPart] the weights in bf16
  float* out;               // [rows, dv], not yet divided
  float* top;               // [rows]
  float* sum;               // [rows]
};

/// Fetches a line into the second-level cache; into the first one it would push out what is used.
HWY_INLINE void fetch_line(const std::byte* line) { __builtin_prefetch(line, 0, 2); }

/// The lines in which columns [column, column + count) of a row begin.
template <class T>
HWY_INLINE void fetch_columns(const std::byte* row, std::int64_t column, std::int64_t count) {
  constexpr std::int64_t kElements = kLineBytes / static_cast<std::int64_t>(sizeof(T));
  const std::int64_t first = (column + kElements - 1) / kElements * kElements;
  for (std::int64_t at = first; at < column + count; at += kElements) {
    fetch_line(row + at * static_cast<std::int64_t>(sizeof(T)));
  }
}

/// Calls f.template operator()<NG>() with NG = count, 1 to kHeadBlock.
template <class F>
HWY_INLINE void with_heads(std::int64_t count, const F& f) {
  static_assert(kHeadBlock == 4);
  switch (count) {
    case 1: return f.template operator()<1>();
    case 2: return f.template operator()<2>();
    case 3: return f.template operator()<3>();
    default: return f.template operator()<4>();
  }
}

// ---- Products in float32, of keys and values of any type.

template <class T>
struct FloatRows {
  /// Keys at a time.
  static constexpr int kKeys = HWY_TARGET <= HWY_AVX3 ? 4 : 2;
  static constexpr bool kRounds = false;  // weights

  static void load_query(const void* from, DType dtype, DecodeTile& t, std::int64_t row) {
    float* q = t.q + row * t.d;
    load_row(from, dtype, t.dim, q);
    for (std::int64_t i = t.dim; i < t.d; ++i) q[i] = 0;
  }

  template <int NG>
  static HWY_INLINE void dot(const std::byte* const* rows, const std::byte* const* ahead,
                             const DecodeTile& t, std::int64_t row, float* logits) {
    const DF d;
    const float* q = t.q + row * t.d;
    VF sum[kKeys][NG];
    for (auto& of_key : sum) {
      for (VF& s : of_key) s = hn::Zero(d);
    }
    const auto add = [&](const auto& load, std::int64_t i) HWY_ATTR {
      VF keys[kKeys];
      const std::int64_t byte = i * static_cast<std::int64_t>(sizeof(T));
      if (ahead != nullptr && byte % kLineBytes == 0) {
        for (int k = 0; k < kKeys; ++k) fetch_line(ahead[k] + byte);
      }
      for (int k = 0; k < kKeys; ++k) keys[k] = load(reinterpret_cast<const T*>(rows[k]) + i);
      for (int g = 0; g < NG; ++g) {
        const VF query = hn::LoadU(d, q + g * t.d + i);
        for (int k = 0; k < kKeys; ++k) sum[k][g] = hn::MulAdd(query, keys[k], sum[k][g]);
      }
    };
    std::int64_t i = 0;
    for (; i + lanes() <= t.dim; i += lanes()) {
      add([](const T* at) HWY_ATTR { return load_full(at); }, i);
    }
    if (i < t.dim) add([&](const T* at) HWY_ATTR { return load_part(at, t.dim - i); }, i);
    for (int g = 0; g < NG; ++g) {
      for (int k = 0; k < kKeys; ++k) {
        logits[g * ops::kAttentionPart + k] = hn::ReduceSum(d, sum[k][g]);
      }
    }
  }

  /// Adds values [at, at + count) of the range, times their weights.
  template <int NG>
  static HWY_INLINE void add_values(const std::byte* const* rows, const std::byte* const* ahead,
                                    std::int64_t at, std::int64_t count, const DecodeTile& t,
                                    std::int64_t row) {
    constexpr int kVectors = HWY_TARGET <= HWY_AVX3 ? 4 : 2;
    std::int64_t i = 0;
    for (; i + kVectors * lanes() <= t.v_dim; i += kVectors * lanes()) {
      add_columns<NG, kVectors, true>(rows, ahead, i, at, count, t, row);
    }
    for (; i + lanes() <= t.v_dim; i += lanes()) {
      add_columns<NG, 1, true>(rows, ahead, i, at, count, t, row);
    }
    if (i < t.v_dim) add_columns<NG, 1, false>(rows, ahead, i, at, count, t, row);
  }

  /// The output as it is wanted.
  static void finish(DecodeTile&) {}

 private:
  template <int NG, int NV, bool kWhole>
  static HWY_INLINE void add_columns(const std::byte* const* rows, const std::byte* const* ahead,
                                     std::int64_t column, std::int64_t at, std::int64_t count,
                                     const DecodeTile& t, std::int64_t row) {
    const DF d;
    float* out = t.out + row * t.dv + column;
    VF sum[NG][NV];
    for (int g = 0; g < NG; ++g) {
      for (int v = 0; v < NV; ++v) sum[g][v] = hn::LoadU(d, out + g * t.dv + v * lanes());
    }
    for (std::int64_t k = 0; k < count; ++k) {
      const T* from = reinterpret_cast<const T*>(rows[k]) + column;
      if (ahead != nullptr) fetch_columns<T>(ahead[k], column, NV * lanes());
      VF value[NV];
      for (int v = 0; v < NV; ++v) {
        value[v] = kWhole ? load_full(from + v * lanes()) : load_part(from, t.v_dim - column);
      }
      for (int g = 0; g < NG; ++g) {
        const VF weight = hn::Set(d, t.weights[(row + g) * ops::kAttentionPart + at + k]);
        for (int v = 0; v < NV; ++v) sum[g][v] = hn::MulAdd(weight, value[v], sum[g][v]);
      }
    }
    for (int g = 0; g < NG; ++g) {
      for (int v = 0; v < NV; ++v) hn::StoreU(sum[g][v], d, out + g * t.dv + v * lanes());
    }
  }
};

#if HYBRIDATTN_TARGET_HAS_TILES
// ---- Products in bf16 along the keys, of caches that bf16 holds exactly.

template <class T>
struct DotRows {
  static constexpr int kKeys = 4;
  static constexpr bool kRounds = true;

  static void load_query(const void* from, DType, DecodeTile& t, std::int64_t row) {
    std::memcpy(query(t, row), from, static_cast<std::size_t>(t.dim * 2));
  }

  template <int NG>
  static HWY_INLINE void dot(const std::byte* const* rows, const std::byte* const* ahead,
                             const DecodeTile& t, std::int64_t row, float* logits) {
    const BF16* q = query(t, row);
    VF sum[kHeadBlock * kKeys];
    for (VF& s : sum) s = hn::Zero(DF());
    for (std::int64_t i = 0; i < t.dim; i += kTileInner) {
      VU keys[kKeys];
      const std::int64_t byte = i * static_cast<std::int64_t>(sizeof(T));
      if (ahead != nullptr && byte % kLineBytes == 0) {
        for (int k = 0; k < kKeys; ++k) fetch_line(ahead[k] + byte);
      }
      for (int k = 0; k < kKeys; ++k) keys[k] = load_line(rows[k], i);
      for (int g = 0; g < NG; ++g) {
        const VU x = hn::LoadU(DU(), reinterpret_cast<const std::uint32_t*>(q + g * 2 * t.d + i));
        for (int k = 0; k < kKeys; ++k) {
          sum[g * kKeys + k] = Bf16Product::add(x, keys[k], sum[g * kKeys + k]);
        }
      }
    }
    const VF sums = sum_lanes<NG>(sum);
    alignas(64) float all[kHeadBlock * kKeys];
    hn::Store(sums, DF(), all);
    for (int g = 0; g < NG; ++g) {
      std::memcpy(logits + g * ops::kAttentionPart, all + g * kKeys, kKeys * sizeof(float));
    }
  }

  template <int NG>
  static HWY_INLINE void add_values(const std::byte* const* rows, const std::byte* const* ahead,
                                    std::int64_t at, std::int64_t count, const DecodeTile& t,
                                    std::int64_t row) {
    std::int64_t i = 0;
    for (; i + 2 * kTileInner <= t.v_dim; i += 2 * kTileInner) {
      add_columns<NG, 2>(rows, ahead, i, at, count, t, row);
    }
    if (i + kTileInner <= t.v_dim) {
      add_columns<NG, 1>(rows, ahead, i, at, count, t, row);
      i += kTileInner;
    }
    if (i < t.v_dim) add_columns<NG, 0>(rows, ahead, i, at, count, t, row);
  }

  static void finish(DecodeTile& t) {
    for (std::int64_t m = 0; m < t.rows; ++m) straighten(t.v_dim, t.out + m * t.dv);
  }

 private:
  static BF16* query(const DecodeTile& t, std::int64_t row) {
    return reinterpret_cast<BF16*>(t.q + row * t.d);
  }

  /// 32 elements.
  static HWY_INLINE VU load_line(const std::byte* row, std::int64_t i) {
    if constexpr (std::is_same_v<T, BF16>) {
      return hn::LoadU(DU(), reinterpret_cast<const std::uint32_t*>(row + i * 2));
    } else {
      const auto* from = reinterpret_cast<const F8E4M3*>(row) + i;
      const hn::Repartition<hwy::bfloat16_t, DF> db;
      return hn::BitCast(DU(),
                         hn::OrderedDemote2To(db, load_full(from), load_full(from + kTileSide)));
    }
  }

  /// Lane 4 g + k: the sum of the lanes of sum[4 g + k].
  template <int NG>
  static HWY_INLINE VF sum_lanes(const VF* sum) {
    const DF d;
    VF of_head[kHeadBlock];
    for (int g = 0; g < kHeadBlock; ++g) {
      if (g >= NG) {
        of_head[g] = hn::Zero(d);
        continue;
      }
      VU blocks[4], turned[4];
      for (int k = 0; k < 4; ++k) blocks[k] = hn::BitCast(DU(), sum[4 * g + k]);
      turn_blocks(blocks, turned);
      VF part[4];
      for (int u = 0; u < 4; ++u) part[u] = hn::BitCast(d, turned[u]);
      of_head[g] = hn::Add(hn::Add(part[0], part[1]), hn::Add(part[2], part[3]));
    }
    // Blocks: of two vectors to [a b a b], of four to [a b c d].
    VF pair[2];
    for (int i = 0; i < 2; ++i) {
      const VF a = of_head[2 * i], b = of_head[2 * i + 1];
      pair[i] = hn::Add(hn::OddEvenBlocks(hn::SwapAdjacentBlocks(b), a),
                        hn::OddEvenBlocks(b, hn::SwapAdjacentBlocks(a)));
    }
    return hn::Add(hn::ConcatLowerLower(d, pair[1], pair[0]),
                   hn::ConcatUpperUpper(d, pair[1], pair[0]));
  }

  /// Columns [column, column + 32 NL), or 16 where NL is 0.
  template <int NG, int NL>
  static HWY_INLINE void add_columns(const std::byte* const* rows, const std::byte* const* ahead,
                                     std::int64_t column, std::int64_t at, std::int64_t count,
                                     const DecodeTile& t, std::int64_t row) {
    constexpr int kVectors = NL == 0 ? 1 : 2 * NL;
    const DF d;
    float* out = t.out + row * t.dv + column;
    VF sum[NG][kVectors];
    for (int g = 0; g < NG; ++g) {
      for (int v = 0; v < kVectors; ++v) {
        sum[g][v] = hn::LoadU(d, out + g * t.dv + v * kTileSide);
      }
    }
    // Beside the last of an odd number stands a row of zeros, with weight 0.
    alignas(64) static constexpr std::byte kNothing[256 * sizeof(BF16)] = {};
    const BF16* weights = t.rounded + row * ops::kAttentionPart + at;
    for (std::int64_t k = 0; k < count; k += 2) {
      if (ahead != nullptr) {
        fetch_columns<T>(ahead[k], column, kVectors * kTileSide);
        fetch_columns<T>(ahead[k + 1], column, kVectors * kTileSide);
      }
      const std::byte* first = rows[k];
      const std::byte* second = k + 1 < count ? rows[k + 1] : kNothing;
      VU pairs[kVectors];
      if constexpr (NL == 0) {
        BF16 copies[2][kTileSide];
        pairs[0] =
            pair_of(half_line(first, column, copies[0]), half_line(second, column, copies[1]));
      } else {
        const hn::Repartition<std::uint16_t, DF> d16;
        for (int l = 0; l < NL; ++l) {
          const auto a = hn::BitCast(d16, load_line(first, column + l * kTileInner));
          const auto b = hn::BitCast(d16, load_line(second, column + l * kTileInner));
          pairs[2 * l] = hn::BitCast(DU(), hn::InterleaveLower(d16, a, b));
          pairs[2 * l + 1] = hn::BitCast(DU(), hn::InterleaveUpper(d16, a, b));
        }
      }
      for (int g = 0; g < NG; ++g) {
        const auto* of_head = reinterpret_cast<const std::byte*>(weights + g * ops::kAttentionPart);
        const VU weight = hn::Set(DU(), load_unit(of_head, k / 2));
        for (int v = 0; v < kVectors; ++v) {
          sum[g][v] = Bf16Product::add(weight, pairs[v], sum[g][v]);
        }
      }
    }
    for (int g = 0; g < NG; ++g) {
      for (int v = 0; v < kVectors; ++v) {
        hn::StoreU(sum[g][v], d, out + g * t.dv + v * kTileSide);
      }
    }
  }

  static HWY_INLINE const BF16* half_line(const std::byte* row, std::int64_t column, BF16* copy) {
    if constexpr (std::is_same_v<T, BF16>) return reinterpret_cast<const BF16*>(row) + column;
    store_part(load_full(reinterpret_cast<const F8E4M3*>(row) + column), copy, kTileSide);
    return copy;
  }
};
#endif

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HYBRIDATTN_CPU_ATTENTION_PRODUCTS_INL_H_
