// Weights as a GPU has them, joined and in the type of the products, and next tokens found where
// the logits lie: the same model. It needs no GPU, as a context's device may be the CPU.
#include <algorithm>

#include "engine/serve/sampler.h"
#include "tests/engine/checkpoint/checkpoint_test_support.h"
#include "tests/engine/model/model_service.h"

namespace hybridattn::engine {
namespace {

constexpr std::int32_t kRows = 3;

/// A model whose weights are moved or left where they are.
class Model : public ModelService {
 public:
  Model(const char* checkpoint, DType dtype, bool moved)
      : ModelService({.checkpoint = checkpoint, .dtype = dtype, .rows = kRows, .moved = moved}) {
    or_throw(model_->reserve(256));
    for (int r = 0; r < kRows; ++r) rows_.push_back(or_throw(table_->open(100)));
  }

  HybridModel& operator*() { return *model_; }
  HybridModel* operator->() { return model_.get(); }
  std::size_t vocab() const { return static_cast<std::size_t>(model_->config().vocab_size); }

  /// Prompts of 5, 22 and 39 tokens. Returns the index of each one's last.
  Ids run_prompts() {
    Ids last, ids;
    ForwardBatch batch = compose(RowKind::kPrefill, ids, last);
    or_throw(model_->forward(batch, *backend_, ids).status());
    return last;
  }
  /// A token for each row, replayed in a size that they do not fill.
  void replay_decode() {
    Ids last, ids;
    const ForwardBatch batch = compose(RowKind::kDecode, ids, last);
    if (runner_ == nullptr) {
      runner_ = or_throw(GraphRunner::create(
          *context_, *backend_, {decode_buckets(kRows + 2, 8).back()},
          [this](const Plan& plan) { return model_->run_to_tokens(plan, *backend_); }));
    }
    or_throw(model_->set_inputs(batch, ids));
    or_throw(runner_->run(batch).status());
    model_->set_replayed(*runner_->last_plan());
  }
  std::vector<float> logits(const Ids& tokens) {
    std::vector<float> out(tokens.size() * vocab());
    or_throw(model_->logits(tokens, out.data()));
    return out;
  }

 private:
  ForwardBatch compose(RowKind kind, Ids& ids, Ids& last) {
    std::vector<BatchRow> rows;
    for (std::size_t r = 0; r < rows_.size(); ++r) {
      const std::size_t count = kind == RowKind::kPrefill ? 5 + 17 * r : 1;
      const Ids more =
          random_ids(count, model_->config().vocab_size, static_cast<unsigned>(++seed_));
      ids.insert(ids.end(), more.begin(), more.end());
      last.push_back(static_cast<std::int32_t>(ids.size()) - 1);
      rows.push_back(or_throw(table_->batch_row(rows_[r], kind, static_cast<std::int32_t>(count))));
      or_throw(table_->advance(rows_[r], static_cast<std::int32_t>(count)));
    }
    return or_throw(ForwardBatch::create(rows));
  }

  std::unique_ptr<GraphRunner> runner_;
  std::vector<Handle> rows_;
  std::size_t seed_ = 0;
};

TEST(DeviceWeights, GiveTheLogitsOfTheStoredOnes) {
  for (const char* checkpoint : {"golden_a", "golden_nested", "tiny-model"}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      Model plain(checkpoint, dtype, false), moved(checkpoint, dtype, true);
      EXPECT_FALSE(plain->weights().on_device());
      EXPECT_TRUE(moved->weights().on_device());
      EXPECT_EQ(moved->weights().mapped_bytes, 0) << "nothing is left of the files";
      // Gates and weights are bf16 there too.
      const double bound = dtype == DType::kF32 ? 1e-6 : 4e-2;
      const Ids last = plain.run_prompts();
      ASSERT_EQ(moved.run_prompts(), last);
      EXPECT_LE(relative_l2(moved.logits(last), plain.logits(last)), bound) << checkpoint;
      plain.replay_decode();
      moved.replay_decode();
      EXPECT_LE(relative_l2(moved.logits({0, 1, 2}), plain.logits({0, 1, 2})), bound) << checkpoint;
    }
  }
}

TEST(DeviceWeights, TokensAreThoseOfTheLogitsBelowTheirLimits) {
  Model model("golden_a", DType::kF32, true);
  const auto expect_tokens = [&](const Ids& tokens, const Ids& limits) {
    std::vector<Draw> draws(limits.size());
    for (std::size_t i = 0; i < limits.size(); ++i) draws[i].limit = limits[i];
    const Choices choices = or_throw(model->choose(tokens, draws));
    std::vector<NextToken> chosen;
    for (const std::int32_t place : choices.places) {
      chosen.push_back(or_throw(model->chosen(choices))[static_cast<std::size_t>(place)]);
    }
    const std::vector<float> logits = model.logits(tokens);
    ASSERT_EQ(chosen.size(), tokens.size());
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      const std::span<const float> row(logits.data() + i * model.vocab(),
                                       static_cast<std::size_t>(limits[i]));
      EXPECT_EQ(chosen[i].id, argmax(row)) << i;
      EXPECT_EQ(chosen[i].finite, 1) << i;
    }
  };
  const auto all = static_cast<std::int32_t>(model.vocab());
  const Ids last = model.run_prompts();
  expect_tokens(last, {all, 100, 7});
  expect_tokens({last[2], last[0]}, {all, all});
  for (const Ids& limits : {Ids{all, 100, 7}, Ids{50, all, all}}) {
    or_throw(model->set_limits(limits));
    model.replay_decode();
    expect_tokens({0, 1, 2}, limits);
    expect_tokens({2, 1}, {limits[2], limits[1]});
  }
}

TEST(DeviceWeights, WhatCannotBeMovedIsTold) {
  Model plain("golden_a", DType::kF32, false);
  static_cast<void>(plain.run_prompts());
  expect_error(plain->choose(Ids{0}, std::vector<Draw>(1)).status(),
               StatusCode::kFailedPrecondition, {"the weights are on the CPU"});
  const ModelConfig config = or_throw(ModelConfig::load(checkpoint_path("golden_a")));
  auto context = or_throw(Context::create());
  auto rounded =
      or_throw(ModelWeights::load(checkpoint_path("golden_a"), config, {}, WeightFormat::kInt8));
  expect_error(upload_weights(*context, DType::kF32, *rounded), StatusCode::kUnsupported,
               {"weights are int8", "must be stored or joined"});
  PoisonAllocator nothing;
  ContextOptions options;
  options.allocator = &nothing;
  context = or_throw(Context::create(options));
  auto stored = or_throw(ModelWeights::load(checkpoint_path("golden_a"), config));
  nothing.set_gives(3);
  expect_error(upload_weights(*context, DType::kF32, *stored), StatusCode::kResourceExhausted,
               {"bytes"});
}

}  // namespace
}  // namespace hybridattn::engine
