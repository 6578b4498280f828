#include <algorithm>
#include <cmath>
#include <vector>

#include "src/core/formulas.h"
#include "src/ops/reference/element.h"
#include "src/ops/reference/reference.h"

namespace hybridattn::reference {

namespace {

/// Element i of key (or value) j of a row, paged or dense.
double kv_element(const AttentionArgs& args, const ConstTensorView& view, std::int32_t row,
                  std::int64_t j, std::int64_t head, std::int64_t i) {
  const std::int64_t first = args.rows.kv_start[row];
  if (view.rank == 3) return load(view, first + j, head, i);
  const std::int64_t page_size = view.dim(1);
  return load(view, args.rows.pages[first + j / page_size], j % page_size, head, i);
}

/// The scale of a cache's head.
double scale_of(double all, const ConstTensorView& each, std::int64_t head) {
  return each.empty() ? all : load(each, head);
}

double logit(const AttentionArgs& args, std::int32_t row, std::int64_t token, std::int64_t head,
             std::int64_t j, std::int64_t kv_head) {
  double s = 0;
  for (std::int64_t i = 0; i < args.q.dim(2); ++i) {
    s += load(args.q, token, head, i) * kv_element(args, args.k, row, j, kv_head, i);
  }
  s *= args.options.scale * scale_of(args.options.k_scale, args.options.k_scales, kv_head);
  const double cap = args.options.logit_cap;
  return cap > 0 ? cap * std::tanh(s / cap) : s;
}

/// How many tokens a token of a tree follows, itself counted.
std::int64_t depth_of(const AttentionArgs& args, std::int32_t row, std::int64_t query) {
  std::int64_t depth = 0;
  for (std::int64_t i = query; i >= 0; i = args.rows.parents[args.rows.q_start[row] + i]) ++depth;
  return depth;
}

bool is_tree(const AttentionArgs& args, std::int32_t row) {
  return args.rows.parents != nullptr && args.rows.parents[args.rows.q_start[row]] != kChain;
}

/// The keys that a query sees, but for those of other branches of a tree.
core::KeyRange range_of(const AttentionArgs& args, std::int32_t row, std::int64_t query) {
  const core::KeyRange seen =
      core::visible_keys(query, args.rows.q_length[row], args.rows.kv_length[row],
                         args.options.causal, args.options.window);
  if (!is_tree(args, row)) return seen;
  const std::int64_t first_new = args.rows.kv_length[row] - args.rows.q_length[row];
  const std::int64_t window = args.options.window;
  const std::int64_t oldest = first_new + depth_of(args, row, query) - window;
  return {window > 0 && oldest > 0 ? oldest : 0, seen.end};
}

/// Which of a row's new tokens a query may see: all, or those that it follows in a tree and itself.
std::vector<bool> tree_path(const AttentionArgs& args, std::int32_t row, std::int64_t query) {
  const std::int32_t start = args.rows.q_start[row];
  const bool tree = is_tree(args, row);
  const std::int64_t window = args.options.window;
  std::vector<bool> path(static_cast<std::size_t>(args.rows.q_length[row]), !tree);
  std::int64_t distance = 0;
  for (std::int64_t i = query; tree && i >= 0; i = args.rows.parents[start + i]) {
    path[static_cast<std::size_t>(i)] = window < 0 || distance++ < window;
  }
  return path;
}

void run_query(const AttentionArgs& args, std::int32_t row, std::int64_t query, std::int64_t head) {
  const std::int64_t kv_head =
      core::key_head(head, args.q.dim(1) / args.k.dim(args.k.rank == 3 ? 1 : 2));
  const std::int64_t token = args.rows.q_start[row] + query;
  const core::KeyRange seen = range_of(args, row, query);
  const std::vector<bool> on_path = tree_path(args, row, query);
  const std::int64_t first_new = args.rows.kv_length[row] - args.rows.q_length[row];
  std::vector<double> logits;
  double top = -INFINITY;
  for (std::int64_t j = seen.begin; j < seen.end; ++j) {
    if (j >= first_new && !on_path[static_cast<std::size_t>(j - first_new)]) {
      logits.push_back(-INFINITY);
      continue;
    }
    logits.push_back(logit(args, row, token, head, j, kv_head));
    top = std::fmax(top, logits.back());
  }
  if (!args.sinks.empty()) top = std::fmax(top, load(args.sinks, head));
  double sum = args.sinks.empty() ? 0.0 : std::exp(load(args.sinks, head) - top);
  for (const double value : logits) sum += std::exp(value - top);
  const double v_scale = scale_of(args.options.v_scale, args.options.v_scales, kv_head);
  const bool blind =
      std::all_of(logits.begin(), logits.end(), [](double value) { return std::isinf(value); });
  for (std::int64_t i = 0; i < args.out.dim(2); ++i) {
    double o = 0;
    for (std::size_t n = 0; n < logits.size(); ++n) {
      const std::int64_t j = seen.begin + static_cast<std::int64_t>(n);
      if (std::isinf(logits[n])) continue;
      o += std::exp(logits[n] - top) / sum * kv_element(args, args.v, row, j, kv_head, i);
    }
    o *= v_scale;
    if (!args.gate.empty() && !blind) o *= core::sigmoid(load(args.gate, token, head, i));
    store(args.out, o, token, head, i);
  }
  if (!args.lse.empty()) store(args.lse, blind ? -INFINITY : top + std::log(sum), token, head);
}

}  // namespace

void attention(const AttentionArgs& args) {
  for (std::int32_t row = 0; row < args.rows.count; ++row) {
    for (std::int64_t query = 0; query < args.rows.q_length[row]; ++query) {
      for (std::int64_t head = 0; head < args.q.dim(1); ++head) run_query(args, row, query, head);
    }
  }
}

void merge_states(const MergeStatesArgs& args) {
  for (std::int64_t t = 0; t < args.out.dim(0); ++t) {
    for (std::int64_t h = 0; h < args.out.dim(1); ++h) {
      const double a = load(args.lse_a, t, h);
      const double b = load(args.lse_b, t, h);
      const double top = std::fmax(a, b);
      const double wa = std::isinf(a) ? 0.0 : std::exp(a - top);
      const double wb = std::isinf(b) ? 0.0 : std::exp(b - top);
      for (std::int64_t i = 0; i < args.out.dim(2); ++i) {
        double o = 0;
        if (wa > 0) o += wa / (wa + wb) * load(args.out_a, t, h, i);
        if (wb > 0) o += wb / (wa + wb) * load(args.out_b, t, h, i);
        store(args.out, o, t, h, i);
      }
      if (!args.lse.empty()) {
        store(args.lse, wa + wb > 0 ? top + std::log(wa + wb) : -INFINITY, t, h);
      }
    }
  }
}

}  // namespace hybridattn::reference
