// One chunk of the gated delta rule as products in bf16: q, k and v as they come, the state in
// float32, the triangular system solved in float32.
//
// With S [v, k], g the running sums of log decay in the chunk, r and s the factors that normalise k
// and q (s with the scale in it):
//   M_ij = beta_i exp(g_i - g_j) r_i r_j k_i.k_j for j < i,   T = (I + M)^-1
//   u = T beta (v - exp(g) r S k)
//   o_i = s_i exp(g_i) S q_i + sum_{j <= i} s_i r_j exp(g_i - g_j) q_i.k_j u_j
//   S <- exp(g_last) S + sum_j exp(g_last - g_j) r_j u_j k_j^T
// The state is kept as its transpose [k, v] through a row: then all operands but k's two need no
// turning.
#include <cmath>

#include "src/cpu/bf16_product-inl.h"
#include "src/cpu/gdn-inl.h"
#include "src/cpu/gdn_checkpoints-inl.h"
#include "src/cpu/scratch.h"
#include "src/ops/gdn_prefill_params.h"

#if defined(HYBRIDATTN_CPU_GDN_BF16_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HYBRIDATTN_CPU_GDN_BF16_INL_H_
#undef HYBRIDATTN_CPU_GDN_BF16_INL_H_
#else
#define HYBRIDATTN_CPU_GDN_BF16_INL_H_
#endif

#if HYBRIDATTN_TARGET_HAS_TILES
HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

inline constexpr std::int64_t kSolve = 16;  // rows of a block of the triangular system
inline constexpr std::int64_t kSolveBlocks = kGdnChunk / kSolve;

/// The scratch of one worker, cut up. Sizes stand in gdn_prefill_bf16_scratch.
struct Bf16Chunk {
  Bf16Chunk(std::byte* scratch, std::int64_t k_dim_, std::int64_t v_dim_)
      : k_dim(k_dim_), v_dim(v_dim_) {
    const std::int64_t c = kGdnChunk;
    ScratchCut cut(scratch);
    cut.take(state, k_dim * v_dim);
    cut.take(state_pairs, k_dim / 2 * v_dim);
    cut.take(k_pairs, k_dim / 2 * c);
    cut.take(token_pairs, c / 2 * k_dim);
    cut.take(k_turned, k_dim * c / 2);
    cut.take(q_copy, c * k_dim);
    cut.take(k_copy, c * k_dim);
    cut.take(kk, c * c);
    cut.take(qk, c * c);
    cut.take(inverse, c * c);
    cut.take(scores, c * c);
    cut.take(solver, c * c);
    cut.take(u, v_dim * 4 > k_dim ? c * v_dim : kTileSide * k_dim);
    cut.take(o, c * v_dim);
    cut.take(u_pairs, c / 2 * v_dim);
    cut.take(u_decayed, c / 2 * v_dim);
    for (float** row : {&beta, &key_factor, &query_factor, &decay, &to_end, &row_factor}) {
      cut.take(*row, c);
    }
    cut.take(column_factor, kSolveBlocks * c);
    cut.take(sum, c);
  }

  std::int64_t k_dim, v_dim;
  std::int64_t length = 0;
  LeftOperand q{}, k{};        // [chunk, k_dim] bf16: in place, or the copies
  float* state;                // [k_dim, v_dim]
  std::uint32_t* state_pairs;  // [k_dim / 2][v_dim]
  std::uint32_t* k_pairs;      // [k_dim / 2][chunk]
  std::uint32_t* token_pairs;  // [chunk / 2][k_dim]
  std::uint32_t* k_turned;     // [k_dim][chunk / 2]
  BF16* q_copy;                // [chunk, k_dim] where the chunk is not full
  BF16* k_copy;
  float* kk;                 // [chunk, chunk] k.k, then M
  float* qk;                 // [chunk, chunk] q.k
  float* inverse;            // [chunk, chunk] T
  BF16* scores;              // [chunk, chunk]
  BF16* solver;              // [chunk, chunk] T beta
  float* u;                  // [chunk, v_dim]
  float* o;                  // [chunk, v_dim]
  std::uint32_t* u_pairs;    // [chunk / 2][v_dim]
  std::uint32_t* u_decayed;  // the same times the decay to the end and r
  float* beta;               // [chunk]
  float* key_factor;         // [chunk] r
  float* query_factor;       // [chunk] s
  float* decay;              // [chunk] exp(g)
  float* to_end;             // [chunk] exp(g_last - g)
  float* row_factor;         // [chunk] exp(g - g at the start of the block of 16)
  float* column_factor;      // [block][chunk] r exp(g at the start of the block - g)
  double* sum;               // [chunk] g
};

