#include "hybridattn/graph.h"

#include <limits>

#include "hybridattn/status_macros.h"
#include "src/core/context_impl.h"
#include "src/core/recorder.h"

namespace hybridattn {

class Graph::Impl {
 public:
  explicit Impl(Context& owner) : context(owner), recorder(owner.allocator()) {}

  /// Records what `fn` calls as a list of calls.
  Status record_calls(const std::function<Status()>& fn);
  /// Records what `fn` orders on the context's stream as a graph of the device.
  Status capture(const std::function<Status()>& fn);
  /// Whether the plans that the calls read are those of a step that has not been replayed yet.
  Status check_inputs() const;
  Status run_calls();
  Status launch();

  Context& context;
  core::Recorder recorder;
  std::unique_ptr<core::DeviceGraph> captured;  // nullptr on the CPU
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

/// Captures the context's stream for a scope, whatever way it is left.
class Capture {
 public:
  explicit Capture(core::Device& device) : device_(device) {}
  ~Capture() {
    if (open_) (void)end();  // the function's own error is the one to tell
  }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  Status begin() {
    HYBRIDATTN_TRY(device_.begin_capture());
    open_ = true;
    return {};
  }
  Result<std::unique_ptr<core::DeviceGraph>> end() {
    open_ = false;
    return device_.end_capture();
  }

 private:
  core::Device& device_;
  bool open_ = false;
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
  auto impl = std::make_unique<Impl>(context);
  HYBRIDATTN_TRY(context.device() == DeviceType::kCpu ? impl->record_calls(fn) : impl->capture(fn));
  return std::unique_ptr<Graph>(new Graph(std::move(impl)));
}

Status Graph::Impl::record_calls(const std::function<Status()>& fn) {
  {
    const Recording recording(context, recorder);
    HYBRIDATTN_TRY(fn());
  }
  return recorder.reserve_workers(context.executor().concurrency());
}

Status Graph::Impl::capture(const std::function<Status()>& fn) {
  Context::Impl& owner = context.impl();
  if (owner.accelerator->capturing()) {
    return error(StatusCode::kFailedPrecondition,
                 "Graph::record: the context's stream is being captured already");
  }
  owner.captured = true;  // workspace that the graph names stays where it is
  const Recording recording(context, recorder);
  Capture stream(*owner.accelerator);
  HYBRIDATTN_TRY(stream.begin());
  HYBRIDATTN_TRY(fn());
  HYBRIDATTN_ASSIGN(captured, stream.end());
  return {};
}

Status Graph::Impl::check_inputs() const {
  for (const core::Recorder::Input& input : recorder.inputs) {
    if (input.data->superseded()) {
      return error(StatusCode::kFailedPrecondition,
                   "Graph::replay: a plan of the graph was superseded by another with verify rows, "
                   "or its last replan failed; call replan with this step's batch first");
    }
    if (input.data->version() == input.replayed) {
      return error(StatusCode::kFailedPrecondition,
                   "Graph::replay: a plan of the graph was not rewritten since replay ", *replays,
                   "; call replan with this step's batch first");
    }
  }
  return {};
}

Status Graph::Impl::run_calls() {
  for (const core::Recorder::Call& call : recorder.calls) {
    core::Launch launch{context.executor(), context.isa(), recorder.workers, recorder.worker_bytes};
    const TraceSpan span(context, call.name);
    HYBRIDATTN_TRY(call.body(launch));
    core::end_launch(context, launch);
  }
  return {};
}

Status Graph::Impl::launch() {
  HYBRIDATTN_TRY(captured->launch());
  Context::Impl& owner = context.impl();
  return owner.synchronous ? owner.accelerator->synchronize("Graph::replay") : Status();
}

Status Graph::replay() {
  core::Recorder& recorder = impl_->recorder;
  if (core::recorder_of(impl_->context) != nullptr) {
    return error(StatusCode::kFailedPrecondition, "Graph::replay: the context is recording");
  }
  HYBRIDATTN_TRY(impl_->check_inputs());
  for (core::Recorder::Input& input : recorder.inputs) {
    input.replayed = input.data->version();
  }
  ++*impl_->replays;
  HYBRIDATTN_TRY(impl_->captured == nullptr ? impl_->run_calls() : impl_->launch());
  for (const core::Recorder::Input& input : recorder.inputs) input.data->set_ran();
  return {};
}

GraphOutput Graph::output(const ConstTensorView& view) const { return {view, impl_->replays}; }
std::size_t Graph::num_calls() const noexcept {
  return impl_->captured == nullptr ? impl_->recorder.calls.size() : impl_->captured->num_nodes();
}
std::uint64_t Graph::num_replays() const noexcept { return *impl_->replays; }
std::size_t Graph::workspace_bytes() const noexcept { return impl_->recorder.total_bytes; }

Status run_or_record(Context& context, std::string name, std::function<Status()> fn) {
  if (!fn) return invalid_argument("run_or_record: fn of ", name, " is empty");
  core::Recorder* recorder = core::recorder_of(context);
  // On a GPU the stream is captured: what the function orders there is recorded by itself.
  if (recorder == nullptr || context.device() != DeviceType::kCpu) {
    const TraceSpan span(context, name);
    return fn();
  }
  recorder->add(
      std::move(name), [run = std::move(fn)](core::Launch&) { return run(); }, 0);
  return {};
}

}  // namespace hybridattn
