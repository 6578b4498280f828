// The causal convolution on the CPU: a prompt, and decode steps of several sequences.
#include <numeric>
#include <string>
#include <vector>

#include "bench/cpu/suites.h"
#include "bench/cpu/tensors.h"
#include "bench/cpu/timing.h"
#include "bench/require.h"
#include "hybridattn/ops/causal_conv.h"

namespace hybridattn::bench {
namespace {

constexpr std::int64_t kChannels = 6144;
constexpr double kSeconds = 0.3;

/// A call of `rows` rows of `length` tokens; the last channel of the last token is checked.
Times time_conv(Context& context, std::int64_t rows, std::int64_t length) {
  const std::int64_t tokens = rows * length;
  const HostTensor x(DType::kBF16, {tokens, kChannels}, -1, 1);
  const HostTensor weight(DType::kF32, {kChannels, 4}, -1, 1);
  const HostTensor state(DType::kF32, {rows, kChannels, 3}, -1, 1);
  const HostTensor out(DType::kBF16, {tokens, kChannels}, 0, 1);
  std::vector<std::int32_t> slots(static_cast<std::size_t>(rows)), starts(slots.size());
  const std::vector<std::int32_t> lengths(slots.size(), static_cast<std::int32_t>(length));
  const std::vector<std::int32_t> computed(slots.size(), 9);
  std::iota(slots.begin(), slots.end(), 0);
  for (std::size_t i = 0; i < slots.size(); ++i) {
    starts[i] = static_cast<std::int32_t>(i) * lengths[0];
  }
  const CausalConvArgs args{{static_cast<std::int32_t>(rows), starts.data(), lengths.data(),
                             slots.data(), computed.data()},
                            x.view(),
                            weight.view(),
                            state.view(),
                            out.view(),
                            true};
  double sum = 0;
  const std::int64_t channel = kChannels - 1, first = (rows - 1) * length;
  for (std::int64_t tap = 0; tap < 4; ++tap) {
    const std::int64_t t = tokens - 1 - 3 + tap;
    const double value = t >= first
                             ? x.at(t * kChannels + channel)
                             : state.at(((rows - 1) * kChannels + channel) * 3 + t - first + 3);
    sum += weight.at(channel * 4 + tap) * value;
  }
  require_ok(causal_conv(context, args));
  const double got = out.at((tokens - 1) * kChannels + channel);
  require(std::abs(got - sum / (1 + std::exp(-sum))) < 1e-2, "conv: the answer is wrong");
  return time_calls(kSeconds, [&](std::int64_t) { require_ok(causal_conv(context, args)); });
}

}  // namespace

void run_conv(Context& context, const Ceilings& ceilings, Report& report) {
  for (const auto& [rows, length] :
       {std::pair<std::int64_t, std::int64_t>{1, 512}, {1, 2048}, {1, 1}, {8, 1}}) {
    const Times t = time_conv(context, rows, length);
    const double bytes =
        static_cast<double>(rows * kChannels) * (4.0 * static_cast<double>(length) + 2 * 3 * 4);
    report.row({{"suite", std::string("conv")},
                {"kernel", std::string(context.last_kernel_target())},
                {"rows", rows},
                {"length", length},
                {"us", t.median * 1e6, 1},
                {"best_us", t.best * 1e6, 1},
                {"gb_per_s", bytes / t.median / 1e9, 1},
                {"of_copy", bytes / t.median / ceilings.copy, 2}});
  }
}

}  // namespace hybridattn::bench
