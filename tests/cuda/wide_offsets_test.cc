// F40 on the GPU: offsets of pages and places past 2^31 and 2^32 elements.
#include <cuda_runtime_api.h>

#include "tests/cuda/attention_problem.h"

namespace hybridattn::testing {
namespace {

using Problem = AttentionProblem;
using F40WideOffsetsOnCuda = CudaAttention;

/// Memory of the device alone; none where it has not as much.
class DeviceBytes {
 public:
  explicit DeviceBytes(std::size_t bytes) {
    if (cudaMalloc(&data_, bytes) != cudaSuccess) {
      data_ = nullptr;
      cudaGetLastError();
    }
  }
  ~DeviceBytes() { cudaFree(data_); }
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;
  std::byte* data() const { return static_cast<std::byte*>(data_); }

 private:
  void* data_ = nullptr;
};

/// Copies pages, of `bytes` each, to every other of `to`.
void copy_pages(const Buffer& pages, std::byte* to, std::size_t bytes) {
  ASSERT_EQ(cudaMemcpy2D(to, 2 * bytes, pages.view().data, bytes, bytes,
                         static_cast<std::size_t>(pages.shape()[0]), cudaMemcpyDefault),
            cudaSuccess);
}

/// Pages under ids so high that the edges of 2^31 and 2^32 elements lie among them, values behind
/// keys, against the same pages under low ids.
void expect_far_as_near(Problem& problem, const std::vector<Context*>& contexts) {
  const std::int64_t size = problem.page_size, page = size * 2 * 256;
  const std::int64_t pages = problem.k.shape()[0];
  const DType type = problem.k.dtype();
  const std::size_t bytes = static_cast<std::size_t>(page) * dtype_size(type);
  const auto first_page = [&](std::int64_t edge) { return edge / (2 * page) - pages / 2; };
  const std::int64_t last = first_page(std::int64_t{1} << 32);
  const DeviceBytes cache(static_cast<std::size_t>(last + pages) * 2 * bytes);
  if (cache.data() == nullptr) GTEST_SKIP() << "8 GiB of the device's memory are not free";
  for (const std::int64_t edge : {std::int64_t{1} << 31, std::int64_t{1} << 32}) {
    const std::int64_t high = first_page(edge);
    std::byte* const to = cache.data() + static_cast<std::size_t>(2 * high) * bytes;
    copy_pages(problem.k, to, bytes);
    copy_pages(problem.v, to + bytes, bytes);
    KvRows rows = problem.rows;
    for (std::int32_t& id : rows.pages) id += static_cast<std::int32_t>(high);
    for (Context* some : contexts) {
      Buffer near_out = problem.make_out(), near_lse = problem.make_lse();
      ASSERT_OK(attention(*some, problem.args(near_out, near_lse)));
      Buffer far_out = problem.make_out(), far_lse = problem.make_lse();
      AttentionArgs args = problem.args(far_out, far_lse);
      args.rows = rows.view(true);
      const ConstTensorView base(cache.data(), type, {1});
      args.k = base.at(0, {high + pages, size, 2, 256}, {2 * page, 2 * 256, 256, 1});
      args.v = base.at(page, {high + pages, size, 2, 256}, {2 * page, 2 * 256, 256, 1});
      ASSERT_OK(attention(*some, args));
      EXPECT_EQ(far_out.memory(), near_out.memory()) << edge << " " << some->last_kernel_target();
      EXPECT_EQ(far_lse.memory(), near_lse.memory()) << edge << " " << some->last_kernel_target();
    }
  }
}

TEST_F(F40WideOffsetsOnCuda, PagesOnBothSidesOf2To31And2To32Elements) {
  const auto sm80 = make_cuda_context("sm80"), sm90 = make_cuda_context("sm90");
  // Pages of 12 are no whole boxes of the copy engine: they go through threads.
  for (const std::int64_t page : {16, 12}) {
    Problem problem({{1, 40}, {70, 100}}, page, 256);
    expect_far_as_near(problem, {&context(), sm80.get(), sm90.get(), plain_.get()});
  }
  Problem f8({{1, 40}, {70, 100}}, 16, 256, DType::kBF16, 6, 2, DType::kF8E4M3);
  expect_far_as_near(f8, {&context(), sm80.get(), plain_.get()});
}

TEST_F(F40WideOffsetsOnCuda, PlacesOfAStore) {
  Random random(4);
  Buffer k(DType::kBF16, {3, 2, 64}), cache(DType::kF8E4M3, {10, 16, 2, 64}), near_cache = cache;
  k.fill(random.values(k.num_elements(), -1, 1));
  const std::int64_t page = std::int64_t{16} * 2 * 64;
  std::vector<std::int64_t> places{3, 5 * 16 + 2, 9 * 16 + 15};
  ASSERT_OK(store_kv(context(),
                     {k.view(), k.view(), places.data(), near_cache.view(), near_cache.view()}));
  for (const std::int64_t edge : {std::int64_t{1} << 31, std::int64_t{1} << 32}) {
    const std::int64_t high = edge / page - 5;
    std::vector<std::int64_t> far = places;
    for (std::int64_t& place : far) place += high * 16;
    std::fill(cache.memory().begin(), cache.memory().end(), Byte{0xff});
    const TensorView wide =
        cache.view().at(-high * page, {high + 10, 16, 2, 64}, {page, 2 * 64, 64, 1});
    ASSERT_OK(store_kv(context(), {k.view(), k.view(), far.data(), wide, wide}));
    EXPECT_EQ(cache.memory(), near_cache.memory()) << edge;
  }
}

/// Four slots of a pool of states, side by side or 2^28 elements apart, where the edges of 2^31 and
/// 2^32 elements lie inside of them.
class Slots {
 public:
  static constexpr std::int64_t kElements = 2 * 128 * 128, kStride = std::int64_t{1} << 28;
  static constexpr std::int64_t kBefore = kElements / 2;  // of an edge: the slot lies across it
  inline static const std::vector<std::int32_t> kFar{7, 8, 15, 16};

