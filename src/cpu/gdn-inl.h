// What the kernels of the gated delta rule share: finding a head, preparing its q and k, one step.
#include <cmath>

#include "hybridattn/ops/l2norm.h"
#include "src/core/formulas.h"
#include "src/cpu/simd-inl.h"
#include "src/ops/gdn_params.h"

#if defined(HYBRIDATTN_CPU_GDN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HYBRIDATTN_CPU_GDN_INL_H_
#undef HYBRIDATTN_CPU_GDN_INL_H_
#else
#define HYBRIDATTN_CPU_GDN_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

/// q (scaled) and k of one token and value head, as floats, normalised where the call asks for it.
inline void load_qk(const ops::GdnParams& p, std::int64_t token, std::int64_t head, float* q,
                    float* k) {
  const std::int64_t dim = p.k.dim(2);
  const std::int64_t source = core::key_head(head, p.group);
  load_row(row3(p.q, token, source), p.q.dtype, dim, q);
  load_row(row3(p.k, token, source), p.k.dtype, dim, k);
  float q_factor = p.scale;
  if (p.qk_l2norm) {
    q_factor = p.scale / std::sqrt(sum_squares(q, dim) + kL2NormEpsilon);
    scale_row(k, 1.0f / std::sqrt(sum_squares(k, dim) + kL2NormEpsilon), dim, k);
  }
  scale_row(q, q_factor, dim, q);
}

inline float gate_of(const ConstTensorView& view, std::int64_t token, std::int64_t head) {
  return *reinterpret_cast<const float*>(
      element(view, token * view.stride(0) + head * view.stride(1)));
}

/// The decay of a head, the same for each key channel.
struct HeadDecay {
  explicit HeadDecay(float factor) : factor_(hn::Set(DF(), factor)) {}
  VF operator()(std::int64_t, std::int64_t) const { return factor_; }

 private:
  VF factor_;
};
/// A decay for each key channel.
struct ChannelDecay {
  const float* factors;
  VF operator()(std::int64_t i, std::int64_t n) const { return load_part(factors + i, n); }
};

/// step_row for a row of NV whole vectors, which stays in registers between its load and its store.
/// Two chains for each sum: a processor holds three rows at a time, too few to hide one of NV
/// links.
template <int NV, class Decay>
HWY_INLINE float step_whole_row(float* s, const float* q, const float* k, const Decay& decay,
                                float beta, float v) {
  const DF d;
  const std::int64_t n = lanes();
  VF row[NV];
  VF recalled[2] = {hn::Zero(d), hn::Zero(d)};
  for (int i = 0; i < NV; ++i) {
    row[i] = hn::Mul(hn::LoadU(d, s + i * n), decay(i * n, n));
    recalled[i % 2] = hn::MulAdd(row[i], hn::LoadU(d, k + i * n), recalled[i % 2]);
  }
  const VF u = hn::Set(d, beta * (v - hn::ReduceSum(d, hn::Add(recalled[0], recalled[1]))));
  VF out[2] = {hn::Zero(d), hn::Zero(d)};
  for (int i = 0; i < NV; ++i) {
    row[i] = hn::MulAdd(u, hn::LoadU(d, k + i * n), row[i]);
    hn::StoreU(row[i], d, s + i * n);
    out[i % 2] = hn::MulAdd(row[i], hn::LoadU(d, q + i * n), out[i % 2]);
  }
  return hn::ReduceSum(d, hn::Add(out[0], out[1]));
}

/// One row of S: decays it, corrects it towards v and gives its product with q. Returns o.
template <class Decay>
float step_row(float* s, const float* q, const float* k, std::int64_t dim, const Decay& decay,
               float beta, float v) {
  const DF d;
  if constexpr (HWY_TARGET <= HWY_AVX3) {  // elsewhere a row is more than the registers hold
    if (dim == 8 * lanes()) return step_whole_row<8>(s, q, k, decay, beta, v);
    if (dim == 4 * lanes()) return step_whole_row<4>(s, q, k, decay, beta, v);
  }
  VF recalled = hn::Zero(d);
  for_vectors(dim, [&](std::int64_t i, std::int64_t n) {
    const VF decayed = hn::Mul(load_part(s + i, n), decay(i, n));
    store_part(decayed, s + i, n);
    recalled = hn::MulAdd(decayed, load_part(k + i, n), recalled);
  });
  const VF u = hn::Set(d, beta * (v - hn::ReduceSum(d, recalled)));
  VF out = hn::Zero(d);
  for_vectors(dim, [&](std::int64_t i, std::int64_t n) {
    const VF updated = hn::MulAdd(u, load_part(k + i, n), load_part(s + i, n));
    store_part(updated, s + i, n);
    out = hn::MulAdd(updated, load_part(q + i, n), out);
  });
  return hn::ReduceSum(d, out);
}

