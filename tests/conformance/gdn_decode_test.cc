// Conformance of the fused step of a Gated DeltaNet layer.
#include "tests/conformance/gdn_layer_problem.h"
#include "tests/support/canary.h"

namespace hybridattn::testing {
namespace {

class ConformanceGdnDecode : public Conformance {};

INSTANTIATE_TEST_SUITE_P(Table, ConformanceGdnDecode, ::testing::ValuesIn(all_setups()),
                         setup_name);
INSTANTIATE_TEST_SUITE_P(Cuda, ConformanceGdnDecode, ::testing::ValuesIn(cuda_setups()),
                         setup_name);

/// Rows out of order, a fresh one, an empty one, padding; tokens and slots that nobody names.
Rows some_rows() {
  Rows rows;
  rows.add(3, 1, 4, 9);
  rows.add(1, 1, 0, 1);
  rows.add(5, 0, 1, 4);
  rows.add(6, 1, kPadIndex, 0);
  rows.add(2, 1, 6, 0);
  rows.add(4, 1, 3, 100);
  return rows;
}

TEST_P(ConformanceGdnDecode, IsTheOpsInOne) {
  for (const GdnLayerCase& c : gdn_layer_cases(on_cuda())) {
    const Rows rows = some_rows();
    GdnLayerProblem problem(random, dtype(), c, rows, 8);
    Canary states(problem.state.kernel()), windows(problem.windows.kernel());
    states.allow_each(rows.slots());
    windows.allow_each(rows.slots());
    run(gdn_decode, reference::gdn_decode, [&](Source s) { return problem.args(s, c); });
    const DType least = c.state == DType::kBF16 ? c.state : dtype();
    expect_conforms(problem.out, rows.tokens(), kGdnDecodeBound, least);
    expect_conforms(problem.state, rows.slots(), kGdnDecodeBound, least);
    expect_conforms(problem.windows, rows.slots(), kStoreKvBound, dtype());
    EXPECT_TRUE(states.intact());
    EXPECT_TRUE(windows.intact());
    for (const double zero : problem.out.kernel().gather(rows.tokens(true))) EXPECT_EQ(zero, 0.0);
    for (const std::int64_t t : {0, 5, 7}) EXPECT_TRUE(problem.out.kernel().is_poison({t}));
  }
}

}  // namespace
}  // namespace hybridattn::testing
