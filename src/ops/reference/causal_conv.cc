#include <cmath>
#include <vector>

#include "src/core/formulas.h"
#include "src/ops/reference/element.h"
#include "src/ops/reference/reference.h"

namespace hybridattn::reference {

namespace {

/// Input of channel c, `back` tokens before the row's first new token (1 = the last one of the
/// state).
double past(const CausalConvArgs& args, std::int32_t row, std::int64_t c, std::int64_t back) {
  if (args.rows.computed[row] == 0) return 0;
  return load(args.state, args.rows.slot[row], c, args.state.dim(2) - back);
}

void run_channel(const CausalConvArgs& args, std::int32_t row, std::int64_t c) {
  const std::int64_t width = args.weight.dim(1);
  const std::int64_t length = args.rows.length[row];
  const std::int64_t start = args.rows.start[row];
  const auto in = [&](std::int64_t i) {
    return i < 0 ? past(args, row, c, -i) : load(args.x, start + i, c);
  };
  for (std::int64_t t = 0; t < length; ++t) {
    double sum = 0;
    for (std::int64_t w = 0; w < width; ++w)
      sum += load(args.weight, c, w) * in(t - (width - 1) + w);
    store(args.out, args.silu ? sum * core::sigmoid(sum) : sum, start + t, c);
  }
  const auto store_window = [&](std::int64_t tokens, std::int32_t slot) {
    std::vector<double> window;
    for (std::int64_t i = tokens - (width - 1); i < tokens; ++i) window.push_back(in(i));
    for (std::int64_t i = 0; i < width - 1; ++i) {
      store(args.state, window[static_cast<std::size_t>(i)], slot, c, i);
    }
  };
  for (std::int32_t i = 0; i < args.checkpoints.count; ++i) {
    const bool mine = args.checkpoints.row[i] == row && args.checkpoints.slot[i] != kPadIndex;
    if (mine) store_window(args.checkpoints.tokens[i], args.checkpoints.slot[i]);
  }
  store_window(length, args.rows.slot[row]);
}

}  // namespace

void causal_conv(const CausalConvArgs& args) {
  for (std::int32_t row = 0; row < args.rows.count; ++row) {
    if (args.rows.length[row] == 0) continue;
    for (std::int64_t c = 0; c < args.x.dim(1); ++c) {
      if (args.rows.slot[row] != kPadIndex) {
        run_channel(args, row, c);
        continue;
      }
      for (std::int32_t t = 0; t < args.rows.length[row]; ++t) {
        store(args.out, 0, args.rows.start[row] + t, c);
      }
    }
  }
}

}  // namespace hybridattn::reference
