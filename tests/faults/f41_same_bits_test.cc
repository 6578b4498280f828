// F41: a thousand runs of one step on several threads give the same bits.
#include "tests/support/hybrid_world.h"

namespace hybridattn::testing {
namespace {

TEST(F41Races, AThousandRunsAreOne) {
  WorldOptions options;
  options.threads = 4;  // more than the machine may have: workers come and go
  HybridWorld world(options);
  const auto batch = ForwardBatch::create({{RowKind::kPrefill, 2, {0, 1, 2, 3, 4}, 0, 18},
                                           {RowKind::kDecode, 5, {6}, 0, 1},
                                           {RowKind::kPrefill, 0, {7, 8}, 0, 7}});
  ASSERT_TRUE(batch.ok());
  const auto plan = *world.backend->plan(*batch);
  std::vector<double> first;
  for (int run = 0; run < 1000; ++run) {
    world.poison_tokens();
    for (std::int32_t t = 0; t < 26; ++t) world.feed(9, t, t);
    ASSERT_OK(world.run(*plan));
    std::vector<double> all;
    for (std::int32_t t = 0; t < 26; ++t) {
      const std::vector<double> out = world.output(t);
      all.insert(all.end(), out.begin(), out.end());
    }
    if (run == 0) first = all;
    ASSERT_EQ(all, first) << "run " << run;
  }
}

}  // namespace
}  // namespace hybridattn::testing
