// What is asked of NCCL, by a stand-in for it: no GPU is needed to see which calls are made, and
// what becomes of those that fail.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <mutex>
#include <string>
#include <thread>

#include "engine/parallel/nccl_communicator.h"
#include "tests/support/contexts.h"
#include "tests/support/tensor.h"

namespace hybridattn::engine {
namespace {

using hybridattn::testing::Buffer;
using hybridattn::testing::make_context;

/// The calls so far, and which result they give.
struct StandIn {
  std::mutex mutex;
  std::vector<std::string> calls;
  std::atomic<int> reduce_result = 0, gather_result = 0;
  std::atomic<bool> reduce_hangs = false, aborted = false;

  static StandIn& get() {
    static StandIn one;
    return one;
  }
  int note(const std::string& call, int result = NcclLibrary::kSuccess) {
    const std::scoped_lock lock(mutex);
    calls.push_back(call);
    return result;
  }
  std::int64_t count(const std::string& call) {
    const std::scoped_lock lock(mutex);
    return std::count(calls.begin(), calls.end(), call);
  }
};

NcclLibrary::Communicator handle_of(int device) {
  static std::array<int, 8> objects{};
  return reinterpret_cast<NcclLibrary::Communicator>(&objects[static_cast<std::size_t>(device)]);
}

NcclLibrary stand_in() {
  NcclLibrary nccl;
  nccl.CommInitAll = [](NcclLibrary::Communicator* to, int count, const int* devices) {
    for (int i = 0; i < count; ++i) {
      if (devices[i] == 7) return StandIn::get().note("init", 1);
      to[i] = handle_of(devices[i]);
    }
    return StandIn::get().note("init");
  };
  nccl.CommAbort = [](NcclLibrary::Communicator) {
    StandIn::get().aborted = true;
    return StandIn::get().note("abort");
  };
  nccl.CommDestroy = [](NcclLibrary::Communicator) { return StandIn::get().note("destroy"); };
  nccl.AllReduce = [](const void* from, void* to, std::size_t count, int type, int op,
                      NcclLibrary::Communicator handle, void*) {
    while (StandIn::get().reduce_hangs && !StandIn::get().aborted) std::this_thread::yield();
    if (StandIn::get().reduce_hangs) return 6;
    const bool right = from == to && type == 7 && op == 0 && handle == handle_of(3);
    return StandIn::get().note(concat("reduce ", count, right ? "" : " wrong"),
                               StandIn::get().reduce_result);
  };
  nccl.AllGather = [](const void* from, void* to, std::size_t count, int type,
                      NcclLibrary::Communicator, void*) {
    const auto before = static_cast<const float*>(from) - static_cast<float*>(to);
    return StandIn::get().note(concat("gather ", count, " from ", before, " of ", type),
                               StandIn::get().gather_result);
  };
  nccl.GroupStart = [] { return StandIn::get().note("group"); };
  nccl.GroupEnd = [] { return StandIn::get().note("end"); };
  nccl.GetErrorString = [](int result) { return result == 1 ? "unhandled cuda error" : "other"; };
  return nccl;
}

class NcclCalls : public ::testing::Test {
 protected:
  NcclCalls() {
    StandIn& nccl = StandIn::get();
    nccl.calls.clear();
    nccl.reduce_result = nccl.gather_result = 0;
    nccl.reduce_hangs = nccl.aborted = false;
    const std::array<int, 2> devices = {5, 3};
    group_ = *make_nccl_communicators(nccl_, devices);
  }
  Status reduce() { return group_->of(1).all_reduce(*context_, x_.view()); }
  Status gather() { return group_->of(1).all_gather_columns(*context_, x_.view()); }

  NcclLibrary nccl_ = stand_in();
  std::unique_ptr<Context> context_ = make_context(best_isa());
  Buffer x_{DType::kF32, {3, 8}};
  std::unique_ptr<CommunicatorGroup> group_;
};

TEST_F(NcclCalls, AreInPlaceAndOfOneGroupForAllRows) {
  ASSERT_OK(reduce());
  ASSERT_OK(gather());
  group_.reset();
  const std::string row = "gather 4 from 4 of 7";
  EXPECT_EQ(StandIn::get().calls, (std::vector<std::string>{"init", "reduce 24", "group", row, row,
                                                            row, "end", "destroy", "destroy"}));
}

TEST_F(NcclCalls, ErrorsAreNamedAndGroupsEnd) {
  StandIn::get().reduce_result = StandIn::get().gather_result = 1;
  EXPECT_ERROR(reduce(), kDeviceError, "ncclAllReduce", "unhandled cuda error");
  EXPECT_ERROR(gather(), kDeviceError, "ncclAllGather", "unhandled cuda error");
  EXPECT_EQ(StandIn::get().count("end"), 1);
  const std::array<int, 2> devices = {0, 7};
  EXPECT_ERROR(make_nccl_communicators(nccl_, devices).status(), kDeviceError, "ncclCommInitAll",
               "unhandled cuda error");
}

TEST_F(NcclCalls, AnAbortEndsThemAndIsFinal) {
  group_->abort();
  group_->abort();
  EXPECT_ERROR(reduce(), kFailedPrecondition, "another rank has failed");
  EXPECT_ERROR(gather(), kFailedPrecondition, "another rank has failed");
  EXPECT_ERROR(group_->restore(), kFailedPrecondition, "load the engine again");
  group_.reset();
  EXPECT_EQ(StandIn::get().count("abort"), 2);
  EXPECT_EQ(StandIn::get().count("destroy"), 0);
}

TEST_F(NcclCalls, AnAbortEndsOneThatHangs) {
  StandIn::get().reduce_hangs = true;
  Status waited;
  std::thread rank([&] { waited = reduce(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  group_->abort();
  rank.join();
  EXPECT_FALSE(waited.ok());
}

}  // namespace
}  // namespace hybridattn::engine
