// F31: no gate of the real range, nor any other input, makes the chunked form overflow.
#include <limits>

#include "tests/faults/gdn_case.h"

namespace hybridattn::testing {
namespace {

const std::vector<double>& real_range() {
  static const std::vector<double> gates{0, -1e-4, -2.5, -5, -20, -316};
  return gates;
}

void run(Context& context, const std::vector<double>& gates) {
  GdnCase::Dims dims;
  dims.tokens = static_cast<std::int64_t>(gates.size()) / dims.hv;
  GdnCase c(dims);
  c.set_gates(gates);
  c.rows.add(0, static_cast<std::int32_t>(dims.tokens), 0, 4);
  ASSERT_OK(gdn_prefill(context, c.args(Source::kKernel)));
  c.run_oracle();
  c.expect_as_oracle(1e-6, 1e-5);
}

TEST(F31OverflowInChunkDecay, ConstantGatesOverOneToThreeChunks) {
  for (const auto& context : test_contexts()) {
    for (const double gate : real_range()) {
      for (const std::size_t tokens : {1, 63, 64, 65, 127, 130, 192}) {
        run(*context, std::vector<double>(tokens * 4, gate));
      }
    }
  }
}

TEST(F31OverflowInChunkDecay, MixedGates) {
  for (const auto& context : test_contexts()) {
    for (std::uint64_t seed = 0; seed < 4; ++seed) {
      Random random(seed);
      std::vector<double> gates;
      for (int i = 0; i < 150 * 4; ++i) {
        gates.push_back(real_range()[static_cast<std::size_t>(random.integer(0, 5))]);
      }
      run(*context, gates);
    }
  }
}

TEST(F31OverflowInChunkDecay, GatesOutsideOfTheRangeAreClamped) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const auto& context : test_contexts()) {
    for (const bool step : {false, true}) {
      for (const double gate : {1.0, 500.0, 1e30, infinity, -1e5, -1e30, -infinity, std::nan("")}) {
        GdnCase::Dims dims;
        dims.tokens = step ? 1 : 70;
        GdnCase c(dims);
        std::vector<double> gates(static_cast<std::size_t>(dims.tokens * dims.hv), -0.01);
        gates[step ? 1 : 33] = gate;
        c.set_gates(gates);
        c.rows.add(0, static_cast<std::int32_t>(dims.tokens), 0, 4);
        const GdnArgs args = c.args(Source::kKernel);
        ASSERT_OK(step ? gdn_step(*context, args) : gdn_prefill(*context, args));
        c.run_oracle();
        c.expect_as_oracle(1e-6, 1e-5);
      }
    }
  }
}

}  // namespace
}  // namespace hybridattn::testing
