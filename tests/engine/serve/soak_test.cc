// An engine at full load for as long as one likes: nothing leaks, and what is said does not drift.
// HYBRIDATTN_SOAK_SECONDS in the environment, a second where it is not there.
#include <chrono>
#include <cstdlib>

#include "tests/engine/serve/engine_test_support.h"

namespace hybridattn::engine {
namespace {

double soak_seconds() {
  const char* const text = std::getenv("HYBRIDATTN_SOAK_SECONDS");
  return text == nullptr ? 1 : std::atof(text);
}

/// Some prompt, greedy or sampled; always the same one for an index.
Request request_of(unsigned index) {
  std::mt19937 generator(index);
  Request request = make_request(random_ids(1 + generator() % 150, 256, index),
                                 1 + static_cast<int>(generator() % 60));
  request.ignore_eos = generator() % 2 == 0;
  if (generator() % 2 == 0) request.sampling = {.temperature = 0.7f, .top_p = 0.9f, .seed = index};
  return request;
}

TEST(Soak, NothingLeaksAndNothingDrifts) {
  constexpr unsigned kKinds = 40;  // of requests, which come again and again
  EngineSetup setup;
  setup.checkpoint = "tiny-model";
  setup.max_batch = 8;
  setup.chunk = 64;
  setup.page_size = 4;
  setup.tokens = 220;
  setup.chunk_invariant = true;
  setup.memory = memory_of(setup, 200);  // of 440: pages run out
  const auto engine = make_engine(setup);
  const std::int32_t pages = engine->free_pages(), slots = engine->free_slots();
  std::map<unsigned, Output> first;
  std::map<std::uint64_t, unsigned> running;
  Outputs outputs;
  std::mt19937 generator(1);
  std::int64_t finished = 0, cancelled = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(soak_seconds());
  while (std::chrono::steady_clock::now() < end || !engine->idle()) {
    while (running.size() < 12 && std::chrono::steady_clock::now() < end) {
      const auto kind = static_cast<unsigned>(generator() % kKinds);
      running[submit_ok(*engine, request_of(kind))] = kind;
    }
    if (generator() % 30 == 0 && !running.empty()) {
      cancelled += engine->cancel(running.begin()->first).ok() ? 1 : 0;
    }
    step_ok(*engine, outputs);
    ASSERT_TRUE(engine->check().ok()) << engine->check().message();
    for (auto it = running.begin(); it != running.end();) {
      const Output& said = outputs[it->first];
      if (said.finish == Finish::kNone) {
        ++it;
        continue;
      }
      if (said.finish != Finish::kCancelled) {
        const auto [known, is_new] = first.emplace(it->second, said);
        ASSERT_EQ(said, known->second) << "request of kind " << it->second;
        finished += is_new ? 0 : 1;
      }
      outputs.erase(it->first);
      it = running.erase(it);
    }
  }
  EXPECT_GT(finished, 0) << "no request came twice";
  EXPECT_EQ(engine->free_pages(), pages);
  EXPECT_EQ(engine->free_slots(), slots);
  RecordProperty("finished", std::to_string(finished));
  RecordProperty("cancelled", std::to_string(cancelled));
  RecordProperty("preemptions", std::to_string(engine->stats().preemptions));
}

}  // namespace
}  // namespace hybridattn::engine