// ---- Operands.

inline float sum_squares(const BF16* x, std::int64_t n) {
  VF sum = hn::Zero(DF());
  for (std::int64_t i = 0; i < n; i += kTileSide) {
    const VF v = load_full(x + i);
    sum = hn::MulAdd(v, v, sum);
  }
  return hn::ReduceSum(DF(), sum);
}

/// Rows of q or k: in place where the chunk is full, else copied, zeros behind them.
inline LeftOperand token_rows(const ConstTensorView& view, std::int64_t first, std::int64_t head,
                              const Bf16Chunk& c, BF16* copy) {
  if (c.length == kGdnChunk) return {row3(view, first, head), view.stride(0) * 2};
  const auto bytes = static_cast<std::size_t>(c.k_dim * 2);
  for (std::int64_t i = 0; i < c.length; ++i) {
    std::memcpy(copy + i * c.k_dim, row3(view, first + i, head), bytes);
  }
  std::memset(copy + c.length * c.k_dim, 0, static_cast<std::size_t>(kGdnChunk - c.length) * bytes);
  return {copy, c.k_dim * 2};
}

inline const BF16* row_of(const LeftOperand& x, std::int64_t i) {
  return reinterpret_cast<const BF16*>(static_cast<const std::byte*>(x.rows) + i * x.stride);
}

/// k as a right operand of q and k, and as a left one of u.
inline void pack_keys(Bf16Chunk& c) {
  for (std::int64_t block = 0; block < kGdnChunk; block += kTileSide) {
    const BF16* rows[kTileSide];
    for (int r = 0; r < kTileSide; ++r) rows[r] = row_of(c.k, block + r);
    turn_rows(rows, c.k_dim, c.k_pairs + block, kGdnChunk);
  }
  for (std::int64_t pair = 0; pair < kGdnChunk / 2; ++pair) {
    const BF16* first = row_of(c.k, 2 * pair);
    const BF16* second = row_of(c.k, 2 * pair + 1);
    for (std::int64_t at = 0; at < c.k_dim; at += kTileSide) {
      hn::StoreU(pair_of(first + at, second + at), DU(), c.token_pairs + pair * c.k_dim + at);
    }
  }
  for (std::int64_t block = 0; block < kGdnChunk / 2; block += kTileSide) {
    turn_units(c.token_pairs + block * c.k_dim, c.k_dim, c.k_dim, c.k_turned + block,
               kGdnChunk / 2);
  }
}

inline void load_gates(const ops::GdnPrefillParams& p, std::int64_t first, std::int64_t head,
                       Bf16Chunk& c) {
  double sum = 0;
  for (std::int64_t i = 0; i < kGdnChunk; ++i) {
    const bool there = i < c.length;
    if (there) sum += core::clamp_log_decay(gate_of(p.log_decay, first + i, head));
    c.sum[i] = sum;
    c.beta[i] = there ? gate_of(p.beta, first + i, head) : 0;
    c.key_factor[i] = 1;
    c.query_factor[i] = p.scale;
    if (p.qk_l2norm) {
      c.key_factor[i] = 1 / std::sqrt(sum_squares(row_of(c.k, i), c.k_dim) + kL2NormEpsilon);
      c.query_factor[i] =
          p.scale / std::sqrt(sum_squares(row_of(c.q, i), c.k_dim) + kL2NormEpsilon);
    }
  }
  for (std::int64_t i = 0; i < kGdnChunk; ++i) {
    c.decay[i] = static_cast<float>(c.sum[i]);
    c.to_end[i] = static_cast<float>(sum - c.sum[i]);
    c.row_factor[i] = static_cast<float>(c.sum[i] - c.sum[i / kSolve * kSolve]);
  }
  for (std::int64_t i = 0; i < kGdnChunk; i += kTileSide) {
    for (float* row : {c.decay, c.to_end, c.row_factor}) {
      hn::StoreU(hn::Exp(DF(), hn::LoadU(DF(), row + i)), DF(), row + i);
    }
  }
}

