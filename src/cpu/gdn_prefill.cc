// The chunked gated delta rule on the CPU: per row and value head, chunk after chunk, as small
// matrix products in float32 (the formulas stand at the public declaration).
#include <algorithm>

#include "src/core/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/gdn_prefill.cc"
#include "hwy/foreach_target.h"

#include "src/cpu/flush_denormals.h"
#include "src/cpu/gdn_bf16-inl.h"
#include "src/cpu/gdn_checkpoints-inl.h"
#include "src/cpu/gdn_chunk-inl.h"
#include "src/cpu/kda_chunk-inl.h"
#include "src/cpu/kernels.h"
#include "src/cpu/variants.h"

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

void load_chunk(const ops::GdnPrefillParams& p, std::int64_t first, std::int64_t head, Chunk& c) {
  load_operands(p, first, head, c);
  double sum = 0;
  for (std::int64_t i = 0; i < c.length; ++i) {
    sum += core::clamp_log_decay(gate_of(p.log_decay, first + i, head));
    c.sum[i] = sum;
  }
  for (std::int64_t i = 0; i < c.length; ++i) {
    c.decay[i] = static_cast<float>(c.sum[i]);
    c.to_end[i] = static_cast<float>(sum - c.sum[i]);
  }
  for_vectors(c.length, [&](std::int64_t i, std::int64_t n) {
    store_part(hn::Exp(DF(), load_part(c.decay + i, n)), c.decay + i, n);
    store_part(hn::Exp(DF(), load_part(c.to_end + i, n)), c.to_end + i, n);
  });
}

/// q.k and k.k of the chunk, times the decay between the two tokens: the exponent of a pair is a
/// difference of double sums and never positive.
void decayed_products(Chunk& c) {
  gemm_nt(c.length, c.length, c.k_dim, c.q, c.k_dim, c.k, c.k_dim, c.scores, kChunk);
  gemm_nt(c.length, c.length, c.k_dim, c.k, c.k_dim, c.k, c.k_dim, c.correction, kChunk);
  for (std::int64_t i = 0; i < c.length; ++i) {
    float* scores = c.scores + i * kChunk;
    float* correction = c.correction + i * kChunk;
    for (std::int64_t j = 0; j <= i; ++j) c.row[j] = static_cast<float>(c.sum[i] - c.sum[j]);
    const VF minus_beta = hn::Set(DF(), -c.beta[i]);
    for_vectors(i + 1, [&](std::int64_t j, std::int64_t n) {
      const VF decay = hn::Exp(DF(), load_part(c.row + j, n));
      store_part(hn::Mul(load_part(scores + j, n), decay), scores + j, n);
      store_part(hn::Mul(hn::Mul(load_part(correction + j, n), decay), minus_beta), correction + j,
                 n);
    });
    for (std::int64_t j = i + 1; j < c.length; ++j) scores[j] = 0;
  }
}

/// u <- beta (v - decay * S k), the right-hand side; o <- decay * S q.
void apply_state(const float* state, std::int64_t state_stride, Chunk& c) {
  gemm_nt(c.length, c.v_dim, c.k_dim, c.k, c.k_dim, state, state_stride, c.u, c.v_dim);
  gemm_nt(c.length, c.v_dim, c.k_dim, c.q, c.k_dim, state, state_stride, c.o, c.v_dim);
  for (std::int64_t i = 0; i < c.length; ++i) {
    float* u = c.u + i * c.v_dim;
    float* o = c.o + i * c.v_dim;
    const float* v = c.v + i * c.v_dim;
    const VF decay = hn::Set(DF(), c.decay[i]);
    const VF beta = hn::Set(DF(), c.beta[i]);
    for_vectors(c.v_dim, [&](std::int64_t at, std::int64_t n) {
      const VF recalled = hn::Mul(load_part(u + at, n), decay);
      store_part(hn::Mul(hn::Sub(load_part(v + at, n), recalled), beta), u + at, n);
      store_part(hn::Mul(load_part(o + at, n), decay), o + at, n);
    });
  }
}

/// S <- decay_last S + sum_j to_end_j u_j k_j^T.
void update_state(float* state, std::int64_t state_stride, Chunk& c) {
  const float last = c.decay[c.length - 1];
  for (std::int64_t i = 0; i < c.v_dim; ++i) {
    scale_row(state + i * state_stride, last, c.k_dim, state + i * state_stride);
  }
  for (std::int64_t j = 0; j < c.length; ++j) {
    scale_row(c.u + j * c.v_dim, c.to_end[j], c.v_dim, c.u + j * c.v_dim);
  }
  gemm_nn(c.v_dim, c.k_dim, c.length, c.u, 1, c.v_dim, c.k, c.k_dim, state, state_stride);
}

