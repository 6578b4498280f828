// Random schedules, eager against replayed against alone. HYBRIDATTN_TEST_STEPS says how many
// steps; scripts/test --full asks for 100,000.
#include <cstdlib>
#include <thread>

#include "tests/support/random_schedule.h"

namespace hybridattn::testing {
namespace {

std::int64_t steps_wanted() {
  const char* given = std::getenv("HYBRIDATTN_TEST_STEPS");
  return given != nullptr ? std::atoll(given) : 1500;
}

/// A schedule that met none of something would not have tested it.
void expect_variety(const ScheduleCounts& c) {
  EXPECT_GT(c.finished, c.steps / 200);
  EXPECT_GT(c.cancelled, c.steps / 500);
  EXPECT_GT(c.preempted, c.steps / 500);
  EXPECT_GT(c.failed, c.steps / 200);
  EXPECT_GT(c.replays, c.steps * 9 / 10);
  EXPECT_GT(c.recomputed, c.steps / 50);
  EXPECT_GT(c.accepted, c.steps / 20);
  EXPECT_GT(c.drafted, c.accepted + c.steps / 20);
}

TEST(RandomSchedules, AgreeToTheBit) {
  RandomSchedule schedule(1, WorldOptions{});
  schedule.run(steps_wanted());
  schedule.drain();
  if (!HasFailure()) expect_variety(schedule.counts());
}

TEST(RandomSchedules, WithEveryOptionOn) {
  WorldOptions options;
  options.window = 7;
  options.logit_cap = 2;
  options.sinks = true;
  options.kv_dtype = DType::kF8E4M3;
  options.k_scale = 0.5f;
  options.state_dtype = DType::kBF16;
  options.channel_decay = true;
  options.dtype = DType::kBF16;
  options.page_size = 3;
  RandomSchedule schedule(2, options);
  schedule.run(steps_wanted() / 10);
  schedule.drain();
}

/// Heads as models have them, which kernels of their own serve.
TEST(RandomSchedules, WithTheHeadsOfModels) {
  WorldOptions options;
  options.dim = options.v_dim = 64;
  options.gdn_k_dim = options.gdn_v_dim = 128;
  options.dtype = options.kv_dtype = DType::kBF16;
  RandomSchedule schedule(5, options);
  schedule.run(steps_wanted() / 10);
  schedule.drain();
}

TEST(RandomSchedules, InTwoContextsAtOnce) {
  WorldOptions options;
  options.threads = 2;
  RandomSchedule one(3, options), other(4, options);
  const std::int64_t steps = steps_wanted() / 2;
  std::thread beside([&] { other.run(steps); });
  one.run(steps);
  beside.join();
  one.drain();
  other.drain();
  EXPECT_EQ(one.counts().steps, steps);
  EXPECT_EQ(other.counts().steps, steps);
}

}  // namespace
}  // namespace hybridattn::testing