/// The largest exponent between two tokens of a block; a block where it is more goes pair by pair.
inline constexpr double kMostGrowth = 80;

inline bool grows_too_much(const Bf16Chunk& c, std::int64_t block) {
  return c.sum[block * kSolve] - c.sum[block * kSolve + kSolve - 1] > kMostGrowth;
}

/// r_j exp(g_start - g_j) of each block's columns j, before it and, with positive exponents, in it.
inline void load_column_factors(Bf16Chunk& c) {
  for (std::int64_t block = 0; block < kSolveBlocks; ++block) {
    float* factor = c.column_factor + block * kGdnChunk;
    const double start = c.sum[block * kSolve];
    const std::int64_t columns = (block + (grows_too_much(c, block) ? 0 : 1)) * kSolve;
    for (std::int64_t j = 0; j < columns; ++j) factor[j] = static_cast<float>(start - c.sum[j]);
    for (std::int64_t j = 0; j < columns; j += kTileSide) {
      const VF grown = hn::Exp(DF(), hn::LoadU(DF(), factor + j));
      hn::StoreU(hn::Mul(grown, hn::LoadU(DF(), c.key_factor + j)), DF(), factor + j);
    }
  }
}

/// exp(g_i - g_j) r_j of row i and the 16 columns j of a block; `exact`: each exponent by itself.
inline VF pair_factors(const Bf16Chunk& c, std::int64_t i, std::int64_t column_block, bool exact) {
  const DF d;
  if (!exact) {
    const float* factor = c.column_factor + i / kSolve * kGdnChunk + column_block * kSolve;
    return hn::Mul(hn::LoadU(d, factor), hn::Set(d, c.row_factor[i]));
  }
  float exponent[kSolve];
  for (std::int64_t j = 0; j < kSolve; ++j) {
    const std::int64_t column = column_block * kSolve + j;
    exponent[j] = column <= i ? static_cast<float>(c.sum[i] - c.sum[column]) : 0.0f;
  }
  const VF key = hn::LoadU(d, c.key_factor + column_block * kSolve);
  return hn::Mul(hn::Exp(d, hn::LoadU(d, exponent)), key);
}

/// kk becomes M, qk the scores, whose upper triangles are zeros.
inline void decay_products(Bf16Chunk& c) {
  const DF d;
  for (std::int64_t i = 0; i < kGdnChunk; ++i) {
    const std::int64_t block = i / kSolve;
    const VF m_factor = hn::Set(d, c.beta[i] * c.key_factor[i]);
    const VF score_factor = hn::Set(d, c.query_factor[i]);
    const bool exact = grows_too_much(c, block);
    for (std::int64_t j = 0; j < kSolveBlocks; ++j) {
      float* kk = c.kk + i * kGdnChunk + j * kSolve;
      const float* qk = c.qk + i * kGdnChunk + j * kSolve;
      VF m = hn::Zero(d), score = hn::Zero(d);
      if (j <= block) {
        const VF factors = pair_factors(c, i, j, exact && j == block);
        m = hn::Mul(hn::Mul(hn::LoadU(d, kk), factors), m_factor);
        score = hn::Mul(hn::Mul(hn::LoadU(d, qk), factors), score_factor);
      }
      if (j == block) {
        const auto within = static_cast<std::size_t>(i % kSolve);
        m = hn::IfThenElseZero(hn::FirstN(d, within), m);
        score = hn::IfThenElseZero(hn::FirstN(d, within + 1), score);
      }
      hn::StoreU(m, d, kk);
      store_part(score, c.scores + i * kGdnChunk + j * kSolve, kSolve);
    }
  }
}

// ---- T = (I + M)^-1, in blocks of 16.

