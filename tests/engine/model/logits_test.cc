// Logits of a request alone, among others in any order, eager and replayed: the same bits.
#include <algorithm>

#include "tests/engine/checkpoint/checkpoint_test_support.h"
#include "tests/engine/model/model_service.h"

namespace hybridattn::engine {
namespace {

constexpr std::int32_t kRequests = 8;

/// A model with caches for eight requests.
class Service : public ModelService {
 public:
  Service(const char* checkpoint, DType dtype)
      : ModelService({.checkpoint = checkpoint,
                      .dtype = dtype,
                      .rows = kRequests,
                      .batch_invariant = true}) {
    or_throw(model_->reserve(512));
  }

  /// Runs the prompts of these requests, then one token of each; gives the logits behind that one.
  std::map<std::size_t, std::vector<float>> run(std::vector<std::size_t> which, bool replay) {
    std::map<std::size_t, Handle> rows;
    for (const std::size_t r : which) rows[r] = or_throw(table_->open(100));
    step(which, rows, true, false);
    std::reverse(which.begin(), which.end());
    auto logits = step(which, rows, false, replay);
    for (const auto& [r, row] : rows) or_throw(table_->close(row));
    return logits;
  }

 private:
  static Ids prompt(std::size_t r) { return random_ids(1 + 11 * r, 512, static_cast<unsigned>(r)); }
  std::map<std::size_t, std::vector<float>> step(const std::vector<std::size_t>& which,
                                                 const std::map<std::size_t, Handle>& rows,
                                                 bool prompts, bool replay) {
    std::vector<BatchRow> batch_rows;
    Ids ids, last;
    for (const std::size_t r : which) {
      const Ids more = prompts ? prompt(r) : Ids{static_cast<std::int32_t>(7 * r)};
      ids.insert(ids.end(), more.begin(), more.end());
      last.push_back(static_cast<std::int32_t>(ids.size()) - 1);
      batch_rows.push_back(
          or_throw(table_->batch_row(rows.at(r), prompts ? RowKind::kPrefill : RowKind::kDecode,
                                     static_cast<std::int32_t>(more.size()))));
      or_throw(table_->advance(rows.at(r), static_cast<std::int32_t>(more.size())));
    }
    const ForwardBatch batch = or_throw(ForwardBatch::create(batch_rows));
    if (replay) {
      or_throw(model_->set_inputs(batch, ids));
      // A size that none of the batches fills.
      auto runner = or_throw(
          GraphRunner::create(*context_, *backend_, {decode_buckets(kRequests + 3, 8).back()},
                              [this](const Plan& plan) { return model_->run(plan, *backend_); }));
      or_throw(runner->run(batch).status());
    } else {
      or_throw(model_->forward(batch, *backend_, ids).status());
    }
    const auto vocab = static_cast<std::size_t>(model_->config().vocab_size);
    std::vector<float> all(vocab * which.size());
    or_throw(model_->logits(last, all.data()));
    std::map<std::size_t, std::vector<float>> logits;
    for (std::size_t i = 0; i < which.size(); ++i) {
      const auto first = all.begin() + static_cast<std::ptrdiff_t>(i * vocab);
      logits[which[i]] = {first, first + static_cast<std::ptrdiff_t>(vocab)};
    }
    return logits;
  }
};

class F49LogitsOfTraffic : public ::testing::TestWithParam<std::pair<const char*, DType>> {};
INSTANTIATE_TEST_SUITE_P(Modes, F49LogitsOfTraffic,
                         ::testing::Values(std::pair("golden_a", DType::kF32),
                                           std::pair("golden_a", DType::kBF16),
                                           std::pair("golden_moe_stacked", DType::kF32)));

TEST_P(F49LogitsOfTraffic, AreTheSameBitsAloneAmongEightInAnyOrderEagerAndReplayed) {
  Service service(GetParam().first, GetParam().second);
  std::vector<std::vector<float>> alone;
  for (std::size_t r = 0; r < kRequests; ++r) alone.push_back(service.run({r}, false).at(r));
  for (const auto& order : std::vector<std::vector<std::size_t>>{
           {0, 1, 2, 3, 4, 5, 6, 7}, {6, 2, 7, 0, 5, 1, 4, 3}, {3, 5}}) {
    for (const bool replay : {false, true}) {
      for (const auto& [r, logits] : service.run(order, replay)) {
        EXPECT_EQ(logits, alone[r])
            << "request " << r << " among " << order.size() << (replay ? ", replayed" : ", eager");
      }
    }
  }
}

}  // namespace
}  // namespace hybridattn::engine
