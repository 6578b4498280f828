// F37: the triangular solve of the chunked form with nearly parallel keys and beta near 1, where
// its matrix is worst.
#include "tests/faults/gdn_case.h"

namespace hybridattn::testing {
namespace {

TEST(F37LowPrecisionInverse, KeysThatHardlyDiffer) {
  for (const auto& context : test_contexts()) {
    for (const double spread : {1e-1, 1e-2, 1e-3, 0.0}) {
      GdnCase::Dims dims;
      dims.tokens = 130;
      dims.slots = 1;
      GdnCase c(dims);
      Random random(3);
      const std::int64_t count = dims.tokens * dims.hk * dims.k;
      const std::vector<double> direction = random.values(dims.hk * dims.k, -1, 1);
      std::vector<double> keys = random.values(count, -spread, spread);
      for (std::int64_t i = 0; i < count; ++i) {
        keys[static_cast<std::size_t>(i)] +=
            direction[static_cast<std::size_t>(i % (dims.hk * dims.k))];
      }
      c.k = Operand(DType::kF32, {dims.tokens, dims.hk, dims.k}, Layout::kDense, keys);
      const auto gates = static_cast<std::size_t>(dims.tokens * dims.hv);
      c.beta = Operand(DType::kF32, {dims.tokens, dims.hv}, Layout::kDense,
                       std::vector<double>(gates, 0.999));
      c.set_gates(std::vector<double>(gates, -1e-3));
      c.rows.add(0, 130, 0, 9);
      ASSERT_OK(gdn_prefill(*context, c.args(Source::kKernel)));
      c.run_oracle();
      SCOPED_TRACE(spread);
      c.expect_as_oracle(2e-6, 2e-5);
    }
  }
}

}  // namespace
}  // namespace hybridattn::testing
