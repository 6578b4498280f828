// Rows of one token over the threads: their keys are cut into parts, whose results are merged in
// the order of the keys. Where a part begins follows from the row alone.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "src/cpu/attention_results-inl.h"
#include "src/cpu/attention_tiles-inl.h"
#include "src/cpu/flush_denormals.h"

#if defined(HYBRIDATTN_CPU_ATTENTION_SPLIT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HYBRIDATTN_CPU_ATTENTION_SPLIT_INL_H_
#undef HYBRIDATTN_CPU_ATTENTION_SPLIT_INL_H_
#else
#define HYBRIDATTN_CPU_ATTENTION_SPLIT_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

/// Rows [first, last) of a call. A line is a token with some of the key heads. Lines are gone
/// through in waves, as many parts at a time as there is room for; a line that a wave cuts leaves
/// what it has to the next.
class SplitDecode {
 public:
  SplitDecode(const ops::AttentionParams& p, core::Launch& launch, std::int32_t first,
              std::int32_t last)
      : p_(p), launch_(launch), first_(first), last_(last), v_dim_(p.v.dim(3)),
        stride_(ops::attention_padded(v_dim_)), threads_(launch.executor.concurrency()) {
    const std::int64_t room = ops::kAttentionParts * threads_;
    std::int64_t rows = p.group;  // of a key head
#if HYBRIDATTN_TARGET_HAS_TILES
    tiles_ =
        launch.isa == Isa::kAmx && ops::attention_in_bf16(p) && p.group >= ops::kAttentionTileGroup;
    if (tiles_) {
      launch.target = TileProducts::kTarget;
      rows = ops::attention_padded(p.group);
    }
#endif
    heads_ = std::min(
        {p.k.dim(2), std::max(kTaskRows / rows, std::int64_t{1}), room / (4 * threads_ + 2)});
    std::int64_t parts = 0;
    for (std::int32_t row = first; row < last; ++row) {
      for (std::int64_t q = 0; q < p.rows.q_length[row]; ++q) parts += cut(row, q).count;
    }
    const auto tasks = [&] { return parts * ((p.k.dim(2) + heads_ - 1) / heads_); };
    while (heads_ > 1 && tasks() < 2 * threads_) heads_ = (heads_ + 1) / 2;
    blocks_ = (p.k.dim(2) + heads_ - 1) / heads_;
    most_ = (room / heads_ - 2) / threads_ * threads_;
  }

  void run() {
    Place begin{first_, 0, 0, 0};
    for (int wave = 0;; ++wave) {
      begin_ = begin;
      odd_ = wave % 2;
      std::int64_t items = 0, merges = 0;
      begin = measure(items, merges);
      if (items == 0) return;
      // Whoever takes a task finds its items by a walk over the lines: one walk for several items
      // where there are many.
      const std::int64_t tasks = std::min(items, kTasks * threads_);
      parallel_for(launch_.executor, tasks, [&](std::int64_t task, int worker) {
        run_items(items * task / tasks, items * (task + 1) / tasks,
                  launch_.scratch<std::byte>(worker));
      });
      parallel_for(launch_.executor, merges * heads_,
                   [&](std::int64_t task, int) { merge(task / heads_, task % heads_); });
    }
  }

 private:
  static constexpr std::int64_t kTaskRows = ops::kAttentionDecodeRows;
  static constexpr std::int64_t kPart = ops::kAttentionPart;
  /// Tasks of a thread, at most.
  static constexpr std::int64_t kTasks = 16;

  /// A token's keys and the parts that they fall into.
  struct Keys {
    std::int64_t begin, end, first_part, count;
  };
  struct Place {
    std::int32_t row;
    std::int64_t query, block, part;
  };
  /// The parts that a wave takes of a line, `count` from a place on, the first of them in `slot`.
  struct Share {
    Place at;
    std::int64_t count, slot;
    Keys keys;
    bool whole() const { return keys.count == 1; }
    bool last() const { return at.part + count == keys.count; }
  };

  Keys cut(std::int32_t row, std::int64_t query) const {
    const core::KeyRange seen = branch_range(p_, row, query);
    const std::int64_t part = seen.begin / kPart;
    const std::int64_t end = (seen.end + kPart - 1) / kPart;
    return {seen.begin, seen.end, part, end > part ? end - part : 1};
  }
  /// The line behind one.
  Place after(Place at) const {
    at.part = 0;
    if (++at.block < blocks_) return at;
    at.block = 0;
    if (++at.query < p_.rows.q_length[at.row]) return at;
    return {at.row + 1, 0, 0, 0};
  }
  std::int64_t heads_of(const Place& at) const {
    return std::min(heads_, p_.k.dim(2) - at.block * heads_);
  }

  /// Calls f(share) for the shares of the wave until it returns true; returns where the next
  /// begins.
  template <class F>
  Place walk(const F& f) const {
    Place at = begin_;
    std::int64_t used = 0;
    for (; at.row < last_; at = after(at)) {
      if (at.query >= p_.rows.q_length[at.row]) continue;  // a row without tokens
      Share share{at, 0, used, cut(at.row, at.query)};
      share.count = share.keys.count - at.part;
      if (!share.whole()) share.count = std::min(share.count, most_ - used);
      if (share.count > 0 && f(share)) break;
      if (share.whole()) continue;
      used += share.count;
      at.part += share.count;
      if (!share.last()) return at;
    }
    return at;
  }
  Place measure(std::int64_t& items, std::int64_t& merges) const {
    return walk([&](const Share& share) {
      items += share.count;
      merges += share.whole() ? 0 : 1;
      return false;
    });
  }

