// F50: whatever is drafted and however much of it is accepted, afterwards all is as if nothing had
// been drafted: keys, values, windows, states, and the next step.
#include "tests/support/hybrid_world.h"

namespace hybridattn::testing {
namespace {

constexpr RowKind kPrefill = RowKind::kPrefill, kDecode = RowKind::kDecode, kPad = RowKind::kPad;
constexpr RowKind kVerify = RowKind::kVerify;
constexpr std::uint64_t kRequest = 3, kOther = 8, kWrong = 1000;

/// One request that drafts, another that decodes beside it, by replay or eagerly.
class Speculation {
 public:
  Speculation(Isa isa, bool graph) : world_(options(isa)), graph_(graph) {
    if (graph) {
      plan_ = *world_.backend->plan_graph({1, 2, 2, 24, 60});
      recorded_ = std::move(*Graph::record(*world_.context, [&] { return world_.run(*plan_); }));
    }
    AloneRequest* both[] = {&alone_, &other_};
    for (const int i : {0, 1}) {
      const BatchRow row{kPrefill, slots_[i], pages_[i], 0, 5};
      run({row}, {{i == 0 ? kRequest : kOther, 0},
                  {i == 0 ? kRequest : kOther, 1},
                  {i == 0 ? kRequest : kOther, 2},
                  {i == 0 ? kRequest : kOther, 3},
                  {i == 0 ? kRequest : kOther, 4}});
      both[i]->advance(kPrefill, 5);
    }
  }

  /// Drafts `parents.size()` tokens of which those on the path to `last` are the right ones.
  void round(const std::vector<std::int32_t>& parents, bool chain, std::int32_t last) {
    std::vector<std::int32_t> path;
    for (std::int32_t t = last; t >= 0; t = parents[static_cast<std::size_t>(t)]) {
      path.insert(path.begin(), t);
    }
    BatchRow draft{kVerify, slots_[0], pages_[0], computed_,
                   static_cast<std::int32_t>(parents.size())};
    if (!chain) draft.parents = parents;
    std::vector<Fed> fed{{kOther, other_computed_}, {kWrong, 0}};
    for (std::size_t i = 0; i < parents.size(); ++i) {
      const auto at = std::find(path.begin(), path.end(), static_cast<std::int32_t>(i));
      const bool right = at != path.end();
      fed.push_back({right ? kRequest : kWrong + i, computed_ + (right ? at - path.begin() : 0)});
    }
    const auto before = world_.slot_bytes(slots_[0]);
    const std::shared_ptr<Plan> plan = run(
        {{kDecode, slots_[1], pages_[1], other_computed_, 1}, {kPad, kPadIndex, {}, 0, 1}, draft},
        fed);
    EXPECT_EQ(world_.slot_bytes(slots_[0]), before) << "nothing is committed yet";
    EXPECT_EQ(world_.output(0), other_.advance(kDecode, 1)[0]);
    ++other_computed_;
    for (const double value : world_.output(1)) ASSERT_EQ(value, 0.0);
    for (const std::int32_t t : path) {
      const std::vector<double> got = world_.output(2 + t);
      const std::vector<double> wanted = alone_.advance(kDecode, 1)[0];
      if (chain) {
        ASSERT_EQ(got, wanted) << "token " << t << " is not what decoding it gives";
      } else {
        // A tree's keys lie at other places: the sums of attention are cut elsewhere.
        ASSERT_TRUE(near(got, wanted, {1e-6, 1e-5})) << "token " << t;
      }
    }
    ASSERT_OK(world_.backend->commit(*plan, std::vector<std::int32_t>{7, -9, last}));
    EXPECT_ERROR(world_.backend->commit(*plan, std::vector<std::int32_t>{0, 0, last}),
                 kFailedPrecondition, "committed already");
    computed_ += static_cast<std::int64_t>(path.size());
    expect_as_alone();
  }
  /// One plain step of the request.
  void decode() {
    run({{kDecode, slots_[0], pages_[0], computed_, 1}}, {{kRequest, computed_}});
    EXPECT_EQ(world_.output(0), alone_.advance(kDecode, 1)[0]);
    ++computed_;
    expect_as_alone();
  }

