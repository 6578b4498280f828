// The gated delta rule on the CPU: prefill in chunks, and decode steps of many sequences.
#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "bench/cpu/suites.h"
#include "bench/cpu/tensors.h"
#include "bench/cpu/timing.h"
#include "bench/median.h"
#include "bench/require.h"
#include "hybridattn/ops/gdn_prefill.h"
#include "hybridattn/ops/gdn_step.h"

namespace hybridattn::bench {
namespace {

constexpr std::int64_t kDim = 128;
constexpr double kSeconds = 0.5;

/// `rows` sequences of `length` tokens each.
struct Case {
  Case(DType dtype, std::int64_t key_heads, std::int64_t value_heads, std::int64_t num_rows,
       std::int64_t row_length)
      : heads(value_heads), rows(num_rows), length(row_length),
        q(dtype, {tokens(), key_heads, kDim}, -1, 1), k(dtype, {tokens(), key_heads, kDim}, -1, 1),
        v(dtype, {tokens(), heads, kDim}, -1, 1),
        log_decay(DType::kF32, {tokens(), heads}, -0.7f, 0),
        beta(DType::kF32, {tokens(), heads}, 0, 1),
        state(DType::kF32, {rows, heads, kDim, kDim}, -0.1f, 0.1f),
        out(dtype, {tokens(), heads, kDim}, 0, 1), slots(static_cast<std::size_t>(rows)),
        starts(slots.size()), lengths(slots.size(), static_cast<std::int32_t>(length)),
        computed(slots.size(), 64) {
    std::iota(slots.begin(), slots.end(), 0);
    for (std::size_t i = 0; i < starts.size(); ++i) {
      starts[i] = static_cast<std::int32_t>(i) * static_cast<std::int32_t>(length);
    }
  }

  std::int64_t tokens() const { return rows * length; }
  GdnArgs args() const {
    GdnArgs args;
    args.rows = {static_cast<std::int32_t>(rows), starts.data(), lengths.data(), slots.data(),
                 computed.data()};
    args.q = q.view();
    args.k = k.view();
    args.v = v.view();
    args.log_decay = log_decay.view();
    args.beta = beta.view();
    args.state = state.view();
    args.out = out.view();
    args.scale = 0.08838834764f;
    return args;
  }

  std::int64_t heads, rows, length;
  HostTensor q, k, v, log_decay, beta, state, out;
  std::vector<std::int32_t> slots, starts, lengths, computed;
};

/// The same call in float32 and token by token must agree with what is timed.
void check_prefill(Context& context, DType dtype) {
  const Case chunks(dtype, 2, 4, 1, 150), steps(DType::kF32, 2, 4, 1, 150);
  require_ok(gdn_prefill(context, chunks.args()));
  const GdnArgs all = steps.args();
  for (std::int32_t t = 0; t < 150; ++t) {
    GdnArgs args = all;
    const std::int32_t one = 1, slot = 0, some = 64 + t;
    args.rows = {1, &t, &one, &slot, &some};
    require_ok(gdn_step(context, args));
  }
  const double error = relative_error(chunks.out, steps.out, steps.out.view().num_elements());
  require(error < (dtype == DType::kF32 ? 1e-5 : 1e-2), "gdn-prefill: the answer is wrong");
}

/// A call that updates `bytes` of states, and its share of the rate of a plain update in place.
struct BesideUpdates {
  double median, best;  // seconds
  double share;
};

/// Both in turn, as the rate moves with the machine's neighbours from second to second: the share
/// is the median over the rounds.
template <class Body>
BesideUpdates time_beside_updates(Context& context, std::int64_t bytes, const Body& body) {
  constexpr int kRounds = 7;
  std::vector<double> medians, bests, shares;
  for (int round = 0; round < kRounds; ++round) {
    const Times t = time_calls(kSeconds / kRounds, body);
    medians.push_back(t.median);
    bests.push_back(t.best);
    shares.push_back(2.0 * static_cast<double>(bytes) / t.median / update_in_place(context, bytes));
  }
  return {median(medians), *std::min_element(bests.begin(), bests.end()), median(shares)};
}

}  // namespace

void run_gdn_prefill(Context& context, const Ceilings&, Report& report) {
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    check_prefill(context, dtype);
    for (const std::int64_t heads : {16, 32}) {
      for (const auto& [rows, length] :
           {std::pair<std::int64_t, std::int64_t>{1, 512}, {1, 2048}, {8, 128}}) {
        const Case x(dtype, 16, heads, rows, length);
        const Times t =
            time_calls(kSeconds, [&](std::int64_t) { require_ok(gdn_prefill(context, x.args())); });
        // Products of a chunk: two of keys, three with the state, two behind the solve.
        const double flop = 2.0 * static_cast<double>(x.tokens() * heads) *
                            (2 * 64 * kDim / 2 + 3 * kDim * kDim + 2 * 64 * kDim / 2);
        report.row({{"suite", std::string("gdn-prefill")},
                    {"kernel", std::string(context.last_kernel_target())},
                    {"dtype", std::string(dtype_name(dtype))},
                    {"hv", heads},
                    {"rows", rows},
                    {"length", length},
                    {"ms", t.median * 1e3, 2},
                    {"best_ms", t.best * 1e3, 2},
                    {"us_per_token", t.median * 1e6 / static_cast<double>(x.tokens()), 2},
                    {"gflop_per_s", flop / t.median / 1e9, 0}});
      }
    }
  }
}

void run_gdn_decode(Context& context, const Ceilings& ceilings, Report& report) {
  for (const std::int64_t heads : {16, 32}) {
    for (const std::int64_t rows : {1, 8, 32}) {
      const Case x(DType::kBF16, 16, heads, rows, 1);
      const double bytes = 2.0 * static_cast<double>(x.state.bytes());
      const BesideUpdates t = time_beside_updates(
          context, x.state.bytes(), [&](std::int64_t) { require_ok(gdn_step(context, x.args())); });
      report.row({{"suite", std::string("gdn-decode")},
                  {"kernel", std::string(context.last_kernel_target())},
                  {"hv", heads},
                  {"rows", rows},
                  {"us", t.median * 1e6, 1},
                  {"best_us", t.best * 1e6, 1},
                  {"state_gb_per_s", bytes / t.median / 1e9, 1},
                  {"of_update", t.share, 2},
                  {"of_copy", bytes / t.median / ceilings.copy, 2}});
    }
  }
}

}  // namespace hybridattn::bench
