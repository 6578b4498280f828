// Rows of a batch with pages of their own.
#pragma once

#include "hybridattn/forward_batch.h"

namespace hybridattn::testing {

/// Hands out pages in an order that is not theirs.
class PageRows {
 public:
  PageRows(std::int64_t page_size, std::int64_t pages, std::int64_t before_first)
      : page_size_(page_size), pages_(pages), next_(before_first) {}

  BatchRow row(RowKind kind, std::int64_t computed, std::int32_t tokens) {
    BatchRow out;
    out.kind = kind;
    out.computed = computed;
    out.new_tokens = tokens;
    const std::int64_t pages = (computed + tokens + page_size_ - 1) / page_size_;
    for (std::int64_t i = 0; i < pages && kind != RowKind::kPad; ++i) {
      out.pages.push_back(static_cast<std::int32_t>(next_ = (next_ + 7) % pages_));
    }
    return out;
  }

 private:
  std::int64_t page_size_, pages_, next_;
};

}  // namespace hybridattn::testing