/// Where one step of one head reads its state (nullptr = zeros) and leaves it, which may be the
/// same memory. Row i of a state lies i * stride elements behind the first.
struct StepStates {
  const std::byte* from;
  std::int64_t from_stride;
  std::byte* to;
  std::int64_t to_stride;
};

/// The scratch of one step of one head.
struct StepScratch {
  StepScratch(float* scratch, std::int64_t k_dim, std::int64_t v_dim)
      : q(scratch), k(q + k_dim), decay(k + k_dim), state_row(decay + k_dim), v(state_row + k_dim),
        out(v + v_dim) {}
  float *q, *k, *decay, *state_row, *v, *out;
};

/// How many rows of a state are fetched ahead: states of many heads lie in no near cache, and rows
/// that wait for theirs leave the processor no other work (up to 1.5 times as fast from memory).
inline constexpr std::int64_t kRowsAhead = 16;

inline void fetch_row(const std::byte* row, std::int64_t bytes) {
  for (std::int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(row + at, 1, 3);
}

/// All rows of the state of one head.
template <class Decay>
void step_rows(const ops::GdnParams& p, const StepStates& states, const StepScratch& x, float beta,
               const Decay& decay) {
  const std::int64_t k_dim = p.k.dim(2);
  const auto size = static_cast<std::int64_t>(dtype_size(p.state.dtype));
  for (std::int64_t i = 0; i < p.v.dim(2); ++i) {
    std::byte* stored = states.to + i * states.to_stride * size;
    // Behind the last row of a head mostly lies the next head's first.
    fetch_row(stored + kRowsAhead * states.to_stride * size, k_dim * size);
    float* s = p.state.dtype == DType::kF32 ? reinterpret_cast<float*>(stored) : x.state_row;
    if (states.from == nullptr) {
      std::memset(s, 0, static_cast<std::size_t>(k_dim) * sizeof(float));
    } else if (const std::byte* source = states.from + i * states.from_stride * size;
               source != reinterpret_cast<const std::byte*>(s)) {
      load_row(source, p.state.dtype, k_dim, s);
    }
    x.out[i] = step_row(s, x.q, x.k, k_dim, decay, beta, x.v[i]);
    if (s == x.state_row) store_row(s, k_dim, stored, p.state.dtype);
  }
}

inline float decay_of(float log_decay) {
  return static_cast<float>(std::exp(core::clamp_log_decay(log_decay)));
}

/// One step of one head, whose output is left in the scratch: returns it.
inline const float* step_state(const ops::GdnParams& p, std::int64_t token, std::int64_t head,
                               const StepStates& states, float* scratch) {
  const std::int64_t k_dim = p.k.dim(2);
  const std::int64_t v_dim = p.v.dim(2);
  const StepScratch x(scratch, k_dim, v_dim);
  load_qk(p, token, head, x.q, x.k);
  load_row(row3(p.v, token, head), p.v.dtype, v_dim, x.v);
  const float beta = gate_of(p.beta, token, head);
  if (p.channel_decay()) {
    const auto* log_decay = reinterpret_cast<const float*>(row3(p.log_decay, token, head));
    for (std::int64_t c = 0; c < k_dim; ++c) x.decay[c] = decay_of(log_decay[c]);
    step_rows(p, states, x, beta, ChannelDecay{x.decay});
  } else {
    step_rows(p, states, x, beta, HeadDecay(decay_of(gate_of(p.log_decay, token, head))));
  }
  return x.out;
}

/// One step of one head.
inline void step_head(const ops::GdnParams& p, std::int64_t token, std::int64_t head,
                      const StepStates& states, float* scratch) {
  const float* out = step_state(p, token, head, states, scratch);
  store_row(out, p.v.dim(2), row3(p.out, token, head), p.out.dtype);
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HYBRIDATTN_CPU_GDN_INL_H_
