// What the kernels of the gated delta rule share: finding a head, preparing its q and k, one step.
#include <cmath>

#include "hybridattn/ops/l2norm.h"
#include "src/core/formulas.h"
#include "src/cpu/simd-inl.h"
#include "src/cpu/weight_prefetch.h"
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
  static constexpr bool kOfChannels = false;
  explicit HeadDecay(float value) : factor(value), factor_(hn::Set(DF(), value)) {}
  VF operator()(std::int64_t, std::int64_t) const { return factor_; }
  float factor;

 private:
  VF factor_;
};
/// A decay for each key channel.
struct ChannelDecay {
  static constexpr bool kOfChannels = true;
  const float* factors;
  VF operator()(std::int64_t i, std::int64_t n) const { return load_part(factors + i, n); }
};

/// One row of S: decays it, corrects it towards v and gives its product with q. Returns o.
template <class Decay>
float step_row(float* s, const float* q, const float* k, std::int64_t dim, const Decay& decay,
               float beta, float v) {
  const DF d;
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
/// that wait for theirs leave the processor no other work.
inline constexpr std::int64_t kRowsAhead = 8;

inline void fetch_row(const std::byte* row, std::int64_t bytes) {
  for (std::int64_t at = 0; at < bytes; at += WeightPrefetch::kLineBytes) {
    prefetch_to_write(row + at);
  }
}

/// The sums of the lanes of four vectors.
HWY_INLINE auto sum_lanes_of_four(const VF* v) {
  const DF d;
  const hn::Half<DF> half;
  const hn::Half<decltype(half)> quarter;
  const hn::RepartitionToWide<DF> wide;
  const auto pair = [&](VF a, VF b) HWY_ATTR {
    return hn::BitCast(wide, hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b)));
  };
  const auto first = pair(v[0], v[1]), second = pair(v[2], v[3]);
  const VF blocks = hn::Add(hn::BitCast(d, hn::InterleaveLower(wide, first, second)),
                            hn::BitCast(d, hn::InterleaveUpper(wide, first, second)));
  const auto two = hn::Add(hn::LowerHalf(half, blocks), hn::UpperHalf(half, blocks));
  return hn::Add(hn::LowerHalf(quarter, two), hn::UpperHalf(quarter, two));
}

inline constexpr std::int64_t kStepRows = 4;

/// The rows of a state that are NV whole vectors of T: S d k and S d q for the decay d, and behind
/// the sums the new rows. No other pass finds o, as S' q = S d q + u k q.
template <int NV, class T, class Decay>
class WholeRows {
 public:
  WholeRows(const StepStates& states, const StepScratch& x, float beta, const Decay& decay)
      : from_(reinterpret_cast<const T*>(states.from)), to_(reinterpret_cast<T*>(states.to)),
        states_(states), x_(x), beta_(beta), decay_(decay) {}

  /// kStepRows at a time. The sums of the next ones stand before the new rows of these, so that
  /// adding up lanes, which takes long, holds nothing up.
  HWY_INLINE void step(std::int64_t rows) {
    const DF d;
    VF k[NV], q[NV];  // decayed by channels
    VF products = hn::Zero(d);
    for (int i = 0; i < NV; ++i) {
      k[i] = hn::LoadU(d, x_.k + i * n_);
      q[i] = hn::LoadU(d, x_.q + i * n_);
      products = hn::MulAdd(k[i], q[i], products);
      if constexpr (Decay::kOfChannels) {
        k[i] = hn::Mul(k[i], decay_(i * n_, n_));
        q[i] = hn::Mul(q[i], decay_(i * n_, n_));
      }
    }
    const float kq = hn::ReduceSum(d, products);
    VF recalled[kStepRows], asked[kStepRows];
    add_up(0, k, q, recalled, asked);
    for (std::int64_t first = 0; first < rows; first += kStepRows) {
      correct(first, kq, recalled, asked);
      if (first + kStepRows < rows) add_up(first + kStepRows, k, q, recalled, asked);
      update(first, k);
    }
  }

