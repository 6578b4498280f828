// F40: offsets past 2^31 and 2^32 elements. The memory is reserved, not used: only the pages and
// slots that a call names are ever touched.
#include <sys/mman.h>

#include "tests/support/contexts.h"
#include "tests/support/oracle.h"

namespace hybridattn::testing {
namespace {

/// 40 GiB of addresses.
class WideMemory {
 public:
  static constexpr std::size_t kBytes = std::size_t{40} << 30;
  WideMemory()
      : data_(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {}
  ~WideMemory() {
    if (ok()) munmap(data_, kBytes);
  }
  bool ok() const { return data_ != MAP_FAILED; }
  float* floats() const { return static_cast<float*>(data_); }

 private:
  void* data_;
};

/// Slots whose first elements lie just below and above 2^31 and 2^32 elements, and one at the end.
constexpr std::int64_t kStride = std::int64_t{1} << 28;
constexpr std::int32_t kSlots[] = {7, 8, 15, 16, 31};

TEST(F40WideOffsets, StatesOfStepPrefillAndConvolution) {
  const WideMemory wide;
  ASSERT_TRUE(wide.ok()) << "cannot reserve " << WideMemory::kBytes << " bytes of addresses";
  constexpr std::int64_t kHead = 16;
  for (const auto& context : all_contexts()) {
    for (const std::int32_t slot : kSlots) {
      Random random(static_cast<std::uint64_t>(slot));
      const auto operand = [&](const Shape& shape, double low, double high) {
        std::int64_t count = 1;
        for (const std::int64_t d : shape) count *= d;
        return Operand(DType::kF32, shape, Layout::kDense, random.values(count, low, high));
      };
      Operand q = operand({3, 1, kHead}, -1, 1), k = operand({3, 1, kHead}, -1, 1);
      Operand v = operand({3, 1, kHead}, -1, 1), g = operand({3, 1}, -1, 0),
              beta = operand({3, 1}, 0, 1);
      Operand state = operand({1, 1, kHead, kHead}, -1, 1);
      Operand out(DType::kF32, {3, 1, kHead}, Layout::kDense);
      const TensorView far(wide.floats(), DType::kF32, {32, 1, kHead, kHead},
                           {kStride, kHead * kHead, kHead, 1});
      float* at = wide.floats() + slot * kStride;
      std::copy_n(static_cast<const float*>(state.kernel().view().data), kHead * kHead, at);
      const std::int32_t start = 0, length = 3, computed = 4, zero = 0;
      GdnArgs args{{1, &start, &length, &zero, &computed},
                   q(Source::kRounded),
                   k(Source::kRounded),
                   v(Source::kRounded),
                   g(Source::kRounded),
                   beta(Source::kRounded),
                   state(Source::kRounded),
                   out(Source::kRounded),
                   0.25f,
                   true};
      reference::gdn_recurrence(args);
      args = {{1, &start, &length, &slot, &computed},
              q(Source::kKernel),
              k(Source::kKernel),
              v(Source::kKernel),
              g(Source::kKernel),
              beta(Source::kKernel),
              far,
              out(Source::kKernel),
              0.25f,
              true};
      ASSERT_OK(gdn_prefill(*context, args));
      EXPECT_TRUE(near(out.kernel().values(), out.of(Source::kRounded).values(), {1e-5, 1e-4}))
          << slot;
      const std::vector<double> after(at, at + kHead * kHead);
      EXPECT_TRUE(near(after, state.of(Source::kRounded).values(), {1e-5, 1e-4})) << slot;
    }
  }
}

TEST(F40WideOffsets, PagesOfStoreAndAttention) {
  const WideMemory wide;
  ASSERT_TRUE(wide.ok());
  constexpr std::int64_t kDim = 16;
  for (const auto& context : all_contexts()) {
    for (const std::int32_t page : kSlots) {
      Random random(static_cast<std::uint64_t>(page));
      Buffer q(DType::kF32, {2, 2, kDim}), k(DType::kF32, {2, 1, kDim}),
          v(DType::kF32, {2, 1, kDim});
      for (Buffer* x : {&q, &k, &v}) x->fill(random.values(x->num_elements(), -1, 1));
      Buffer out(DType::kF32, {2, 2, kDim}), near_k(DType::kF32, {1, 2, 1, kDim});
      Buffer near_v(DType::kF32, {1, 2, 1, kDim}), wanted(DType::kF32, {2, 2, kDim});
      const TensorView far_k(wide.floats(), DType::kF32, {32, 2, 1, kDim},
                             {kStride, kDim, kDim, 1});
      const TensorView far_v(wide.floats() + 4096, DType::kF32, {32, 2, 1, kDim},
                             {kStride, kDim, kDim, 1});
      const std::int32_t start = 0, two = 2, zero = 0;
      const std::int64_t first = 0;
      const std::vector<std::int64_t> places{2 * std::int64_t{page}, 2 * std::int64_t{page} + 1};
      const std::vector<std::int64_t> near_places{0, 1};
      ASSERT_OK(store_kv(*context, {k.view(), v.view(), places.data(), far_k, far_v}));
      ASSERT_OK(store_kv(*context,
                         {k.view(), v.view(), near_places.data(), near_k.view(), near_v.view()}));
      const AttentionOptions options{0.25f, true, 0.0f, -1};
      ASSERT_OK(attention(*context, {{1, &start, &two, &two, &first, &page, 1},
                                     q.view(),
                                     far_k,
                                     far_v,
                                     out.view(),
                                     {},
                                     {},
                                     options}));
      ASSERT_OK(attention(*context, {{1, &start, &two, &two, &first, &zero, 1},
                                     q.view(),
                                     near_k.view(),
                                     near_v.view(),
                                     wanted.view(),
                                     {},
                                     {},
                                     options}));
      EXPECT_EQ(out.memory(), wanted.memory()) << page;
    }
  }
}

}  // namespace
}  // namespace hybridattn::testing
