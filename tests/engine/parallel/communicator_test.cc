// What ranks compute together: sums in their order, columns of all, and errors that end every wait.
#include <atomic>
#include <stdexcept>

#include "engine/parallel/nccl_library.h"
#include "engine/parallel/rank_threads.h"
#include "engine/parallel/thread_communicator.h"
#include "hybridattn/graph.h"
#include "tests/support/contexts.h"
#include "tests/support/tensor.h"

namespace hybridattn::engine {
namespace {

using hybridattn::testing::Buffer;
using hybridattn::testing::make_context;
using hybridattn::testing::Random;

/// Ranks with a context and a matrix each.
struct Ranks {
  explicit Ranks(std::int32_t size, std::int64_t rows = 5, std::int64_t columns = 12)
      : group(make_thread_communicators(size)), threads(size, [this] { group->abort(); }) {
    for (std::int32_t rank = 0; rank < size; ++rank) {
      contexts.push_back(make_context(best_isa()));
      matrices.emplace_back(DType::kF32, std::vector<std::int64_t>{rows, columns});
      Random random(static_cast<unsigned>(rank) + 1);
      matrices.back().fill(random.values(rows * columns, -1e3, 1e3));
    }
  }
  Context& context(std::int32_t rank) { return *contexts[static_cast<std::size_t>(rank)]; }
  Buffer& matrix(std::int32_t rank) { return matrices[static_cast<std::size_t>(rank)]; }
  Status reduce(std::int32_t rank) {
    return group->of(rank).all_reduce(context(rank), matrix(rank).view());
  }
  std::vector<float> sums() const {
    std::vector<float> out;
    for (std::size_t i = 0; i < matrices[0].values().size(); ++i) {
      auto sum = static_cast<float>(matrices[0].values()[i]);
      for (std::size_t rank = 1; rank < matrices.size(); ++rank) {
        sum += static_cast<float>(matrices[rank].values()[i]);
      }
      out.push_back(sum);
    }
    return out;
  }

  std::unique_ptr<CommunicatorGroup> group;
  RankThreads threads;
  std::vector<std::unique_ptr<Context>> contexts;
  std::vector<Buffer> matrices;
};

std::vector<float> floats_of(const Buffer& buffer) {
  const auto values = buffer.values();
  return {values.begin(), values.end()};
}

TEST(ThreadCommunicator, SumsAreInTheOrderOfTheRanksAndTheSameOnAll) {
  for (const std::int32_t size : {1, 2, 3, 4}) {
    Ranks ranks(size);
    const std::vector<float> wanted = ranks.sums();
    ASSERT_OK(ranks.threads.run([&](std::int32_t rank) { return ranks.reduce(rank); }));
    for (std::int32_t rank = 0; rank < size; ++rank) {
      EXPECT_EQ(floats_of(ranks.matrix(rank)), wanted) << "rank " << rank << " of " << size;
    }
  }
}

TEST(ThreadCommunicator, EveryRankGetsTheColumnsOfAll) {
  Ranks ranks(3);
  std::vector<std::vector<double>> before;
  for (const Buffer& matrix : ranks.matrices) before.push_back(matrix.values());
  ASSERT_OK(ranks.threads.run([&](std::int32_t rank) {
    return ranks.group->of(rank).all_gather_columns(ranks.context(rank), ranks.matrix(rank).view());
  }));
  for (std::int32_t rank = 0; rank < 3; ++rank) {
    const auto values = ranks.matrix(rank).values();
    for (std::size_t i = 0; i < values.size(); ++i) {
      EXPECT_EQ(values[i], before[i % 12 / 4][i]) << "rank " << rank << ", element " << i;
    }
  }
}

TEST(ThreadCommunicator, RecordedCallsRunAtEachReplay) {
  Ranks ranks(2);
  std::vector<float> wanted = ranks.sums();
  ASSERT_OK(ranks.threads.run([&](std::int32_t rank) -> Status {
    const auto graph = Graph::record(ranks.context(rank), [&] { return ranks.reduce(rank); });
    if (!graph.ok()) return graph.status();
    for (int replay = 0; replay < 2; ++replay) {
      if (Status done = (*graph)->replay(); !done.ok()) return done;
    }
    return {};
  }));
  for (float& sum : wanted) sum += sum;  // what both had after the first
  EXPECT_EQ(floats_of(ranks.matrix(0)), wanted);
  EXPECT_EQ(floats_of(ranks.matrix(1)), wanted);
}

TEST(ThreadCommunicator, ARankThatFailsEndsTheWaitOfTheOthers) {
  Ranks ranks(4);
  std::atomic<int> refused = 0;
  const Status failed = ranks.threads.run([&](std::int32_t rank) -> Status {
    if (rank == 2) return error(StatusCode::kResourceExhausted, "no memory");
    Status status = ranks.reduce(rank);
    refused += status.code() == StatusCode::kFailedPrecondition ? 1 : 0;
    return status;
  });
  EXPECT_ERROR(failed, kResourceExhausted, "rank 2", "no memory");
  EXPECT_EQ(refused, 3);
  EXPECT_ERROR(ranks.reduce(0), kFailedPrecondition, "another rank has failed");
  ASSERT_OK(ranks.group->restore());
  const std::vector<float> wanted = ranks.sums();
  ASSERT_OK(ranks.threads.run([&](std::int32_t rank) { return ranks.reduce(rank); }));
  EXPECT_EQ(floats_of(ranks.matrix(3)), wanted);
}

TEST(ThreadCommunicator, WhatARankThrowsIsThrownToTheCaller) {
  Ranks ranks(3);
  for (const std::int32_t thrower : {0, 2}) {
    const auto run = [&] {
      return ranks.threads.run([&](std::int32_t rank) -> Status {
        if (rank == thrower) throw std::runtime_error("out of everything");
        return ranks.reduce(rank);
      });
    };
    EXPECT_THROW((void)run(), std::runtime_error) << thrower;
    ASSERT_OK(ranks.group->restore());
  }
  EXPECT_OK(ranks.threads.run([&](std::int32_t rank) { return ranks.reduce(rank); }));
}

TEST(ThreadCommunicator, WhatDoesNotFitIsNamed) {
  Ranks ranks(2);
  Buffer half(DType::kBF16, {2, 4}), odd(DType::kF32, {2, 5});
  Communicator& first = ranks.group->of(0);
  EXPECT_ERROR(first.all_reduce(ranks.context(0), half.view()), kInvalidArgument, "x is bf16");
  EXPECT_ERROR(first.all_gather_columns(ranks.context(0), odd.view()), kInvalidArgument,
               "5 columns", "2 ranks");
  ranks.matrix(1) = Buffer(DType::kF32, {4, 12});
  EXPECT_ERROR(ranks.threads.run([&](std::int32_t rank) { return ranks.reduce(rank); }), kInternal,
               "[5, 12]", "[4, 12]");
}

TEST(Nccl, ALibraryThatIsNotThereIsNamed) {
  EXPECT_ERROR(NcclLibrary::open("libhybridattn-absent.so.2").status(), kUnsupported, "NCCL",
               "libhybridattn-absent.so.2");
}

TEST(Nccl, AnotherLibraryLacksItsCalls) {
  EXPECT_ERROR(NcclLibrary::open("libc.so.6").status(), kUnsupported, "libc.so.6 has no nccl");
}

}  // namespace
}  // namespace hybridattn::engine
