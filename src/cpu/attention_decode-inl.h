// Attention of one token. A task takes a run of keys with all heads that read it, so that memory is
// read in the order in which it lies.
//
// First all logits of the range, key by key; then their weights; then the values. With a few query
// heads a key is turned into no matrix operand: products run along it.
#include <algorithm>
#include <bit>
#include <limits>

#include "src/cpu/attention_products-inl.h"
#include "src/cpu/attention_sight-inl.h"

#if defined(HYBRIDATTN_CPU_ATTENTION_DECODE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HYBRIDATTN_CPU_ATTENTION_DECODE_INL_H_
#undef HYBRIDATTN_CPU_ATTENTION_DECODE_INL_H_
#else
#define HYBRIDATTN_CPU_ATTENTION_DECODE_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

/// What a task of decode works on: a token's keys [begin, end), some key heads. Of a tree's token
/// the keys are counted as if its branch alone were there.
struct KeyRun {
  std::int32_t row;
  std::int64_t query;  // within the row
  std::int64_t head, heads;
  std::int64_t begin, end;
};

/// Walks over the rows of keys or values of a run, at its first head.
class RowWalk {
 public:
  RowWalk(const ops::AttentionParams& p, const ConstTensorView& view, const KeyRun& run)
      : places_(p, run.row, run.head), view_(view), walk_(places_, view, run.begin),
        key_(run.begin) {
    if (!is_tree(p, run.row)) return;
    branch_ = branch_of(p, run.row, run.query);
    first_new_ = p.rows.kv_length[run.row] - p.rows.q_length[run.row];
    for (std::int64_t key = first_new_; key < key_; ++key) branch_ &= branch_ - 1;
  }

  /// The row of the next key.
  HWY_INLINE const std::byte* next() {
    if (key_++ < first_new_) return walk_.next();
    const std::int64_t token = std::countr_zero(branch_);
    branch_ &= branch_ - 1;
    return places_.of(view_, first_new_ + token);
  }
  std::int64_t key() const { return key_; }

 private:
  KeyPlaces places_;
  const ConstTensorView& view_;
  KeyWalk walk_;
  std::int64_t key_;  // the next one
  // Of a tree: where its tokens begin, and those of the branch that are still to come.
  std::int64_t first_new_ = std::numeric_limits<std::int64_t>::max();
  std::uint64_t branch_ = 0;
};

/// The rows that are fetched while those of some keys before them are multiplied, line by line: a
/// burst of fetches waits for itself. Behind the last key come the first rows of what is read next.
class RowsAhead {
 public:
  /// `next`: what is read after `view`; the same view where nothing is.
  RowsAhead(const ops::AttentionParams& p, const ConstTensorView& view, const ConstTensorView& next,
            const KeyRun& run)
      : walk_(p, view, run), next_(p, next, run), end_(run.end), skip_(&view == &next) {
    for (std::int64_t i = 0; i < kAhead && walk_.key() < end_; ++i) last_ = walk_.next();
  }

  const std::byte* row() {
    if (walk_.key() < end_) {
      last_ = walk_.next();
    } else if (!skip_ && next_.key() < end_) {
      last_ = next_.next();
    }
    return last_;
  }

 private:
  static constexpr std::int64_t kAhead = 16;  // keys

  RowWalk walk_, next_;
  std::int64_t end_;
  bool skip_;
  const std::byte* last_ = nullptr;
};

// ---- A range of keys.

/// Logits of all keys of the range.
template <class Rows>
void multiply_keys(const ops::AttentionParams& p, const KeyRun& run, DecodeTile& t) {
  RowWalk walk(p, p.k, run);
  RowsAhead coming(p, p.k, p.v, run);
  const std::int64_t skip = p.k.stride(2) * static_cast<std::int64_t>(dtype_size(p.k.dtype));
  for (std::int64_t key = run.begin; key < run.end; key += Rows::kKeys) {
    const std::byte *rows[Rows::kKeys], *ahead[Rows::kKeys];
    const std::byte* last = nullptr;
    for (int k = 0; k < Rows::kKeys; ++k) {
      // Behind the last key stand copies of it; their logits are not used.
      if (key + k < run.end) last = walk.next();
      rows[k] = last;
      ahead[k] = coming.row();
    }
    for (std::int64_t h = 0; h < run.heads; ++h) {
      for (std::int64_t g = 0; g < p.group; g += kHeadBlock) {
        const std::int64_t row = h * p.group + g;
        float* logits = t.weights + row * ops::kAttentionPart + key - run.begin;
        with_heads(p.group - g, [&]<int NG>() HWY_ATTR {
          Rows::template dot<NG>(rows, g == 0 ? ahead : nullptr, t, row, logits);
        });
      }
      for (const std::byte*& row : rows) row += skip;
      for (const std::byte*& row : ahead) row += skip;
    }
  }
}