 private:
  HWY_INLINE void add_up(std::int64_t first, const VF* k, const VF* q, VF* recalled,
                         VF* asked) const {
    for (int r = 0; r < kStepRows; ++r) {
      recalled[r] = asked[r] = hn::Zero(DF());
      const T* const row = from_ + (first + r) * states_.from_stride;
      for (int i = 0; i < NV; ++i) {
        const VF s = load_full(row + i * n_);
        recalled[r] = hn::MulAdd(s, k[i], recalled[r]);
        asked[r] = hn::MulAdd(s, q[i], asked[r]);
      }
    }
  }
  /// u and o.
  HWY_INLINE void correct(std::int64_t first, float kq, const VF* recalled, const VF* asked) {
    const hn::Half<hn::Half<DF>> four;
    static_assert(kStepRows == 4);
    auto sk = sum_lanes_of_four(recalled), sq = sum_lanes_of_four(asked);
    if constexpr (!Decay::kOfChannels) {
      sk = hn::Mul(sk, hn::Set(four, decay_.factor));
      sq = hn::Mul(sq, hn::Set(four, decay_.factor));
    }
    const auto u = hn::Mul(hn::Set(four, beta_), hn::Sub(hn::LoadU(four, x_.v + first), sk));
    hn::Store(u, four, u_);
    hn::StoreU(hn::MulAdd(u, hn::Set(four, kq), sq), four, x_.out + first);
  }
  HWY_INLINE void update(std::int64_t first, const VF* k) const {
    for (int r = 0; r < kStepRows; ++r) {
      const T* const row = from_ + (first + r) * states_.from_stride;
      T* const to = to_ + (first + r) * states_.to_stride;
      // Behind the last row of a head mostly lies the next head's first.
      const auto* const ahead =
          reinterpret_cast<const std::byte*>(to + kRowsAhead * states_.to_stride);
      const VF u = hn::Set(DF(), u_[r]);
      for (int i = 0; i < NV; ++i) {
        // A line between the others, to the second-level cache: in bursts, or to the first, they
        // hold up what is computed.
        if (i * kBytes % WeightPrefetch::kLineBytes == 0) {
          __builtin_prefetch(ahead + i * kBytes, 0, 2);
        }
        const VF s = hn::Mul(load_full(row + i * n_), decay_(i * n_, n_));
        const VF key = Decay::kOfChannels ? hn::LoadU(DF(), x_.k + i * n_) : k[i];
        store_full(hn::MulAdd(u, key, s), to + i * n_);
      }
    }
  }

  static constexpr std::int64_t kBytes = HWY_MAX_LANES_D(DF) * sizeof(T);  // of a vector
  const std::int64_t n_ = lanes();
  const T* const from_;
  T* const to_;
  const StepStates& states_;
  const StepScratch& x_;
  const float beta_;
  const Decay& decay_;
  alignas(16) float u_[kStepRows];
};

/// States to read from, which are set to zero where there were none.
inline StepStates with_zeros(const ops::GdnParams& p, const StepStates& states) {
  if (states.from != nullptr) return states;
  const auto size = static_cast<std::int64_t>(dtype_size(p.state.dtype));
  for (std::int64_t i = 0; i < p.v.dim(2); ++i) {
    zero_row(p.k.dim(2), states.to + i * states.to_stride * size, p.state.dtype);
  }
  return {states.to, states.to_stride, states.to, states.to_stride};
}

/// Does so where rows are whole vectors that leave room for their sums; else false.
template <class Decay>
bool step_in_vectors(const ops::GdnParams& p, const StepStates& states, const StepScratch& x,
                     float beta, const Decay& decay) {
  if constexpr (HWY_TARGET <= HWY_AVX3) {
    const std::int64_t vectors = p.k.dim(2) / lanes();
    if (p.k.dim(2) % lanes() != 0 || p.v.dim(2) % kStepRows != 0) return false;
    const bool f32 = p.state.dtype == DType::kF32, bf16 = p.state.dtype == DType::kBF16;
    if ((vectors != 8 && vectors != 4) || (!f32 && !bf16)) return false;
    const StepStates rows = with_zeros(p, states);
    const auto step = [&]<int NV, class T>(T) HWY_ATTR {
      WholeRows<NV, T, Decay>(rows, x, beta, decay).step(p.v.dim(2));
    };
    if (vectors == 8 && f32) step.template operator()<8>(float());
    if (vectors == 4 && f32) step.template operator()<4>(float());
    if (vectors == 8 && bf16) step.template operator()<8>(BF16());
    if (vectors == 4 && bf16) step.template operator()<4>(BF16());
    return true;
  }
  return false;
}

/// All rows of the state of one head.
template <class Decay>
void step_rows(const ops::GdnParams& p, const StepStates& states, const StepScratch& x, float beta,
               const Decay& decay) {
  if (step_in_vectors(p, states, x, beta, decay)) return;
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
