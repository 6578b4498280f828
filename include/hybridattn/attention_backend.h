// AttentionBackend: plans a step once, then runs each layer of it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "hybridattn/context.h"
#include "hybridattn/forward_batch.h"
#include "hybridattn/graph.h"
#include "hybridattn/layers.h"
#include "hybridattn/ops/gated_rms_norm.h"
#include "hybridattn/request_table.h"
#include "hybridattn/tensor.h"

namespace hybridattn {

/// What one full-attention layer of a step takes. T = tokens of the batch.
struct AttentionRunArgs {
  ConstTensorView q{};  ///< [T, HQ, D]
  ConstTensorView
      k{};  ///< [T, HK, D]; without data: attend to what the layer's cache holds already
  ConstTensorView v{};        ///< [T, HK, DV]; given exactly where k is
  TensorView out{};           ///< [T, HQ, DV], the caller's; pad rows become zeros
  bool save_kv_cache = true;  ///< store k and v before attending; false = they are stored already
  ConstTensorView q_norm{};   ///< optional [D]: zero-centred RMSNorm of q before the rotation
  ConstTensorView k_norm{};   ///< optional [D]: the same for k
  float norm_epsilon = 1e-6f;
  ConstTensorView cos{};   ///< optional [T, R/2] f32: rotate q and k
  ConstTensorView sin{};   ///< optional [T, R/2] f32
  ConstTensorView gate{};  ///< optional [T, HQ, DV]: out * sigmoid(gate)
  TensorView lse{};        ///< optional [T, HQ] f32
};

/// What one GDN layer of a step takes.
struct GdnRunArgs {
  ConstTensorView mixed_qkv{};    ///< [T, C], before the convolution, channels q | k | v
  ConstTensorView a{};            ///< [T, HV]; [T, HV, K] where the layer has channel_decay
  ConstTensorView b{};            ///< [T, HV]
  TensorView out{};               ///< [T, HV, V], the caller's; pad rows become zeros
  ConstTensorView z{};            ///< optional [T, HV, V]: gated RMSNorm of the output
  ConstTensorView norm_weight{};  ///< [V], given exactly where z is
  float norm_epsilon = 1e-6f;
  GateKind gate = GateKind::kSilu;
};

/// A row of a step as backends see it, borrowing its pages. Rows of no token and no request are not
/// among them.
struct RowView {
  std::int32_t index = 0;  ///< in the batch
  RowKind kind = RowKind::kPad;
  std::int32_t slot = kPadIndex;
  std::span<const std::int32_t> pages{};
  std::int64_t computed = 0;
  std::int32_t new_tokens = 0;
  std::int32_t first_token = 0;             ///< in the flat stream
  std::span<const std::int32_t> parents{};  ///< of a tree
};

/// What a commit keeps of a verify row. A path of no token keeps nothing.
struct AcceptedRow {
  std::int32_t first_token = 0;          ///< of the row, in the flat stream
  std::span<const std::int32_t> path{};  ///< tokens of the row, counted from its first, in order
};

/// What a backend worked out for one step. It holds copies: the batch may go. Several may live at
/// once, and each serves the backend that made it.
class HYBRIDATTN_API Plan : public GraphInput {
 public:
  /// The most that the plan can be rewritten for; of a plan of a single step, what the step holds.
  const GraphShape& shape() const noexcept { return shape_; }
  /// The batch that the plan was last written for; 0 = none yet.
  std::uint64_t batch_id() const noexcept { return batch_id_; }
  /// Length of the flat stream that the run verbs take.
  std::int32_t num_tokens() const noexcept { return shape_.tokens; }
  ForwardMode mode() const noexcept { return mode_; }
  /// AttentionBackend::id of the one that made it.
  std::uint64_t backend_id() const noexcept { return backend_id_; }

 protected:
  Plan(std::uint64_t backend_id, const GraphShape& shape, bool recordable)
      : GraphInput(recordable), backend_id_(backend_id), shape_(shape) {}

 private:
  friend class AttentionBackend;
  void reserve_drafts();
  bool awaits_commit() const noexcept { return !verify_rows_.empty() && !committed_; }
  std::uint64_t backend_id_;
  GraphShape shape_;
  std::uint64_t batch_id_ = 0;
  ForwardMode mode_ = ForwardMode::kIdle;
  struct VerifyRow {
    std::int32_t row;  // of the batch
    std::int32_t tokens;
    std::int32_t first_token;
    std::int32_t slot;
    std::int64_t computed;
    std::size_t parents;  // its first in draft_parents_
  };
  std::vector<VerifyRow> verify_rows_;       // in their order
  std::vector<std::int32_t> draft_parents_;  // of all verify rows
  std::int32_t num_rows_ = 0;                // of the batch
  bool committed_ = false;
  std::vector<AcceptedRow> accepted_;         // of the commit at work
  std::vector<std::int32_t> accepted_paths_;  // of all of them, one after the other
};

/// The verbs that every backend has. Planning may allocate; replanning and the run verbs do not,
/// nor do they synchronise. A backend serves one thread at a time, that of its context.
class HYBRIDATTN_API AttentionBackend {
 public:
  AttentionBackend();
  virtual ~AttentionBackend() = default;
  AttentionBackend(const AttentionBackend&) = delete;
  AttentionBackend& operator=(const AttentionBackend&) = delete;

