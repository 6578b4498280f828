// Random schedules of an engine: requests that come, prefill in pieces, decode, draft, are
// preempted, finish, are cancelled, and meet allocations that fail. The same schedule runs eagerly
// and by replays, and every request also alone: all three must agree to the bit, after every step.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "hybridattn/graph_runner.h"
#include "tests/support/hybrid_world.h"

namespace hybridattn::testing {

/// One way to run the schedule: a world, the ledger of its slots and pages, a copy of all bytes.
class ScheduleSide {
 public:
  ScheduleSide(const WorldOptions& options, bool graph);

  /// Plans, runs by a replay where one fits, and leaves the plan for the commit.
  Status run(const ForwardBatch& batch);
  /// What `owned` slots and pages do not name is as it was before the step; the rest is remembered.
  void check_bystanders(const std::vector<std::int32_t>& slots,
                        const std::vector<std::int32_t>& pages);
  /// Poisons what a request gives back.
  void poison(std::int32_t slot, const std::vector<std::int32_t>& pages);
  Status check_ledger() const;

  HybridWorld world;
  HandleAllocator pages, slots;
  RequestTable table;
  Plan* plan = nullptr;  // of the step at work
  std::int64_t replays = 0;

 private:
  struct Region {
    const Byte* data;
    std::size_t bytes;
    bool is_slot;
    std::int32_t id;
    std::vector<Byte> copy;
  };
  std::shared_ptr<Plan> eager_;
  struct Size {
    std::shared_ptr<Plan> plan;
    std::unique_ptr<Graph> graph;
  };
  std::vector<Size> sizes_;
  std::vector<Region> regions_;
};

struct ScheduleCounts {
  std::int64_t steps = 0, finished = 0, cancelled = 0, preempted = 0, failed = 0, replays = 0;
  std::int64_t drafted = 0, accepted = 0, recomputed = 0;
};

class RandomSchedule {
 public:
  RandomSchedule(std::uint64_t seed, const WorldOptions& options);
  ~RandomSchedule();
  /// Stops early at the first disagreement, which is a test failure.
  void run(std::int64_t steps);
  /// Ends all requests: every slot and page must be free again.
  void drain();
  const ScheduleCounts& counts() const { return counts_; }

 private:
  struct Request;
  struct Work;
  void admit();
  std::optional<Work> choose(Request& request);
  bool make_room(Request& request, std::int64_t tokens);
  void preempt(Request& request);
  void close(Request& request);
  void step();
  void feed(const Work& work, std::int32_t token);
  void check(const std::vector<Work>& works);
  void commit(std::vector<Work>& works, bool padded);
  void finish(Work& work);
  void maybe_inject();

  Random random_;
  WorldOptions options_;
  std::vector<std::unique_ptr<ScheduleSide>> sides_;
  std::vector<std::unique_ptr<Request>> requests_;
  std::uint64_t next_id_ = 1;
  ScheduleCounts counts_;
};

}  // namespace hybridattn::testing
