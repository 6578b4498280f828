// F16: sequences of different lengths in one call must not bleed into each other.
#include <algorithm>

#include "tests/faults/gdn_case.h"

namespace hybridattn::testing {
namespace {

void append(std::vector<Byte>& bytes, const std::vector<Byte>& more) {
  bytes.insert(bytes.end(), more.begin(), more.end());
}

/// Rows of these lengths live in one stream; a run names some of them in some order.
class Sequences {
 public:
  Sequences(Context& context, const std::vector<std::int32_t>& lengths)
      : context_(context), lengths_(lengths), case_(dims(lengths)), start_state_(case_.state) {
    std::int32_t next = 0;
    for (const std::int32_t n : lengths) {
      starts_.push_back(next);
      next += n;
    }
  }

  std::vector<std::vector<Byte>> delta_rule(const std::vector<int>& order) {
    case_.state = start_state_;
    case_.out.kernel().poison({});
    name_rows(order);
    EXPECT_OK(gdn_prefill(context_, case_.args(Source::kKernel)));
    std::vector<std::vector<Byte>> results;
    for (const int r : order) {
      std::vector<Byte> bytes = case_.state.kernel().bytes(r);
      for (std::int32_t i = 0; i < length(r); ++i) {
        append(bytes, case_.out.kernel().bytes(start(r) + i));
      }
      results.push_back(std::move(bytes));
    }
    return results;
  }

  std::vector<std::vector<Byte>> convolution(const std::vector<int>& order) {
    Random random(17);
    Buffer x(DType::kF32, {case_.d.tokens, 70});
    Buffer w(DType::kF32, {70, 4});
    Buffer state(DType::kF32, {case_.d.slots, 70, 3});
    for (Buffer* buffer : {&x, &w, &state}) {
      buffer->fill(random.values(buffer->num_elements(), -1, 1));
    }
    Buffer out(DType::kF32, {case_.d.tokens, 70});
    name_rows(order);
    EXPECT_OK(
        causal_conv(context_, {case_.rows.view(), x.view(), w.view(), state.view(), out.view()}));
    std::vector<std::vector<Byte>> results;
    for (const int r : order) {
      std::vector<Byte> bytes = state.bytes(r);
      for (std::int32_t i = 0; i < length(r); ++i) append(bytes, out.bytes(start(r) + i));
      results.push_back(std::move(bytes));
    }
    return results;
  }

  /// Every row attends to 37 older keys and its own.
  std::vector<std::vector<Byte>> softmax(const std::vector<int>& order) {
    Random random(18);
    const auto count = static_cast<std::int64_t>(lengths_.size());
    Buffer q(DType::kF32, {case_.d.tokens, 4, 24});
    Buffer k(DType::kF32, {count * 20, 16, 2, 24});
    Buffer v(DType::kF32, {count * 20, 16, 2, 24});
    for (Buffer* buffer : {&q, &k, &v}) buffer->fill(random.values(buffer->num_elements(), -1, 1));
    Buffer out(DType::kF32, {case_.d.tokens, 4, 24});
    KvRows rows;
    for (const int r : order) {
      std::vector<std::int32_t> pages;
      for (int i = 0; i * 16 < 37 + length(r); ++i) pages.push_back(r * 20 + i);
      rows.add(start(r), length(r), 37 + length(r), pages);
    }
    EXPECT_OK(attention(context_, {rows.view(true),
                                   q.view(),
                                   k.view(),
                                   v.view(),
                                   out.view(),
                                   {},
                                   {},
                                   {0.2f, true, 0.0f, -1}}));
    std::vector<std::vector<Byte>> results;
    for (const int r : order) {
      std::vector<Byte> bytes;
      for (std::int32_t i = 0; i < length(r); ++i) append(bytes, out.bytes(start(r) + i));
      results.push_back(std::move(bytes));
    }
    return results;
  }

 private:
  static GdnCase::Dims dims(const std::vector<std::int32_t>& lengths) {
    GdnCase::Dims d;
    d.tokens = 0;
    for (const std::int32_t n : lengths) d.tokens += n;
    d.slots = static_cast<std::int64_t>(lengths.size());
    return d;
  }
  std::int32_t start(int r) const { return starts_[static_cast<std::size_t>(r)]; }
  std::int32_t length(int r) const { return lengths_[static_cast<std::size_t>(r)]; }
  void name_rows(const std::vector<int>& order) {
    case_.rows = {};
    for (const int r : order) case_.rows.add(start(r), length(r), r, 5);
  }

  Context& context_;
  std::vector<std::int32_t> lengths_;
  std::vector<std::int32_t> starts_;
  GdnCase case_;
  Operand start_state_;
};

TEST(F16NeighboursBleed, AloneIsTogetherInBits) {
  for (const auto& context : all_contexts()) {
    Sequences all(*context, {1, 2, 3, 63, 64, 65, 200});
    const std::vector<std::vector<int>> orders{
        {0, 1, 2, 3, 4, 5, 6}, {6, 5, 4, 3, 2, 1, 0}, {3, 6, 0, 5, 1, 4, 2}, {6, 0}, {5, 3, 1}};
    EXPECT_TRUE(alone_equals_together([&](const auto& o) { return all.delta_rule(o); }, 7, orders));
    EXPECT_TRUE(
        alone_equals_together([&](const auto& o) { return all.convolution(o); }, 7, orders));
    EXPECT_TRUE(alone_equals_together([&](const auto& o) { return all.softmax(o); }, 7, orders));
  }
}

TEST(F16NeighboursBleed, InEveryOrderOfFour) {
  for (const auto& context : all_contexts()) {
    Sequences four(*context, {1, 3, 64, 65});
    const auto orders = permutations(4);
    ASSERT_EQ(orders.size(), 24u);
    EXPECT_TRUE(
        alone_equals_together([&](const auto& o) { return four.delta_rule(o); }, 4, orders));
    EXPECT_TRUE(
        alone_equals_together([&](const auto& o) { return four.convolution(o); }, 4, orders));
    EXPECT_TRUE(alone_equals_together([&](const auto& o) { return four.softmax(o); }, 4, orders));
  }
}

}  // namespace
}  // namespace hybridattn::testing