  /// `values`: of the four slots.
  Slots(const Buffer& values, DeviceBytes& memory) : memory_(memory), near_(values) {
    for (std::size_t i = 0; i < kFar.size(); ++i) copy(at(i), slot_of(values, i));
  }
  TensorView far() const {
    const TensorView base(memory_.data(), near_.dtype(), {1});
    return base.at(kStride - kBefore, {17, 2, 128, 128}, {kStride, 128 * 128, 128, 1});
  }
  Buffer read() const {
    Buffer out(near_.dtype(), near_.shape());
    for (std::size_t i = 0; i < kFar.size(); ++i) {
      copy(static_cast<std::byte*>(out.view().data) + i * bytes(), at(i));
    }
    return out;
  }

 private:
  std::byte* at(std::size_t i) const {
    const std::int64_t element = kStride - kBefore + kFar[i] * kStride;
    return memory_.data() + static_cast<std::size_t>(element) * dtype_size(near_.dtype());
  }
  std::size_t bytes() const {
    return static_cast<std::size_t>(kElements) * dtype_size(near_.dtype());
  }
  const std::byte* slot_of(const Buffer& states, std::size_t i) const {
    return static_cast<const std::byte*>(states.view().data) + i * bytes();
  }
  void copy(void* to, const void* from) const {
    EXPECT_EQ(cudaMemcpy(to, from, bytes(), cudaMemcpyDefault), cudaSuccess);
  }
  DeviceBytes& memory_;
  Buffer near_;
};

TEST_F(F40WideOffsetsOnCuda, SlotsOfStates) {
  DeviceBytes memory(std::size_t{18} << 30);
  if (memory.data() == nullptr) GTEST_SKIP() << "18 GiB of the device's memory are not free";
  Random random(4);
  constexpr std::int64_t kTokens = 4 * 70;
  Buffer q(DType::kBF16, {kTokens, 2, 128}), v(DType::kBF16, {kTokens, 2, 128});
  Buffer decay(DType::kF32, {kTokens, 2}), beta(DType::kF32, {kTokens, 2});
  q.fill(random.values(q.num_elements(), -1, 1));
  v.fill(random.values(v.num_elements(), -1, 1));
  decay.fill(random.values(decay.num_elements(), -0.2, 0));
  beta.fill(random.values(beta.num_elements(), 0, 1));
  Buffer states(DType::kF32, {4, 2, 128, 128});
  states.fill(random.values(states.num_elements(), -0.5, 0.5));
  for (const char* family : {"auto", "sm80", "smxx"}) {
    const auto forced = make_cuda_context(family);
    for (const std::int32_t length : {1, 70}) {
      Slots pool(states, memory);
      Buffer near_states = states, near_out(DType::kBF16, v.shape()),
             far_out(DType::kBF16, v.shape());
      const auto run = [&](const std::vector<std::int32_t>& slots, const TensorView& state,
                           const TensorView& out) {
        Rows rows;
        for (std::int32_t r = 0; r < 4; ++r) {
          rows.add(70 * r, length, slots[static_cast<std::size_t>(r)], 5);
        }
        const GdnArgs args{rows.view(), q.view(), q.view(), v.view(), decay.view(),
                           beta.view(), state,    out,      0.1f,     true};
        return length == 1 ? gdn_step(*forced, args) : gdn_prefill(*forced, args);
      };
      ASSERT_OK(run({0, 1, 2, 3}, near_states.view(), near_out.view()));
      ASSERT_OK(run(Slots::kFar, pool.far(), far_out.view()));
      EXPECT_EQ(far_out.memory(), near_out.memory()) << family << ", " << length;
      EXPECT_EQ(pool.read().memory(), near_states.memory()) << family << ", " << length;
    }
  }
  const Slots pool(states, memory);
  const std::int32_t from = Slots::kFar[3], to = Slots::kFar[0];
  // Slots of a pool are dense, so each head of the far one is a pool of its own.
  for (std::int64_t h = 0; h < 2; ++h) {
    const TensorView head = pool.far().at(h * 128 * 128, {17, 128, 128}, {Slots::kStride, 128, 1});
    ASSERT_OK(copy_slots(context(), {head, &from, &to, 1}));
  }
  EXPECT_EQ(pool.read().bytes(0), states.bytes(3));
}

}  // namespace
}  // namespace hybridattn::testing