 private:
  struct Fed {
    std::uint64_t request;
    std::int64_t position;
  };
  static WorldOptions options(Isa isa) {
    WorldOptions o;
    o.isa = isa;
    o.kept = 20;
    return o;
  }
  std::shared_ptr<Plan> run(const std::vector<BatchRow>& rows, const std::vector<Fed>& fed) {
    world_.poison_tokens();
    for (std::size_t i = 0; i < fed.size(); ++i) {
      world_.feed(fed[i].request, fed[i].position, static_cast<std::int32_t>(i));
    }
    const auto batch = ForwardBatch::create(rows);
    EXPECT_TRUE(batch.ok()) << batch.status().message();
    if (graph_) {
      EXPECT_OK(world_.backend->replan(*plan_, *batch));
      EXPECT_OK(recorded_->replay());
      return plan_;
    }
    auto plan = world_.backend->plan(*batch);
    EXPECT_TRUE(plan.ok()) << plan.status().message();
    EXPECT_OK(world_.run(**plan));
    return *plan;
  }
  void expect_as_alone() {
    EXPECT_EQ(world_.slot_bytes(slots_[0]), alone_.state()) << "after " << computed_ << " tokens";
    EXPECT_EQ(world_.slot_bytes(slots_[1]), other_.state());
  }

  HybridWorld world_;
  bool graph_;
  std::shared_ptr<Plan> plan_;
  std::unique_ptr<Graph> recorded_;
  std::vector<std::int32_t> pages_[2]{{5, 4, 9, 2, 30, 31, 32, 33, 34, 35}, {7, 8, 10, 11, 12, 13}};
  std::int32_t slots_[2]{6, 0};
  AloneRequest alone_{kRequest, world_.options, 64}, other_{kOther, world_.options, 64};
  std::int64_t computed_ = 5, other_computed_ = 5;
};

class F50WrongStateCommitted : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Eager, F50WrongStateCommitted, ::testing::Values(false));
INSTANTIATE_TEST_SUITE_P(Graph, F50WrongStateCommitted, ::testing::Values(true));

TEST_P(F50WrongStateCommitted, EveryCountOfAChainTwiceThenAPlainStep) {
  const std::vector<std::int32_t> chain{-1, 0, 1, 2, 3};
  for (const Isa isa : supported_isas()) {
    for (std::int32_t accepted = 0; accepted <= 5; ++accepted) {
      Speculation speculation(isa, GetParam());
      speculation.round(chain, true, accepted - 1);
      speculation.round(chain, true, 4 - accepted);
      speculation.decode();
    }
  }
}

TEST_P(F50WrongStateCommitted, EveryPathOfATree) {
  const std::vector<std::int32_t> tree{-1, 0, 0, 1, 2, -1, 5, 4};
  for (std::int32_t last = -1; last < 8; ++last) {
    Speculation speculation(best_isa(), GetParam());
    speculation.round(tree, false, last);
    speculation.round(tree, false, 7);
    speculation.decode();
  }
}

TEST(F50Refusals, AreNamed) {
  WorldOptions options;
  options.kept = 4;
  HybridWorld world(options);
  const auto plan_of = [&](const BatchRow& row) {
    return world.backend->plan(*ForwardBatch::create({row}));
  };
  EXPECT_ERROR(plan_of({kVerify, 0, {0, 1}, 0, 5}).status(), kResourceExhausted, "5 tokens",
               "4 slots");
  auto plan = plan_of({kVerify, 0, {0, 1}, 0, 3});
  ASSERT_TRUE(plan.ok()) << plan.status().message();
  using Last = std::vector<std::int32_t>;
  EXPECT_ERROR(world.backend->commit(**plan, Last{3}), kOutOfRange, "row 0", "last_accepted is 3");
  EXPECT_ERROR(world.backend->commit(**plan, Last{-2}), kOutOfRange, "-2");
  EXPECT_ERROR(world.backend->commit(**plan, Last{1, 1}), kInvalidArgument, "2 entries", "1 rows");
  EXPECT_OK(world.backend->commit(**plan, Last{-1}));
  HybridWorld without;
  EXPECT_ERROR(without.backend->plan(*ForwardBatch::create({{kVerify, 0, {0}, 0, 2}})).status(),
               kResourceExhausted, "0 slots");
  const auto batch_of = [](BatchRow row, std::vector<std::int32_t> parents) {
    row.parents = std::move(parents);
    return ForwardBatch::create({row}).status();
  };
  EXPECT_ERROR(batch_of({kDecode, 0, {0}, 0, 1}, {-1}), kInvalidArgument, "parents",
               "must be verify");
  EXPECT_ERROR(batch_of({kVerify, 0, {0}, 0, 3}, {-1, 0}), kInvalidArgument, "2 parents", "3");
  EXPECT_ERROR(batch_of({kVerify, 0, {0}, 0, 2}, {-1, 1}), kInvalidArgument, "parent 1 of token 1");
  EXPECT_ERROR(batch_of({kVerify, 0, {0}, 0, 65}, std::vector<std::int32_t>(65, -1)),
               kInvalidArgument, "tree of 65", "64");
}

}  // namespace
}  // namespace hybridattn::testing
