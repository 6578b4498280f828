#include "hybridattn/graph.h"

#include <limits>

#include "hybridattn/status_macros.h"
#include "src/core/context_impl.h"
#include "src/core/recorder.h"

namespace hybridattn {

class Graph::Impl {
 public:
  explicit Impl(Context& owner) : context(owner), recorder(owner.allocator()) {}

  Context& context;
  core::Recorder recorder;
  std::shared_ptr<std::uint64_t> replays = std::make_shared<std::uint64_t>(0);
};

namespace {

/// Puts the context into recording for a scope, whatever way it is left.
class Recording {
 public:
  Recording(Context& context, core::Recorder& recorder) : impl_(context.impl()) {
    impl_.recorder = &recorder;
  }
  ~Recording() { impl_.recorder = nullptr; }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

 private:
  Context::Impl& impl_;
};

/// `replays` of a graph that is gone.
constexpr std::uint64_t kGone = std::numeric_limits<std::uint64_t>::max();

}  // namespace

Result<ConstTensorView> GraphOutput::view() const {
  if (*replays_ == replay_) return view_;
  if (*replays_ == kGone) {
    return error(StatusCode::kFailedPrecondition, "GraphOutput: the graph is gone");
  }
  return error(StatusCode::kFailedPrecondition, "GraphOutput: the output is that of replay ",
               replay_, " and replay ", *replays_,
               " has overwritten it; copy it before the next replay");
}

Graph::Graph(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Graph::~Graph() { *impl_->replays = kGone; }

Result<std::unique_ptr<Graph>> Graph::record(Context& context, const std::function<Status()>& fn) {
  if (core::recorder_of(context) != nullptr) {
    return error(StatusCode::kFailedPrecondition,
                 "Graph::record: the context is recording already");
  }
  if (!fn) return invalid_argument("Graph::record: fn is empty");
  if (context.device() != DeviceType::kCpu) {
    return error(StatusCode::kUnsupported,
                 "Graph::record: the context is on cuda, must be on cpu; capture its stream");
  }
  auto impl = std::make_unique<Impl>(context);
  {
    const Recording recording(context, impl->recorder);
    HYBRIDATTN_TRY(fn());
  }
  HYBRIDATTN_TRY(impl->recorder.reserve_workers(context.executor().concurrency()));
  return std::unique_ptr<Graph>(new Graph(std::move(impl)));
}

Status Graph::replay() {
  core::Recorder& recorder = impl_->recorder;
  if (core::recorder_of(impl_->context) != nullptr) {
    return error(StatusCode::kFailedPrecondition, "Graph::replay: the context is recording");
  }
  for (const core::Recorder::Input& input : recorder.inputs) {
    if (input.data->superseded()) {
      return error(StatusCode::kFailedPrecondition,
                   "Graph::replay: a plan of the graph was superseded by another with verify rows; "
                   "call replan with this step's batch first");
    }
    if (input.data->version() == input.replayed) {
      return error(StatusCode::kFailedPrecondition,
                   "Graph::replay: a plan of the graph was not rewritten since replay ",
                   *impl_->replays, "; call replan with this step's batch first");
    }
  }
  for (core::Recorder::Input& input : recorder.inputs) {
    input.replayed = input.data->version();
  }
  ++*impl_->replays;
  for (const core::Recorder::Call& call : recorder.calls) {
    core::Launch launch{impl_->context.executor(), impl_->context.isa(), recorder.workers,
                        recorder.worker_bytes};
    const TraceSpan span(impl_->context, call.name);
    HYBRIDATTN_TRY(call.body(launch));
    core::end_launch(impl_->context, launch);
  }
  for (const core::Recorder::Input& input : recorder.inputs) input.data->set_ran();
  return {};
}

GraphOutput Graph::output(const ConstTensorView& view) const { return {view, impl_->replays}; }
std::size_t Graph::num_calls() const noexcept { return impl_->recorder.calls.size(); }
std::uint64_t Graph::num_replays() const noexcept { return *impl_->replays; }
std::size_t Graph::workspace_bytes() const noexcept { return impl_->recorder.total_bytes; }

Status run_or_record(Context& context, std::string name, std::function<Status()> fn) {
  if (!fn) return invalid_argument("run_or_record: fn of ", name, " is empty");
  core::Recorder* recorder = core::recorder_of(context);
  if (recorder == nullptr) {
    const TraceSpan span(context, name);
    return fn();
  }
  recorder->add(
      std::move(name), [run = std::move(fn)](core::Launch&) { return run(); }, 0);
  return {};
}

}  // namespace hybridattn
