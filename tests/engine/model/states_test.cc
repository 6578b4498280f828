// States after a prefill in chunks against those after a prefill in one piece, read out of the
// pools.
#include <algorithm>

#include "tests/engine/checkpoint/checkpoint_test_support.h"
#include "tests/engine/model/model_service.h"

namespace hybridattn::engine {
namespace {

// Float32 sums in another order: what differs beyond this is an error.
constexpr double kStateBound = 1e-5;

/// A model with one request.
class OneRequest : public ModelService {
 public:
  explicit OneRequest(const std::string& checkpoint)
      : ModelService({.checkpoint = checkpoint, .threads = 1, .rows = 2, .pages_per_row = 64}) {
    row_ = or_throw(table_->open());
    or_throw(table_->reserve(row_, 1024));
  }

  void prefill(std::span<const std::int32_t> ids) {
    const auto count = static_cast<std::int32_t>(ids.size());
    const auto kind =
        count == 1 && table_->computed(row_) > 0 ? RowKind::kDecode : RowKind::kPrefill;
    const ForwardBatch batch =
        or_throw(ForwardBatch::create({or_throw(table_->batch_row(row_, kind, count))}));
    or_throw(model_->forward(batch, *backend_, ids).status());
    or_throw(table_->advance(row_, count));
  }

  HybridModel& model() { return *model_; }
  AttentionBackend& backend() { return *backend_; }
  ForwardBatch batch(std::int32_t count) const {
    return or_throw(
        ForwardBatch::create({or_throw(table_->batch_row(row_, RowKind::kPrefill, count))}));
  }

  /// Both states of one GDN layer.
  std::vector<float> state(std::size_t layer) const {
    std::vector<float> values = slot(states_->view().recurrent[layer]);
    const std::vector<float> conv = slot(states_->view().conv[layer]);
    values.insert(values.end(), conv.begin(), conv.end());
    return values;
  }
  std::size_t num_layers() const { return states_->view().recurrent.size(); }

 private:
  /// The request's slot is the first: ids are handed out from the lowest.
  static std::vector<float> slot(const TensorView& view) {
    const auto* first = static_cast<const float*>(view.data);
    return std::vector<float>(first, first + view.stride(0));
  }

  Handle row_;
};

class States : public ::testing::TestWithParam<const char*> {};

TEST_P(States, ChunkedPrefillIsWholePrefill) {
  const Ids ids = random_ids(300, 384, 9);
  OneRequest whole(GetParam());
  whole.prefill(ids);
  double worst = 0;
  for (const std::size_t chunk : {1, 7, 64, 100, 299}) {
    OneRequest chunked(GetParam());
    for (std::size_t at = 0; at < ids.size(); at += chunk) {
      chunked.prefill(std::span(ids).subspan(at, std::min(chunk, ids.size() - at)));
    }
    for (std::size_t layer = 0; layer < whole.num_layers(); ++layer) {
      const double error = relative_l2(chunked.state(layer), whole.state(layer));
      EXPECT_LE(error, kStateBound) << "chunk " << chunk << ", GDN layer " << layer;
      worst = std::max(worst, error);
    }
  }
  RecordProperty("worst_relative_l2", std::to_string(worst * 1e9) + "e-9");
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, States,
                         ::testing::Values("golden_a", "golden_c", "golden_nested",
                                           "golden_moe_stacked", "golden_moe_split"),
                         [](const auto& tested) { return std::string(tested.param); });

TEST(HybridModelErrors, WrongCallsAreRefused) {
  OneRequest request("golden_a");
  HybridModel& model = request.model();
  EXPECT_EQ(model.full_attention_layers(), (std::set<std::int32_t>{3}));
  EXPECT_GT(model.activation_bytes(200), model.activation_bytes(100));
  const Ids ids = {1, 2, 3};
  const ForwardBatch batch = request.batch(3);
  expect_error(model.forward(batch, request.backend(), std::span(ids).first(2)).status(),
               StatusCode::kInvalidArgument, {"2 ids", "3"});
  const Ids bad = {1, 512, 3};
  expect_error(model.forward(batch, request.backend(), bad).status(), StatusCode::kOutOfRange,
               {"512", "position 1"});
  ASSERT_TRUE(model.forward(batch, request.backend(), ids).ok());
  std::vector<float> logits(static_cast<std::size_t>(model.logits_block()) * 512);
  for (const std::int32_t token : {-1, 3}) {
    expect_error(model.logits(Ids{0, token}, logits.data()), StatusCode::kOutOfRange,
                 {"tokens[1]", std::to_string(token), "[0, 3)"});
  }
  const Ids many(static_cast<std::size_t>(model.logits_block()) + 1, 0);
  expect_error(model.logits(many, logits.data()), StatusCode::kInvalidArgument, {"at most"});
  const Ids most(static_cast<std::size_t>(model.logits_block()), 1);
  EXPECT_TRUE(model.logits(most, logits.data()).ok()) << "more logits than the step had tokens";
  EXPECT_TRUE(model.logits(Ids{2, 0, 2}, logits.data()).ok());
  EXPECT_TRUE(std::equal(logits.begin(), logits.begin() + 512, logits.begin() + 1024));
}

}  // namespace
}  // namespace hybridattn::engine