/// Logits become weights, relative to the largest.
inline void weigh(const Logits& finish, std::int64_t count, std::int64_t row, bool rounds,
                  DecodeTile& t) {
  const DF d;
  const VF lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
  float* weights = t.weights + row * ops::kAttentionPart;
  VF top = lowest;
  for_vectors(count, [&](std::int64_t i, std::int64_t n) HWY_ATTR {
    const VF logit = finish(load_part(weights + i, n));
    store_part(logit, weights + i, n);
    top = hn::Max(top, hn::IfThenElse(hn::FirstN(d, static_cast<std::size_t>(n)), logit, lowest));
  });
  t.top[row] = hn::ReduceMax(d, top);
  // Where all are minus infinity nothing is seen.
  const VF shift =
      hn::Set(d, t.top[row] > -std::numeric_limits<float>::infinity() ? t.top[row] : 0);
  VF total = hn::Zero(d);
  for_vectors(count, [&](std::int64_t i, std::int64_t n) HWY_ATTR {
    const VF weight = exp_of(hn::Sub(load_part(weights + i, n), shift));
    store_part(weight, weights + i, n);
    total = hn::Add(total, hn::IfThenElseZero(hn::FirstN(d, static_cast<std::size_t>(n)), weight));
  });
  t.sum[row] = hn::ReduceSum(d, total);
  if (!rounds) return;
  BF16* rounded = t.rounded + row * ops::kAttentionPart;
  convert_from_f32(weights, count, rounded);
  if (count % 2 != 0) rounded[count] = BF16{};
}

/// Values of all keys of the range, times their weights.
template <class Rows>
void add_values(const ops::AttentionParams& p, const KeyRun& run, DecodeTile& t) {
  RowWalk walk(p, p.v, run);
  RowsAhead coming(p, p.v, p.v, run);
  const std::int64_t skip = p.v.stride(2) * static_cast<std::int64_t>(dtype_size(p.v.dtype));
  for (std::int64_t key = run.begin; key < run.end; key += kValueBlock) {
    const std::int64_t count = std::min(kValueBlock, run.end - key);
    const std::byte *rows[kValueBlock], *ahead[kValueBlock];
    for (std::int64_t k = 0; k < kValueBlock; ++k) {
      if (k < count) rows[k] = walk.next();
      ahead[k] = coming.row();
    }
    for (std::int64_t h = 0; h < run.heads; ++h) {
      for (std::int64_t g = 0; g < p.group; g += kHeadBlock) {
        const std::int64_t row = h * p.group + g;
        with_heads(p.group - g, [&]<int NG>() HWY_ATTR {
          Rows::template add_values<NG>(rows, g == 0 ? ahead : nullptr, key - run.begin, count, t,
                                        row);
        });
      }
      for (std::int64_t k = 0; k < count; ++k) rows[k] += skip;
      for (const std::byte*& row : ahead) row += skip;
    }
  }
}

/// Calls f.template operator()<Rows>() with the products for a cache of some type.
template <class F>
void with_rows_of([[maybe_unused]] const ops::AttentionParams& p, DType dtype, const F& f) {
#if HYBRIDATTN_TARGET_HAS_TILES
  if (ops::attention_in_bf16(p)) {
    if (dtype == DType::kBF16) return f.template operator()<DotRows<BF16>>();
    return f.template operator()<DotRows<F8E4M3>>();
  }
#endif
  switch (dtype) {
    case DType::kBF16: return f.template operator()<FloatRows<BF16>>();
    case DType::kF16: return f.template operator()<FloatRows<F16>>();
    case DType::kF8E4M3: return f.template operator()<FloatRows<F8E4M3>>();
    default: return f.template operator()<FloatRows<float>>();
  }
}

/// The query heads of a run's key heads over its keys: t.out, t.top and t.sum.
inline void attend_run(const ops::AttentionParams& p, const KeyRun& run, DecodeTile& t) {
  for (std::int64_t m = 0; m < t.rows; ++m) {
    t.top[m] = -std::numeric_limits<float>::infinity();
    t.sum[m] = 0;
  }
  std::memset(t.out, 0, static_cast<std::size_t>(t.rows * t.dv) * sizeof(float));
  if (run.begin == run.end) return;
  with_rows_of(p, p.k.dtype, [&]<class Rows>() {
    const std::int64_t token = p.rows.q_start[run.row] + run.query;
    for (std::int64_t m = 0; m < t.rows; ++m) {
      Rows::load_query(row3(p.q, token, run.head * p.group + m), p.q.dtype, t, m);
    }
    multiply_keys<Rows>(p, run, t);
    const std::int64_t count = run.end - run.begin;
    for (std::int64_t m = 0; m < t.rows; ++m) {
      const Logits finish(p.options, p.k_scale.of(run.head + m / p.group));
      weigh(finish, count, m, Rows::kRounds, t);
    }
  });
  with_rows_of(p, p.v.dtype, [&]<class Rows>() {
    add_values<Rows>(p, run, t);
    Rows::finish(t);
  });
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HYBRIDATTN_CPU_ATTENTION_DECODE_INL_H_
