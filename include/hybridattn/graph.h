// Graph: the calls of a step, recorded once and replayed for other requests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "hybridattn/context.h"
#include "hybridattn/tensor.h"

namespace hybridattn {

/// Data that recorded calls read at addresses which never change, and that must be rewritten before
/// every replay: the plans of a backend. A graph that reads one shares its ownership.
class HYBRIDATTN_API GraphInput : public std::enable_shared_from_this<GraphInput> {
 public:
  virtual ~GraphInput() = default;
  /// How often it was written.
  std::uint64_t version() const noexcept { return version_; }
  /// False for the plans of single steps: their size is that of their batch.
  bool recordable() const noexcept { return recordable_; }

  /// Said by whoever rewrote it.
  void set_written() noexcept {
    ++version_;
    ran_ = false;
    superseded_ = false;
  }
  /// Whether calls have read it since, in a replay that came to its end or eagerly.
  virtual bool ran() const noexcept { return ran_; }
  /// Said by those calls. Who captures a CUDA stream himself, without Graph, says it after each
  /// launch, or drafts can neither be committed nor are they guarded.
  void set_ran() const noexcept { ran_ = true; }
  /// Whether it must not be read any more until it is rewritten: what it names is another's now, or
  /// a rewrite failed halfway.
  bool superseded() const noexcept { return superseded_; }
  virtual void supersede() noexcept { superseded_ = true; }

 protected:
  explicit GraphInput(bool recordable) : recordable_(recordable) {}

 private:
  std::uint64_t version_ = 0;
  mutable bool ran_ = false;
  bool superseded_ = false;
  bool recordable_;
};

/// What a replay left in a buffer. It holds no copy: the next replay of the graph overwrites it.
class HYBRIDATTN_API GraphOutput {
 public:
  /// The tensor. Errors: failed_precondition once the graph has been replayed again or is gone.
  Result<ConstTensorView> view() const;

 private:
  friend class Graph;
  GraphOutput(ConstTensorView view, std::shared_ptr<const std::uint64_t> replays)
      : view_(view), replays_(std::move(replays)), replay_(*replays_) {}
  ConstTensorView view_;
  std::shared_ptr<const std::uint64_t> replays_;
  std::uint64_t replay_;
};

/// The op calls that a function made, with the pointers they were given. Tensors of the caller stay
/// where they are and outlive the graph; plans belong to the graph. On the CPU it is a list of
/// calls, which owns their workspace; on CUDA a captured graph of the context's stream, over the
/// workspace of the context, which graphs of one stream may share.
class HYBRIDATTN_API Graph {
 public:
  /// Calls `fn`, whose ops on `context` are checked and kept, not run. `context` is borrowed and
  /// must outlive the graph. Errors: whatever `fn` returns; failed_precondition when the context is
  /// recording already, when `fn` runs a plan that was not made by plan_graph, and on CUDA when a
  /// call wants to upload host arrays or more workspace than there is (plan_graph reserves it);
  /// resource_exhausted; device_error when `fn` asks CUDA for what cannot be captured.
  static Result<std::unique_ptr<Graph>> record(Context& context, const std::function<Status()>& fn);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  /// Runs all calls in order, on CUDA by one launch. Allocates nothing. Errors: failed_precondition
  /// when a plan of the graph was not rewritten since the last replay: its rows would be those of
  /// another step; what a recorded function of the caller returns, after which the calls behind it
  /// have not run.
  Status replay();

  /// A tensor that the graph writes, as the last replay left it.
  GraphOutput output(const ConstTensorView& view) const;

  /// Calls; on CUDA kernels and copies.
  std::size_t num_calls() const noexcept;
  std::uint64_t num_replays() const noexcept;
  /// Bytes of workspace that the graph owns; 0 on CUDA.
  std::size_t workspace_bytes() const noexcept;

 private:
  class Impl;
  explicit Graph(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// A function of the caller as one call: runs now, or at each replay where a graph is being
/// recorded. What it captures must live as long as the graph. On CUDA it always runs now, and what
/// it orders on the context's stream is what replays repeat.
HYBRIDATTN_API Status run_or_record(Context& context, std::string name, std::function<Status()> fn);

}  // namespace hybridattn
