// One chunk of the delta rule where each key channel decays by itself (Kimi Delta Attention).
//
// The decay between two tokens stands inside of their product, so it is split at the start of a
// block: exp(G_i - G_j) = exp(G_i - G_start) exp(G_start - G_j) for j before the block and i in it,
// where neither exponent is positive. Pairs within a block are summed one by one.
#include "src/cpu/gdn_chunk-inl.h"

#if defined(HYBRIDATTN_CPU_KDA_CHUNK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HYBRIDATTN_CPU_KDA_CHUNK_INL_H_
#undef HYBRIDATTN_CPU_KDA_CHUNK_INL_H_
#else
#define HYBRIDATTN_CPU_KDA_CHUNK_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

/// Running sums of each channel, the current token's decay counted.
inline void sum_channel_decays(const ops::GdnPrefillParams& p, std::int64_t first,
                               std::int64_t head, Chunk& c) {
  for (std::int64_t i = 0; i < c.length; ++i) {
    const auto* g = reinterpret_cast<const float*>(row3(p.log_decay, first + i, head));
    double* sum = c.sum + i * c.k_dim;
    for (std::int64_t at = 0; at < c.k_dim; ++at) {
      sum[at] = core::clamp_log_decay(g[at]) + (i > 0 ? sum[at - c.k_dim] : 0.0);
    }
  }
}

/// c.channels = exp(from - to) for each channel; `to` == nullptr stands for zeros.
inline void exp_difference(const double* from, const double* to, Chunk& c) {
  for (std::int64_t at = 0; at < c.k_dim; ++at) {
    c.channels[at] = static_cast<float>(to != nullptr ? from[at] - to[at] : from[at]);
  }
  for_vectors(c.k_dim, [&](std::int64_t i, std::int64_t n) {
    store_part(hn::Exp(DF(), load_part(c.channels + i, n)), c.channels + i, n);
  });
}

/// dst = x times the channels' factors.
inline void multiply_channels(const float* x, const Chunk& c, float* dst) {
  for_vectors(c.k_dim, [&](std::int64_t i, std::int64_t n) {
    store_part(hn::Mul(load_part(x + i, n), load_part(c.channels + i, n)), dst + i, n);
  });
}

/// sum_c a_c b_c factor_c.
inline float decayed_dot(const float* a, const float* b, const Chunk& c) {
  VF sum = hn::Zero(DF());
  for_vectors(c.k_dim, [&](std::int64_t i, std::int64_t n) {
    const VF product = hn::Mul(load_part(a + i, n), load_part(c.channels + i, n));
    sum = hn::MulAdd(product, load_part(b + i, n), sum);
  });
  return hn::ReduceSum(DF(), sum);
}

/// Rows [block, end) of scores and correction, columns before the block.
inline void products_before(std::int64_t block, std::int64_t end, Chunk& c) {
  const std::int64_t rows = end - block;
  const double* start = c.sum + (block - 1) * c.k_dim;
  float* q = c.q_decayed;
  float* k = q + kSolveBlock * c.k_dim;
  for (std::int64_t i = block; i < end; ++i) {
    exp_difference(c.sum + i * c.k_dim, start, c);
    multiply_channels(c.q + i * c.k_dim, c, q + (i - block) * c.k_dim);
    multiply_channels(c.k + i * c.k_dim, c, k + (i - block) * c.k_dim);
  }
  for (std::int64_t j = 0; j < block; ++j) {
    exp_difference(start, c.sum + j * c.k_dim, c);
    multiply_channels(c.k + j * c.k_dim, c, c.k_decayed + j * c.k_dim);
  }
  gemm_nt(rows, block, c.k_dim, q, c.k_dim, c.k_decayed, c.k_dim, c.scores + block * kChunk,
          kChunk);
  gemm_nt(rows, block, c.k_dim, k, c.k_dim, c.k_decayed, c.k_dim, c.correction + block * kChunk,
          kChunk);
}