  void run_items(std::int64_t first, std::int64_t last, std::byte* scratch) const {
    const FlushDenormals flush;
    std::int64_t before = 0;  // items of the lines before
    walk([&](const Share& share) {
      const std::int64_t end = std::min(last, before + share.count);
      for (; first < end; ++first) run_part(share, first - before, scratch);
      before += share.count;
      return before >= last;
    });
  }

  void run_part(const Share& share, std::int64_t item, std::byte* scratch) const {
    const std::int64_t from = (share.keys.first_part + share.at.part + item) * kPart;
    const KeyRun run{share.at.row,
                     share.at.query,
                     share.at.block * heads_,
                     heads_of(share.at),
                     std::max(from, share.keys.begin),
                     std::min(from + kPart, share.keys.end)};
#if HYBRIDATTN_TARGET_HAS_TILES
    if (tiles_) {
      const Tiles tiles;
      DecodeTiles t(scratch, p_, run.heads);
      attend_run(p_, run, t);
      return keep(share, item, run, t, t.lanes);
    }
#endif
    DecodeTile t(scratch, p_, run.heads);
    attend_run(p_, run, t);
    keep(share, item, run, t, p_.group);
  }

  /// Takes the results of a run out of a worker's scratch, where each key head has `rows` rows.
  template <class Tile>
  void keep(const Share& share, std::int64_t item, const KeyRun& run, const Tile& t,
            std::int64_t rows) const {
    for (std::int64_t h = 0; h < run.heads; ++h) {
      const std::int64_t row = h * rows;
      const Accumulated result{p_.group,           v_dim_,      t.dv,
                               t.out + row * t.dv, t.top + row, t.sum + row};
      if (share.whole()) {
        store_results(p_, {run.row, run.head + h, run.query}, result);
      } else {
        copy(result, slot(2 + share.slot + item, h));
      }
    }
  }

  /// Folds the parts of the wave's merge number `index` into one, for one of the line's key heads.
  void merge(std::int64_t index, std::int64_t head) const {
    walk([&](const Share& share) {
      if (share.whole() || index-- > 0) return false;
      if (head >= heads_of(share.at)) return true;
      // The first two slots hold what the wave before has left, and what this one leaves.
      const bool goes_on = share.at.part > 0;
      Accumulated sum = goes_on ? slot(odd_, head) : slot(2 + share.slot, head);
      for (std::int64_t i = goes_on ? 0 : 1; i < share.count; ++i) {
        fold(slot(2 + share.slot + i, head), sum);
      }
      if (share.last()) {
        store_results(p_, {share.at.row, share.at.block * heads_ + head, share.at.query}, sum);
      } else {
        copy(sum, slot(1 - odd_, head));
      }
      return true;
    });
  }

  /// sum becomes the result over the keys of both.
  static void fold(const Accumulated& part, Accumulated& sum) {
    const DF d;
    for (std::int64_t m = 0; m < sum.rows; ++m) {
      const float top = part.top[m] > sum.top[m] ? part.top[m] : sum.top[m];
      const auto shrink = [&](float own) { return own == top ? 1.0f : std::exp(own - top); };
      const float a = shrink(sum.top[m]), b = shrink(part.top[m]);
      sum.top[m] = top;
      sum.sum[m] = a * sum.sum[m] + b * part.sum[m];
      float* out = sum.out + m * sum.stride;
      const float* more = part.out + m * part.stride;
      for_vectors(sum.v_dim, [&](std::int64_t i, std::int64_t n) {
        const VF before = hn::Mul(load_part(out + i, n), hn::Set(d, a));
        store_part(hn::MulAdd(load_part(more + i, n), hn::Set(d, b), before), out + i, n);
      });
    }
  }

  /// Room for the results of a part and one key head.
  Accumulated slot(std::int64_t index, std::int64_t head) const {
    const std::int64_t at = index * heads_ + head;
    const std::int64_t floats = ops::attention_part_floats(p_.group, v_dim_);
    std::byte* block = launch_.scratch<std::byte>(static_cast<int>(at / ops::kAttentionParts)) +
                       ops::attention_parts_offset(p_.group, p_.q.dim(2), v_dim_);
    float* out = reinterpret_cast<float*>(block) + at % ops::kAttentionParts * floats;
    float* top = out + p_.group * stride_;
    return {p_.group, v_dim_, stride_, out, top, top + p_.group};
  }

  static void copy(const Accumulated& from, const Accumulated& to) {
    const auto rows = static_cast<std::size_t>(from.rows);
    std::memcpy(to.out, from.out, rows * static_cast<std::size_t>(from.stride) * sizeof(float));
    std::memcpy(to.top, from.top, rows * sizeof(float));
    std::memcpy(to.sum, from.sum, rows * sizeof(float));
  }

  const ops::AttentionParams& p_;
  core::Launch& launch_;
  std::int32_t first_, last_;
  std::int64_t v_dim_, stride_, threads_;
  std::int64_t heads_ = 1;   // key heads of a line, at most
  std::int64_t blocks_ = 1;  // lines of a token
  std::int64_t most_ = 1;    // parts that a wave has room for
  Place begin_{};            // of the wave
  int odd_ = 0;
  [[maybe_unused]] bool tiles_ = false;  // what multiplies; not where no kernel has any
};

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HYBRIDATTN_CPU_ATTENTION_SPLIT_INL_H_
