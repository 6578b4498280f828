// F32: the chunked form against the recurrence with a non-zero state, weak decay and many chunks,
// where a transposed correction shows.
#include "tests/faults/gdn_case.h"

namespace hybridattn::testing {
namespace {

TEST(F32TransposedCorrection, ChunkedIsSequential) {
  for (const auto& context : test_contexts()) {
    for (const std::int64_t tokens : {65, 128, 300}) {
      GdnCase::Dims dims;
      dims.tokens = tokens;
      dims.k = 32;
      dims.v = 48;
      GdnCase c(dims);
      c.set_token_gates(std::vector<double>(static_cast<std::size_t>(tokens), -0.01));
      c.rows.add(0, static_cast<std::int32_t>(tokens), 0, 100);
      ASSERT_OK(gdn_prefill(*context, c.args(Source::kKernel)));
      c.run_oracle();
      c.expect_as_oracle(1e-6, 1e-5);
    }
  }
}

}  // namespace
}  // namespace hybridattn::testing