/// The same rows, columns in the block.
inline void products_within(std::int64_t block, std::int64_t end, Chunk& c) {
  for (std::int64_t i = block; i < end; ++i) {
    for (std::int64_t j = block; j <= i; ++j) {
      exp_difference(c.sum + i * c.k_dim, c.sum + j * c.k_dim, c);
      const float* k = c.k + j * c.k_dim;
      c.scores[i * kChunk + j] = decayed_dot(c.q + i * c.k_dim, k, c);
      c.correction[i * kChunk + j] = decayed_dot(c.k + i * c.k_dim, k, c);
    }
  }
}

inline void channel_decayed_products(Chunk& c) {
  for (std::int64_t block = 0; block < c.length; block += kSolveBlock) {
    const std::int64_t end = block + kSolveBlock < c.length ? block + kSolveBlock : c.length;
    if (block > 0) products_before(block, end, c);
    products_within(block, end, c);
  }
  for (std::int64_t i = 0; i < c.length; ++i) {
    scale_row(c.correction + i * kChunk, -c.beta[i], i, c.correction + i * kChunk);
    for (std::int64_t j = i + 1; j < c.length; ++j) c.scores[i * kChunk + j] = 0;
  }
}

/// u <- beta (v - S (decay * k)), the right-hand side; o <- S (decay * q).
inline void apply_state_to_channels(const float* state, std::int64_t state_stride, Chunk& c) {
  for (std::int64_t i = 0; i < c.length; ++i) {
    exp_difference(c.sum + i * c.k_dim, nullptr, c);
    multiply_channels(c.q + i * c.k_dim, c, c.q_decayed + i * c.k_dim);
    multiply_channels(c.k + i * c.k_dim, c, c.k_decayed + i * c.k_dim);
  }
  gemm_nt(c.length, c.v_dim, c.k_dim, c.k_decayed, c.k_dim, state, state_stride, c.u, c.v_dim);
  gemm_nt(c.length, c.v_dim, c.k_dim, c.q_decayed, c.k_dim, state, state_stride, c.o, c.v_dim);
  for (std::int64_t i = 0; i < c.length; ++i) {
    float* u = c.u + i * c.v_dim;
    const float* v = c.v + i * c.v_dim;
    const VF beta = hn::Set(DF(), c.beta[i]);
    for_vectors(c.v_dim, [&](std::int64_t at, std::int64_t n) {
      store_part(hn::Mul(hn::Sub(load_part(v + at, n), load_part(u + at, n)), beta), u + at, n);
    });
  }
}

/// S <- S diag(decay_last) + sum_j u_j (to_end_j * k_j)^T.
inline void update_channel_state(float* state, std::int64_t state_stride, Chunk& c) {
  const double* last = c.sum + (c.length - 1) * c.k_dim;
  for (std::int64_t j = 0; j < c.length; ++j) {
    exp_difference(last, c.sum + j * c.k_dim, c);
    multiply_channels(c.k + j * c.k_dim, c, c.k_decayed + j * c.k_dim);
  }
  exp_difference(last, nullptr, c);
  for (std::int64_t i = 0; i < c.v_dim; ++i) {
    multiply_channels(state + i * state_stride, c, state + i * state_stride);
  }
  gemm_nn(c.v_dim, c.k_dim, c.length, c.u, 1, c.v_dim, c.k_decayed, c.k_dim, state, state_stride);
}

inline void run_channel_chunk(const ops::GdnPrefillParams& p, std::int64_t first, std::int64_t head,
                              float* state, std::int64_t state_stride, Chunk& c) {
  load_operands(p, first, head, c);
  sum_channel_decays(p, first, head, c);
  channel_decayed_products(c);
  apply_state_to_channels(state, state_stride, c);
  solve(c);
  add_scores(c);
  update_channel_state(state, state_stride, c);
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HYBRIDATTN_CPU_KDA_CHUNK_INL_H_
