// F49: a result does not depend on traffic: neighbours, the order of rows and replays change no
// bit, and with chunk_invariant neither do the chunks of a prompt nor drafts.
#include "tests/support/hybrid_service.h"

namespace hybridattn::testing {
namespace {

constexpr RowKind kPrefill = RowKind::kPrefill, kDecode = RowKind::kDecode;
constexpr RowKind kVerify = RowKind::kVerify;
constexpr std::uint64_t kRequest = 11;
constexpr std::int32_t kPrompt = 300, kAll = 304;

WorldOptions long_options(Isa isa) {
  WorldOptions o;
  o.isa = isa;
  o.max_tokens = kAll;
  o.page_size = 16;
  o.pages = 24;
  o.slots = 2;
  o.kept = 8;
  o.chunk_invariant = true;
  return o;
}

/// A prompt in chunks of this size, then four tokens, drafted or not: outputs of every position and
/// the state at the end.
struct Course {
  std::vector<std::vector<double>> outputs;
  std::vector<Byte> state;
};

Course run_in_chunks(const WorldOptions& options, std::int32_t chunk, bool drafted) {
  HybridWorld world(options);
  std::vector<std::int32_t> pages;
  for (std::int32_t p = 0; p < options.pages; ++p) pages.push_back(options.pages - 1 - p);
  Course run;
  std::int64_t computed = 0;
  const auto step = [&](RowKind kind, std::int32_t tokens) {
    world.poison_tokens();
    for (std::int32_t i = 0; i < tokens; ++i) world.feed(kRequest, computed + i, i);
    const auto batch = ForwardBatch::create({{kind, 1, pages, computed, tokens}});
    auto plan = world.backend->plan(*batch);
    ASSERT_TRUE(plan.ok()) << plan.status().message();
    ASSERT_OK(world.run(**plan));
    for (std::int32_t i = 0; i < tokens; ++i) run.outputs.push_back(world.output(i));
    const std::vector<std::int32_t> all{tokens - 1};
    if (kind == kVerify) ASSERT_OK(world.backend->commit(**plan, all));
    computed += tokens;
  };
  while (computed < kPrompt) {
    step(kPrefill, std::min(chunk, kPrompt - static_cast<std::int32_t>(computed)));
  }
  if (drafted) step(kVerify, kAll - kPrompt);
  while (computed < kAll) step(kDecode, 1);
  run.state = world.slot_bytes(1);
  return run;
}

class F49DependsOnTraffic : public ::testing::TestWithParam<Isa> {};
INSTANTIATE_TEST_SUITE_P(Isas, F49DependsOnTraffic, ::testing::ValuesIn(supported_isas()),
                         [](const auto& param_info) {
                           return std::string(isa_name(param_info.param));
                         });

TEST_P(F49DependsOnTraffic, ChunksOnTheGridAndDraftsChangeNoBit) {
  const WorldOptions options = long_options(GetParam());
  const Course whole = run_in_chunks(options, kPrompt, false);
  for (const std::int32_t chunk : {64, 128, 192}) {
    const Course cut = run_in_chunks(options, chunk, false);
    EXPECT_EQ(cut.outputs, whole.outputs) << "chunks of " << chunk;
    EXPECT_EQ(cut.state, whole.state) << "chunks of " << chunk;
  }
  const Course drafted = run_in_chunks(options, 64, true);
  EXPECT_EQ(drafted.outputs, whole.outputs);
  EXPECT_EQ(drafted.state, whole.state);
}

TEST_P(F49DependsOnTraffic, OtherChunksStayWithinTheBound) {
  WorldOptions options = long_options(GetParam());
  const Course whole = run_in_chunks(options, kPrompt, false);
  options.chunk_invariant = false;
  for (const std::int32_t chunk : {1, 63, 65}) {
    const Course cut = run_in_chunks(options, chunk, false);
    ASSERT_EQ(cut.outputs.size(), whole.outputs.size());
    for (std::size_t i = 0; i < whole.outputs.size(); ++i) {
      ASSERT_TRUE(near(cut.outputs[i], whole.outputs[i], {3e-6, 3e-5}))
          << "chunks of " << chunk << ", position " << i;
    }
  }
}

TEST(F49ChunkInvariant, RefusesWhatIsOffTheGridAndStatesInBf16) {
  WorldOptions options;
  options.chunk_invariant = true;
  HybridWorld world(options);
  const auto off = *ForwardBatch::create({{kDecode, 0, {0}, 3, 1}, {kPrefill, 1, {1, 2}, 5, 2}});
  EXPECT_ERROR(world.backend->plan(off).status(), kInvalidArgument, "row 1 (prefill) starts at 5",
               "multiple of 64", "chunk_invariant");
  const auto graph = *world.backend->plan_graph({1, 1, 0, 8, 8});
  EXPECT_ERROR(world.backend->replan(*graph, off), kInvalidArgument, "row 1 (prefill) starts at 5");
  EXPECT_TRUE(world.context->batch_invariant()) << "the one implies the other";
  Buffer recurrent(DType::kBF16, {2, 4, 32, 16}), conv(DType::kF32, {2, 192, 3});
  EXPECT_ERROR(GDNAttnBackend::create(*world.context, {{recurrent.view()}, {conv.view()}}).status(),
               kUnsupported, "bf16 at rest", "f32 for chunk_invariant");
}

/// One request alone, among eight in any order, eager and replayed. HybridService holds each row to
/// its run alone, bit by bit.
TEST_P(F49DependsOnTraffic, NeighboursAndReplaysChangeNoBit) {
  for (const bool graph : {false, true}) {
    WorldOptions options;
    options.isa = GetParam();
    options.slots = 8;
    options.pages = 8 * 8;
    options.threads = 2;
    HybridService service(options);
    if (graph) service.record({{8, 8, 0, 64, 64}});
    Random random(5);
    std::vector<HybridService::Part> parts;
    for (std::uint64_t r = 0; r < 8; ++r) {
      std::vector<std::int32_t> pages;
      for (std::int32_t p = 0; p < 8; ++p) pages.push_back(static_cast<std::int32_t>(r) + 8 * p);
      service.admit(r, static_cast<std::int32_t>(7 - r), pages);
      parts.push_back({r, kPrefill, static_cast<std::int32_t>(random.integer(1, 7))});
    }
    service.step(parts);
    for (int i = 0; i < 6; ++i) {
      std::shuffle(parts.begin(), parts.end(), random.engine());
      for (auto& part : parts) {
        const bool prompt = random.integer(0, 2) == 0;
        part.kind = prompt ? kPrefill : kDecode;
        part.tokens = prompt ? static_cast<std::int32_t>(random.integer(0, 4)) : 1;
      }
      service.step(parts);
    }
    EXPECT_EQ(service.replays, graph ? 7 : 0);
  }
}

}  // namespace
}  // namespace hybridattn::testing