/// sum[r] += sign a[r, i] b[i] over i, for 16 rows of one vector.
template <bool kSubtract>
HWY_INLINE void add_block(const float* a, const float* b, VF* sum) {
  const DF d;
  for (int i = 0; i < kSolve; ++i) {
    const VF row = hn::LoadU(d, b + i * kGdnChunk);
    for (int r = 0; r < kSolve; ++r) {
      const VF factor = hn::Set(d, a[r * kGdnChunk + i]);
      sum[r] = kSubtract ? hn::NegMulAdd(factor, row, sum[r]) : hn::MulAdd(factor, row, sum[r]);
    }
  }
}

/// The inverse of a diagonal block: rows from the first to the last.
inline void invert_diagonal(const float* m, float* inverse) {
  const DF d;
  VF row[kSolve];
  for (int r = 0; r < kSolve; ++r) {
    row[r] = hn::IfThenElseZero(hn::Eq(hn::Iota(d, 0), hn::Set(d, static_cast<float>(r))),
                                hn::Set(d, 1.0f));
    for (int i = 0; i < r; ++i) {
      row[r] = hn::NegMulAdd(hn::Set(d, m[r * kGdnChunk + i]), row[i], row[r]);
    }
    hn::StoreU(row[r], d, inverse + r * kGdnChunk);
  }
}

inline void invert(Bf16Chunk& c) {
  const DF d;
  const auto at = [](float* matrix, std::int64_t row, std::int64_t column) {
    return matrix + row * kSolve * kGdnChunk + column * kSolve;
  };
  for (std::int64_t i = 0; i < kSolveBlocks; ++i) {
    invert_diagonal(at(c.kk, i, i), at(c.inverse, i, i));
    for (std::int64_t j = 0; j < i; ++j) {
      // T_ij = -T_ii sum_k M_ik T_kj; the sum takes T_ij's place first.
      VF sum[kSolve];
      for (VF& row : sum) row = hn::Zero(d);
      for (std::int64_t k = j; k < i; ++k) {
        add_block<false>(at(c.kk, i, k), at(c.inverse, k, j), sum);
      }
      float* out = at(c.inverse, i, j);
      for (int r = 0; r < kSolve; ++r) hn::StoreU(sum[r], d, out + r * kGdnChunk);
      for (VF& row : sum) row = hn::Zero(d);
      add_block<true>(at(c.inverse, i, i), out, sum);
      for (int r = 0; r < kSolve; ++r) hn::StoreU(sum[r], d, out + r * kGdnChunk);
    }
  }
  for (std::int64_t i = 0; i < kGdnChunk; ++i) {
    for (std::int64_t j = 0; j < kGdnChunk; j += kSolve) {
      const VF t = hn::Mul(hn::LoadU(d, c.inverse + i * kGdnChunk + j), hn::LoadU(d, c.beta + j));
      store_part(j / kSolve <= i / kSolve ? t : hn::Zero(d), c.solver + i * kGdnChunk + j, kSolve);
    }
  }
}

// ---- The steps along the row.

/// The state's pairs, and the state times the chunk's decay.
inline void begin_state(Bf16Chunk& c) {
  const DF d;
  const VF last = hn::Set(d, c.decay[kGdnChunk - 1]);
  for (std::int64_t k = 0; k < c.k_dim; k += 2) {
    float* first = c.state + k * c.v_dim;
    float* second = first + c.v_dim;
    for (std::int64_t v = 0; v < c.v_dim; v += kTileSide) {
      const VF a = hn::LoadU(d, first + v), b = hn::LoadU(d, second + v);
      hn::StoreU(pair_rounded(a, b), DU(), c.state_pairs + k / 2 * c.v_dim + v);
      hn::StoreU(hn::Mul(a, last), d, first + v);
      hn::StoreU(hn::Mul(b, last), d, second + v);
    }
  }
}