  /// Different for each backend made in this process: a plan remembers whose it is.
  std::uint64_t id() const noexcept { return id_; }
  virtual std::string_view name() const noexcept = 0;
  /// The context that it was made on; of a backend of two, that of full attention.
  virtual Context& context() noexcept = 0;
  /// Makes the context's workspace large enough for batches of up to `max_tokens` tokens, so that
  /// no plan of such a batch allocates any. Errors: invalid_argument, resource_exhausted.
  virtual Status reserve(std::int32_t max_tokens) = 0;

  /// A plan for one step. Only one plan with verify rows is at work at a time, since the states of
  /// their drafts are kept in one pool: after a run it must be committed before another is made,
  /// and one that has not run is superseded by it and refuses to run. Errors: invalid_argument,
  /// out_of_range, unsupported, naming the row; failed_precondition; resource_exhausted.
  Result<std::shared_ptr<Plan>> plan(const ForwardBatch& batch);
  /// A plan that a graph can hold: its arrays have room for `shape` and never move. Every row of it
  /// is padding until it is rewritten. Errors: invalid_argument, resource_exhausted.
  Result<std::shared_ptr<Plan>> plan_graph(const GraphShape& shape);
  /// Rewrites every row of a plan of plan_graph in place, padding where the batch has none.
  /// Allocates nothing. Errors: as plan; out_of_range when the batch holds more than the plan's
  /// shape; failed_precondition when verify rows that have run, of this plan or another, are not
  /// committed yet. After these the plan is as it was. Where the upload of the rows to a GPU fails
  /// (resource_exhausted, device_error) it is neither run nor replayed until it is rewritten.
  Status replan(Plan& plan, const ForwardBatch& batch);

  /// Ends the verify rows of a step that was run. `last_accepted` has one entry for each row of the
  /// batch: of a verify row the last token that is accepted, counted from the row's first, or -1
  /// for none; entries of other rows are not looked at. Afterwards keys, values, convolution
  /// windows and states of all layers are those of having decoded the accepted path, and the row's
  /// count grows by its length (the caller's to keep: RequestTable::advance, or the form below).
  /// Allocates nothing. Errors: invalid_argument, out_of_range; failed_precondition for another
  /// backend's plan, one that was committed already or superseded, and for accepted tokens of one
  /// that has not run (of a graph: whose last replay did not come to its end).
  Status commit(Plan& plan, std::span<const std::int32_t> last_accepted);
  /// The same for rows of a table, which is told how far each of them is now. `rows` has the handle
  /// of each row of the batch; those that are not verify rows are not looked at. A request that has
  /// ended meanwhile is dropped: whoever has its slot and pages now keeps them as they are. Errors:
  /// also invalid_argument for a handle whose slot or count are not those that the row was planned
  /// with; nothing is moved or counted then.
  Status commit(Plan& plan, RequestTable& table, std::span<const Handle> rows,
                std::span<const std::int32_t> last_accepted);

  /// Runs one full-attention layer. Errors: as the ops; failed_precondition for a plan of another
  /// backend; unsupported from a backend without full attention.
  virtual Status run_attention(const Plan& plan, const RadixAttention& layer,
                               const AttentionRunArgs& args);
  /// Runs one GDN layer. Errors: the same.
  virtual Status run_gdn(const Plan& plan, const RadixLinearAttention& layer,
                         const GdnRunArgs& args);

  // The upstream names: the plan of the last init_forward_metadata* is the current one.

  /// Plans `batch` and keeps the plan as the current one; on an error the old one stays.
  Status init_forward_metadata(const ForwardBatch& batch);
  /// Dispatches on the mode: decode batches to forward_decode, idle ones give zeros, all others
  /// go to forward_extend. Errors: failed_precondition when `batch` is not the planned one. While a
  /// graph is recorded, the current plan is that of the capture verb and `batch` only says the
  /// mode.
  Status forward(const RadixAttention& layer, const ForwardBatch& batch,
                 const AttentionRunArgs& args);
  Status forward_extend(const RadixAttention& layer, const ForwardBatch& batch,
                        const AttentionRunArgs& args);
  /// Errors: also failed_precondition when the batch has rows that do not decode.
  Status forward_decode(const RadixAttention& layer, const ForwardBatch& batch,
                        const AttentionRunArgs& args);
  Status forward_gdn(const RadixLinearAttention& layer, const ForwardBatch& batch,
                     const GdnRunArgs& args);
  /// nullptr before the first plan.
  const Plan* current_plan() const noexcept { return current_.get(); }

