// Which tokens of a batch are real and which are padding.
#pragma once

#include <cstdint>
#include <vector>

#include "hybridattn/forward_batch.h"
#include "hybridattn/tensor.h"

namespace hybridattn::backend {

/// Half-open range of tokens in the flat stream.
struct TokenRun {
  std::int64_t begin;
  std::int64_t end;
};

struct TokenRuns {
  std::vector<TokenRun> real;       ///< maximal runs of tokens of rows that are not pad
  std::vector<std::int32_t> pads;   ///< tokens of pad rows
};

inline TokenRuns token_runs(const ForwardBatch& batch) {
  TokenRuns runs;
  for (std::int32_t r = 0; r < batch.num_rows(); ++r) {
    const BatchRow& row = batch.rows()[static_cast<std::size_t>(r)];
    const std::int32_t begin = batch.token_start(r);
    const std::int32_t end = begin + row.new_tokens;
    if (row.kind == RowKind::kPad) {
      for (std::int32_t t = begin; t < end; ++t) runs.pads.push_back(t);
    } else if (begin < end) {
      if (!runs.real.empty() && runs.real.back().end == begin) {
        runs.real.back().end = end;
      } else {
        runs.real.push_back({begin, end});
      }
    }
  }
  return runs;
}

/// Tokens [begin, end) of a view whose first dimension is tokens.
template <class View>
View slice_tokens(View view, const TokenRun& run) {
  if (view.empty()) return view;
  View part = view;
  part.shape[0] = run.end - run.begin;
  using Byte = std::conditional_t<std::is_same_v<View, TensorView>, std::byte, const std::byte>;
  part.data = static_cast<Byte*>(view.data) +
              run.begin * view.stride(0) * static_cast<std::int64_t>(dtype_size(view.dtype));
  return part;
}

}  // namespace hybridattn::backend