void run_chunk(const ops::GdnPrefillParams& p, std::int64_t first, std::int64_t head, float* state,
               std::int64_t state_stride, Chunk& c) {
  load_chunk(p, first, head, c);
  decayed_products(c);
  apply_state(state, state_stride, c);
  solve(c);
  add_scores(c);
  update_state(state, state_stride, c);
}

void run_chunks(const ops::GdnPrefillParams& p, std::int32_t row, std::int64_t head, float* state,
                std::int64_t state_stride, Chunk& c, GdnCheckpoints& checkpoints) {
  const std::int64_t begin = p.rows.start[row];
  const std::int64_t end = begin + p.rows.length[row];
  const auto copy_state = [&](float* to) {
    for (std::int64_t i = 0; i < c.v_dim; ++i) {
      std::copy_n(state + i * state_stride, c.k_dim, to + i * c.k_dim);
    }
  };
  for (std::int64_t first = begin; first < end; first += kChunk) {
    checkpoints.pass(first, copy_state);
    c.length = end - first < kChunk ? end - first : kChunk;
    if (p.channel_decay()) {
      run_channel_chunk(p, first, head, state, state_stride, c);
    } else {
      run_chunk(p, first, head, state, state_stride, c);
    }
    for (std::int64_t i = 0; i < c.length; ++i) {
      store_row(c.o + i * c.v_dim, c.v_dim, row3(p.out, first + i, head), p.out.dtype);
    }
  }
  checkpoints.pass(end, copy_state);
}

void zero_head(const ops::GdnPrefillParams& p, std::int32_t row, std::int64_t head) {
  for (std::int64_t i = 0; i < p.rows.length[row]; ++i) {
    zero_row(p.v.dim(2), row3(p.out, p.rows.start[row] + i, head), p.out.dtype);
  }
}

void prefill_head(const ops::GdnPrefillParams& p, std::int32_t row, std::int64_t head,
                  std::byte* scratch) {
  Chunk c(scratch, p.k.dim(2), p.v.dim(2), p.channel_decay());
  GdnCheckpoints checkpoints(p, row, head, checkpoint_scratch(p, scratch));
  const std::int32_t slot = p.rows.slot[row];
  const bool in_place = p.state.dtype == DType::kF32;
  float* state = in_place ? reinterpret_cast<float*>(row4(p.state, slot, head, 0)) : c.state;
  const std::int64_t stride = in_place ? p.state.stride(2) : c.k_dim;
  for (std::int64_t i = 0; i < c.v_dim; ++i) {
    float* s = state + i * stride;
    if (p.rows.computed[row] == 0) {
      std::memset(s, 0, static_cast<std::size_t>(c.k_dim) * sizeof(float));
    } else if (!in_place) {
      load_row(row4(p.state, slot, head, i), p.state.dtype, c.k_dim, s);
    }
  }
  run_chunks(p, row, head, state, stride, c, checkpoints);
  for (std::int64_t i = 0; !in_place && i < c.v_dim; ++i) {
    store_row(state + i * stride, c.k_dim, row4(p.state, slot, head, i), p.state.dtype);
  }
}

/// prefill(row, head, scratch) for every head of every row.
template <class Prefill>
void for_heads(const ops::GdnPrefillParams& p, core::Launch& launch, const Prefill& prefill) {
  const std::int64_t heads = p.v.dim(1);
  parallel_for(launch.executor, p.rows.count * heads, [&](std::int64_t task, int worker) {
    const auto row = static_cast<std::int32_t>(task / heads);
    if (p.rows.length[row] == 0) return;
    const FlushDenormals flush;
    if (p.rows.slot[row] == kPadIndex) {
      zero_head(p, row, task % heads);
    } else {
      prefill(row, task % heads, launch.scratch<std::byte>(worker));
    }
  });
}

void gdn_prefill(const ops::GdnPrefillParams& p, core::Launch& launch) {
  launch.target = hwy::TargetName(HWY_TARGET);
#if HYBRIDATTN_TARGET_HAS_TILES
  if (ops::gdn_prefill_in_bf16(p)) {
    return with_products(launch, [&]<class Products>() {
      for_heads(p, launch, [&](std::int32_t row, std::int64_t head, std::byte* scratch) {
        const typename Products::Scope scope;
        prefill_head_bf16<Products>(p, row, head, scratch);
      });
    });
  }
#endif
  for_heads(p, launch, [&](std::int32_t row, std::int64_t head, std::byte* scratch) {
    prefill_head(p, row, head, scratch);
  });
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hybridattn::cpu {

HWY_EXPORT(gdn_prefill);

core::CpuVariants<ops::GdnPrefillParams> gdn_prefill_variants() {
  return variants<ops::GdnPrefillParams>(HWY_DISPATCH_TABLE(gdn_prefill));
}

}  // namespace hybridattn::cpu
#endif  // HWY_ONCE