  // The graph verbs under the upstream names: decode steps of one token a row. A request is named
  // by its row in the table given to set_request_table, which knows its slot, pages and count.

  /// `table` is borrowed and must outlive the backend. What was captured for another table is
  /// forgotten.
  void set_request_table(const RequestTable* table) noexcept;
  /// A row whose length is this is padding: 0.
  static constexpr std::int32_t get_cuda_graph_seq_len_fill_value() noexcept { return 0; }
  /// Once, before the first capture. Errors: invalid_argument; failed_precondition without a table;
  /// resource_exhausted.
  Status init_cuda_graph_state(std::int32_t max_bs, std::int32_t max_num_tokens);
  /// Makes the plan of `bs` rows the current one, to be recorded next. `seq_lens` count the new
  /// token; a row is padding iff its index is kPadIndex or its length is 0. Errors: as replan;
  /// unsupported for a mode that is neither decode nor idle.
  Status init_forward_metadata_capture_cuda_graph(std::int32_t bs, std::int32_t num_tokens,
                                                  std::span<const std::int32_t> req_pool_indices,
                                                  std::span<const std::int32_t> seq_lens,
                                                  ForwardMode forward_mode);
  /// Rewrites the plan of `bs` rows; Graph::replay comes next. `seq_lens_cpu` may be empty or equal
  /// to `seq_lens`; `seq_lens_sum` is their sum. Errors: the same; failed_precondition for a `bs`
  /// that was not captured or a row whose length is not one more than the table's count.
  Status init_forward_metadata_replay_cuda_graph(std::int32_t bs,
                                                 std::span<const std::int32_t> req_pool_indices,
                                                 std::span<const std::int32_t> seq_lens,
                                                 std::int64_t seq_lens_sum,
                                                 ForwardMode forward_mode,
                                                 std::span<const std::int32_t> seq_lens_cpu = {});

  // What a backend implements. HybridAttnBackend calls these of its two.

  /// Room for `shape`. Errors: resource_exhausted.
  virtual Result<std::shared_ptr<Plan>> make_plan(const GraphShape& shape, bool recordable) = 0;
  /// Whether the rows can be run, without writing anything. Allocates nothing after the first call.
  virtual Status check_rows(std::span<const RowView> rows) = 0;
  /// Writes checked rows that fit the plan's shape, and padding for the rest. Cannot fail on the
  /// CPU. Errors: device_error.
  virtual Status write_rows(Plan& plan, std::span<const RowView> rows) = 0;
  /// Moves what a commit moves: `accepted[i]` belongs to the i-th verify row of the plan. Allocates
  /// nothing. A backend without verify rows has nothing to move.
  virtual Status move_accepted(Plan& plan, std::span<const AcceptedRow> accepted);

 protected:
  /// Whether the plan is one of this backend and may run. Errors: failed_precondition.
  Status check_plan(const Plan& plan) const;

 private:
  Status check_current(const char* verb, const ForwardBatch& batch) const;
  Status check_fits(const Plan& plan, const GraphShape& has) const;
  Result<std::shared_ptr<Plan>> new_plan(const GraphShape& shape, bool recordable);
  Status upload_rows(Plan& plan, std::span<const RowView> rows);
  Status rewrite(Plan& plan, const GraphShape& shape, std::span<const RowView> rows,
                 std::int32_t num_rows, std::uint64_t batch_id, ForwardMode mode);
  static void remember(Plan& plan, std::span<const RowView> rows, std::int32_t num_rows,
                       std::uint64_t batch_id, ForwardMode mode);
  Status check_drafts(const Plan* plan, const GraphShape& shape) const;
  void claim_drafts(Plan& plan);
  Status check_commit(const Plan& plan, std::span<const std::int32_t> last_accepted) const;
  Status check_commit_rows(const Plan& plan, const RequestTable& table,
                           std::span<const Handle> rows,
                           std::span<const std::int32_t> last_accepted) const;
  static void find_paths(Plan& plan, std::span<const std::int32_t> last_accepted,
                         const RequestTable* table, std::span<const Handle> rows);
  Status table_rows(std::span<const std::int32_t> req_pool_indices,
                    std::span<const std::int32_t> seq_lens);

  std::uint64_t id_;
  std::shared_ptr<Plan> current_;
  std::weak_ptr<Plan> drafting_;  // the last plan that was written with verify rows
  std::vector<RowView> rows_;     // of the plan being written
  const RequestTable* table_ = nullptr;
  std::int32_t max_graph_rows_ = 0;
  std::map<std::int32_t, std::shared_ptr<Plan>> graph_plans_;  // by rows
};

}  // namespace hybridattn
