#include "src/core/tracer.h"

#include <algorithm>
#include <utility>

#include "src/core/context_impl.h"

namespace hybridattn {
namespace core {
namespace {

// Set while a thread runs a task of a counted loop.
thread_local bool inside_counted = false;

}  // namespace

struct CountingExecutor::Loop {
  CountingExecutor& self;
  Task task;
  void* argument;
  std::uint64_t number;
  std::atomic<std::int32_t> workers{0};
};

CountingExecutor::CountingExecutor(Executor& inner)
    : inner_(inner), last_loop_(static_cast<std::size_t>(inner.concurrency())) {}

void CountingExecutor::run_counted(void* argument, std::int64_t index, int worker) {
  auto& loop = *static_cast<Loop*>(argument);
  // Only this worker reads and writes its place, in one thread at a time.
  auto& last = loop.self.last_loop_[static_cast<std::size_t>(worker)];
  if (last.load(std::memory_order_relaxed) != loop.number) {
    last.store(loop.number, std::memory_order_relaxed);
    loop.workers.fetch_add(1, std::memory_order_relaxed);
  }
  const bool outer = std::exchange(inside_counted, true);
  loop.task(loop.argument, index, worker);
  inside_counted = outer;
}

void CountingExecutor::run(std::int64_t count, Task task, void* argument) {
  if (inside_counted) return inner_.run(count, task, argument);
  Loop loop{*this, task, argument, ++loops_};
  inner_.run(count, run_counted, &loop);
  most_workers = std::max(most_workers, loop.workers.load(std::memory_order_relaxed));
}

Tracer::Tracer(Trace& trace, Executor& executor)
    : trace_(trace), executor_(executor), context_(trace.add_context()) {}

Tracer::Mark Tracer::begin() noexcept {
  ++depth_;
  return {trace_.now(), std::exchange(executor_.most_workers, 1)};
}

void Tracer::end(std::string_view name, const Mark& mark) noexcept {
  TraceEvent event;
  name.substr(0, TraceEvent::kMaxName).copy(event.name, TraceEvent::kMaxName);
  event.duration_ns = trace_.now() - mark.start_ns;
  event.start_ns = mark.start_ns;
  event.workers = executor_.most_workers;
  event.context = context_;
  event.depth = --depth_;
  trace_.record(event);
  executor_.most_workers = std::max(executor_.most_workers, mark.outer_workers);
}

}  // namespace core

TraceSpan::TraceSpan(Context& context, std::string_view name) noexcept
    : tracer_(context.impl().tracer.get()), name_(name) {
  if (tracer_ == nullptr) return;
  const core::Tracer::Mark mark = tracer_->begin();
  start_ns_ = mark.start_ns;
  outer_workers_ = mark.outer_workers;
}

TraceSpan::~TraceSpan() {
  if (tracer_ != nullptr) tracer_->end(name_, {start_ns_, outer_workers_});
}

}  // namespace hybridattn
