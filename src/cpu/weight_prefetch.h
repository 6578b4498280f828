// Fetches weights ahead of their use.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hybridattn::cpu {

/// Fetches a line that will be written, for this processor alone: gcc makes a fetch to read of it
/// unless all processors that it compiles for have the other, which those that have not pass over.
inline void prefetch_to_write(const std::byte* line) {
#if defined(__x86_64__)
  asm volatile("prefetchw %0" : : "m"(*line));
#else
  __builtin_prefetch(line, 1, 3);
#endif
}

/// Fetches the next rows of weights into the second-level cache, in the order in which they lie in
/// memory, a few lines at each call: the processor does not follow sixteen rows that are a page or
/// less long.
class WeightPrefetch {
 public:
  static constexpr std::int64_t kLineBytes = 64;

  WeightPrefetch() = default;
  /// `bytes` from each of `rows` rows that lie `stride` bytes apart, `lines` at each call.
  WeightPrefetch(const std::byte* first, std::int64_t stride, std::int64_t rows, std::int64_t bytes,
                 std::int64_t lines)
      : next_(first), row_lines_(bytes / kLineBytes), skip_(stride - row_lines_ * kLineBytes),
        left_(row_lines_), rows_(row_lines_ > 0 ? rows : 0), lines_(lines) {}
  void call() {
    if (rows_ == 0) return;
    if (lines_ <= left_) {
      for (std::int64_t i = 0; i < lines_; ++i) __builtin_prefetch(next_ + i * kLineBytes, 0, 2);
      next_ += lines_ * kLineBytes;
      left_ -= lines_;
      if (left_ == 0) next_row();
      return;
    }
    for (std::int64_t i = 0; i < lines_ && rows_ > 0; ++i) {
      __builtin_prefetch(next_, 0, 2);
      next_ += kLineBytes;
      if (--left_ == 0) next_row();
    }
  }

 private:
  void next_row() {
    left_ = row_lines_;
    next_ += skip_;
    --rows_;
  }

  const std::byte* next_ = nullptr;
  std::int64_t row_lines_ = 0;
  std::int64_t skip_ = 0;  // from the end of a row's lines to the next row's
  std::int64_t left_ = 0;  // lines of this row
  std::int64_t rows_ = 0;
  std::int64_t lines_ = 0;
};

}  // namespace hybridattn::cpu
