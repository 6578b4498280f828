// Checkpoints of gdn_prefill on the CPU: where the walk over a row's chunks passes the last chunk
// boundary at or before one, a copy of the state goes on over the tokens that are left.
#include "src/cpu/gdn-inl.h"
#include "src/ops/gdn_prefill_params.h"

#if defined(HYBRIDATTN_CPU_GDN_CHECKPOINTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HYBRIDATTN_CPU_GDN_CHECKPOINTS_INL_H_
#undef HYBRIDATTN_CPU_GDN_CHECKPOINTS_INL_H_
#else
#define HYBRIDATTN_CPU_GDN_CHECKPOINTS_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

/// Their part of a worker's scratch, behind that of the chunks.
inline float* checkpoint_scratch(const ops::GdnPrefillParams& p, std::byte* scratch) {
  return reinterpret_cast<float*>(
      scratch + ops::gdn_prefill_workspace(p.k.dim(2), p.v.dim(2), p.channel_decay()));
}

/// Those of one head of one row.
class GdnCheckpoints {
 public:
  /// `scratch`: gdn_checkpoint_scratch, of which nothing is used where there are none.
  GdnCheckpoints(const ops::GdnPrefillParams& p, std::int32_t row, std::int64_t head,
                 float* scratch)
      : p_(p), head_(head), row_(row), start_(p.rows.start[row]), state_(scratch),
        step_(scratch + p.v.dim(2) * p.k.dim(2)),
        next_(ops::first_checkpoint(p.checkpoints.host, row)) {}

  /// Stores those that lie under a chunk behind token `token` of the stream, where a chunk begins
  /// or the row ends. `copy(float* to)` gives the state there as [v_dim, k_dim].
  template <class Copy>
  void pass(std::int64_t token, const Copy& copy) {
    const RowCheckpoints& all = p_.checkpoints.host;
    for (; next_ < all.count && all.row[next_] == row_; ++next_) {
      const std::int64_t left = start_ + all.tokens[next_] - token;
      if (left >= kGdnChunk) return;
      if (all.slot[next_] == kPadIndex) continue;
      copy(state_);
      advance(token, left);
      for (std::int64_t v = 0; v < p_.v.dim(2); ++v) {
        store_row(state_ + v * p_.k.dim(2), p_.k.dim(2), row4(p_.state, all.slot[next_], head_, v),
                  p_.state.dtype);
      }
    }
  }

 private:
  void advance(std::int64_t token, std::int64_t count) {
    if (count == 0) return;
    ops::GdnParams in_float = p_;
    in_float.state.dtype = DType::kF32;
    auto* state = reinterpret_cast<std::byte*>(state_);
    const std::int64_t k_dim = p_.k.dim(2);
    for (std::int64_t i = 0; i < count; ++i) {
      step_state(in_float, token + i, head_, {state, k_dim, state, k_dim}, step_);
    }
  }

  const ops::GdnPrefillParams& p_;
  std::int64_t head_;
  std::int32_t row_;
  std::int64_t start_;
  float* state_;  // [v_dim, k_dim]
  float* step_;   // gdn_step_scratch
  std::int32_t next_;
};

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HYBRIDATTN_CPU_GDN_CHECKPOINTS_INL_H_
