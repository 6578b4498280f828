// GraphRunner: recorded steps of several sizes; each batch runs in the smallest that holds it.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "hybridattn/attention_backend.h"
#include "hybridattn/graph.h"

namespace hybridattn {

/// Decode steps of 1, 2, 4, 8, then every 8 rows to 256, every 16 to 512, every 32 beyond, up to
/// and with `max_rows`: the sizes that engines capture. `pages_per_row` is the most that one row
/// names.
HYBRIDATTN_API std::vector<GraphShape> decode_buckets(std::int32_t max_rows,
                                                      std::int32_t pages_per_row);

/// One graph for each size. A batch of any kinds of rows is padded to the smallest size that holds
/// it.
class HYBRIDATTN_API GraphRunner {
 public:
  /// Runs every layer of a step: `plan.num_tokens()` tokens of the caller's buffers, which are the
  /// same ones at every call.
  using Step = std::function<Status(const Plan& plan)>;

  /// Records `step` for each size. `context` and `backend` are borrowed and must outlive the
  /// runner, as must the tensors that `step` names. Errors: as AttentionBackend::plan_graph and
  /// Graph::record, with the size in front.
  static Result<std::unique_ptr<GraphRunner>> create(Context& context, AttentionBackend& backend,
                                                     std::vector<GraphShape> sizes, Step step);

  /// Whether some size holds the batch.
  bool can_run(const ForwardBatch& batch) const noexcept;
  /// Rewrites the plan of the smallest size that holds the batch, with padding for the rest, and
  /// replays it. The tokens behind the batch's, up to the size's, are padding: their outputs are
  /// zeros. Allocates nothing. Returns the graph, whose outputs hold until its next replay. Errors:
  /// out_of_range when no size holds the batch (run it eagerly); as AttentionBackend::replan.
  Result<const Graph*> run(const ForwardBatch& batch);
  /// The plan of the last run, for AttentionBackend::commit; nullptr before the first.
  Plan* last_plan() const noexcept { return last_plan_; }
  /// Workspace of all graphs, in bytes.
  std::size_t workspace_bytes() const noexcept;

 private:
  struct Size {
    std::shared_ptr<Plan> plan;
    std::unique_ptr<Graph> graph;
  };
  explicit GraphRunner(AttentionBackend& backend) : backend_(backend) {}
  const Size* find(const ForwardBatch& batch) const noexcept;

  AttentionBackend& backend_;
  std::vector<Size> sizes_;  // smallest first
  Plan* last_plan_ = nullptr;
};

}  // namespace hybridattn