/// u_pairs <- v - exp(g) r S k, from S k in u.
inline void right_hand_side(const ops::GdnPrefillParams& p, std::int64_t first, std::int64_t head,
                            Bf16Chunk& c) {
  const DF d;
  for (std::int64_t i = 0; i < kGdnChunk; i += 2) {
    for (std::int64_t at = 0; at < c.v_dim; at += kTileSide) {
      VF row[2];
      for (int half = 0; half < 2; ++half) {
        const std::int64_t token = i + half;
        const VF recalled = hn::LoadU(d, c.u + token * c.v_dim + at);
        const VF factor = hn::Set(d, c.decay[token] * c.key_factor[token]);
        VF v = hn::Zero(d);
        if (token < c.length) {
          v = load_full(reinterpret_cast<const BF16*>(row3(p.v, first + token, head)) + at);
        }
        row[half] = hn::NegMulAdd(recalled, factor, v);
      }
      hn::StoreU(pair_rounded(row[0], row[1]), DU(), c.u_pairs + i / 2 * c.v_dim + at);
    }
  }
}

/// Both forms of u as right operands.
inline void pack_u(Bf16Chunk& c) {
  const DF d;
  for (std::int64_t i = 0; i < kGdnChunk; i += 2) {
    const VF first = hn::Set(d, c.to_end[i] * c.key_factor[i]);
    const VF second = hn::Set(d, c.to_end[i + 1] * c.key_factor[i + 1]);
    for (std::int64_t at = 0; at < c.v_dim; at += kTileSide) {
      const VF a = hn::LoadU(d, c.u + i * c.v_dim + at);
      const VF b = hn::LoadU(d, c.u + (i + 1) * c.v_dim + at);
      const std::int64_t to = i / 2 * c.v_dim + at;
      hn::StoreU(pair_rounded(a, b), DU(), c.u_pairs + to);
      hn::StoreU(pair_rounded(hn::Mul(a, first), hn::Mul(b, second)), DU(), c.u_decayed + to);
    }
  }
}

/// o <- s exp(g) o: what the state gives, before the scores' part is added.
inline void scale_recalled(Bf16Chunk& c) {
  for (std::int64_t i = 0; i < kGdnChunk; ++i) {
    float* o = c.o + i * c.v_dim;
    scale_row(o, c.query_factor[i] * c.decay[i], c.v_dim, o);
  }
}

/// sums = or += lower times right, `lower` being triangular [chunk, chunk].
template <class Products, bool kAdd>
void multiply_lower(const BF16* lower, const std::uint32_t* right, float* sums,
                    const Bf16Chunk& c) {
  constexpr std::int64_t kHalf = kGdnChunk / 2;
  const RightOperand operand{right, c.v_dim};
  Products::template multiply<kAdd>(kHalf, c.v_dim, kHalf, {lower, kGdnChunk * 2}, operand,
                                    {sums, c.v_dim});
  Products::template multiply<kAdd>(kHalf, c.v_dim, kGdnChunk,
                                    {lower + kHalf * kGdnChunk, kGdnChunk * 2}, operand,
                                    {sums + kHalf * c.v_dim, c.v_dim});
}

/// The lower half of x k^T, in blocks of 32.
template <class Products>
void multiply_keys(const LeftOperand& x, float* sums, const Bf16Chunk& c) {
  constexpr std::int64_t kHalf = kGdnChunk / 2;
  const RightOperand keys{c.k_pairs, kGdnChunk};
  Products::template multiply<false>(kHalf, kHalf, c.k_dim, x, keys, {sums, kGdnChunk});
  Products::template multiply<false>(kHalf, kGdnChunk, c.k_dim, {row_of(x, kHalf), x.stride}, keys,
                                     {sums + kHalf * kGdnChunk, kGdnChunk});
}

template <class Products>
void run_bf16_chunk(const ops::GdnPrefillParams& p, std::int64_t first, std::int64_t head,
                    Bf16Chunk& c) {
  const std::int64_t key_head = core::key_head(head, p.group);
  c.q = token_rows(p.q, first, key_head, c, c.q_copy);
  c.k = token_rows(p.k, first, key_head, c, c.k_copy);
  load_gates(p, first, head, c);
  load_column_factors(c);
  pack_keys(c);
  multiply_keys<Products>(c.k, c.kk, c);
  multiply_keys<Products>(c.q, c.qk, c);
  decay_products(c);
  invert(c);
  begin_state(c);
  const RightOperand state{c.state_pairs, c.v_dim};
  Products::template multiply<false>(kGdnChunk, c.v_dim, c.k_dim, c.k, state, {c.u, c.v_dim});
  Products::template multiply<false>(kGdnChunk, c.v_dim, c.k_dim, c.q, state, {c.o, c.v_dim});
  right_hand_side(p, first, head, c);
  multiply_lower<Products, false>(c.solver, c.u_pairs, c.u, c);
  pack_u(c);
  scale_recalled(c);
  multiply_lower<Products, true>(c.scores, c.u_pairs, c.o, c);
  Products::template multiply<true>(c.k_dim, c.v_dim, kGdnChunk, {c.k_turned, kGdnChunk * 2},
                                    {c.u_decayed, c.v_dim}, {c.state, c.v_dim});
}

/// The state [k_dim, v_dim] as [v_dim, k_dim].
inline void turn_back(const Bf16Chunk& c, float* to) {
  for (std::int64_t k = 0; k < c.k_dim; k += kTileSide) {
    turn_units(reinterpret_cast<const std::uint32_t*>(c.state) + k * c.v_dim, c.v_dim, c.v_dim,
               reinterpret_cast<std::uint32_t*>(to) + k, c.k_dim);
  }
}

/// The state of the row's slot as [k_dim, v_dim], or zeros; and back.
inline void load_turned_state(const ops::GdnPrefillParams& p, std::int32_t row, std::int64_t head,
                              Bf16Chunk& c) {
  if (p.rows.computed[row] == 0) {
    std::memset(c.state, 0, static_cast<std::size_t>(c.k_dim * c.v_dim) * sizeof(float));
    return;
  }
  // u is free, and large enough: 16 rows of the state pass through it.
  for (std::int64_t v = 0; v < c.v_dim; v += kTileSide) {
    for (std::int64_t r = 0; r < kTileSide; ++r) {
      load_row(row4(p.state, p.rows.slot[row], head, v + r), p.state.dtype, c.k_dim,
               c.u + r * c.k_dim);
    }
    turn_units(reinterpret_cast<const std::uint32_t*>(c.u), c.k_dim, c.k_dim,
               reinterpret_cast<std::uint32_t*>(c.state) + v, c.v_dim);
  }
}

inline void store_turned_state(const ops::GdnPrefillParams& p, std::int32_t row, std::int64_t head,
                               Bf16Chunk& c) {
  for (std::int64_t k = 0; k < c.k_dim; k += kTileSide) {
    turn_units(reinterpret_cast<const std::uint32_t*>(c.state) + k * c.v_dim, c.v_dim, c.v_dim,
               reinterpret_cast<std::uint32_t*>(c.u), kTileSide);
    for (std::int64_t v = 0; v < c.v_dim; ++v) {
      std::byte* to = row4(p.state, p.rows.slot[row], head, v);
      store_row(c.u + v * kTileSide, kTileSide,
                to + k * static_cast<std::int64_t>(dtype_size(p.state.dtype)), p.state.dtype);
    }
  }
}

template <class Products>
void prefill_head_bf16(const ops::GdnPrefillParams& p, std::int32_t row, std::int64_t head,
                       std::byte* scratch) {
  Bf16Chunk c(scratch, p.k.dim(2), p.v.dim(2));
  GdnCheckpoints checkpoints(p, row, head, checkpoint_scratch(p, scratch));
  const auto copy_state = [&](float* to) { turn_back(c, to); };
  load_turned_state(p, row, head, c);
  const std::int64_t begin = p.rows.start[row];
  const std::int64_t end = begin + p.rows.length[row];
  for (std::int64_t first = begin; first < end; first += kGdnChunk) {
    checkpoints.pass(first, copy_state);
    c.length = end - first < kGdnChunk ? end - first : kGdnChunk;
    run_bf16_chunk<Products>(p, first, head, c);
    for (std::int64_t i = 0; i < c.length; ++i) {
      store_row(c.o + i * c.v_dim, c.v_dim, row3(p.out, first + i, head), p.out.dtype);
    }
  }
  checkpoints.pass(end, copy_state);
  store_turned_state(p, row, head, c);
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // HYBRIDATTN_TARGET_HAS_TILES

#endif  // HYBRIDATTN_CPU_GDN_BF16_INL_H_
