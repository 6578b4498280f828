// Trace: what each op of a context cost, as events in a ring of fixed size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "hybridattn/export.h"
#include "hybridattn/status.h"

namespace hybridattn {

class Context;

/// One call of an op, or of a function given to run_or_record or named by a TraceSpan.
struct TraceEvent {
  static constexpr std::size_t kMaxName = 35;  ///< bytes; longer names are cut

  char name[kMaxName + 1] = {};  ///< ends with a NUL
  std::int32_t workers = 0;      ///< the most that took part in one parallel loop of the call
  std::int32_t context = 0;      ///< which context, counted from 0 as they came to the trace
  std::int32_t depth = 0;        ///< calls of the same context that it ran inside of
  std::int64_t start_ns = 0;     ///< from the trace's creation
  std::int64_t duration_ns = 0;
};

/// All held events of one name.
struct TraceSummary {
  std::string name;
  std::int64_t calls = 0;
  std::int64_t total_ns = 0;
  double share = 0;  ///< of the time of all events of depth 0, in [0, 1]
};

/// Give it to contexts by ContextOptions::trace. It holds the last `capacity` events; recording one
/// allocates nothing. Thread-safe: several contexts may write to one trace, each on a track of its
/// own.
class HYBRIDATTN_API Trace {
 public:
  /// Errors: invalid_argument for a capacity of 0 or above 2^28; resource_exhausted.
  static Result<std::unique_ptr<Trace>> create(std::size_t capacity);
  ~Trace();
  Trace(const Trace&) = delete;
  Trace& operator=(const Trace&) = delete;

  std::size_t capacity() const noexcept;
  /// Events held, at most the capacity.
  std::size_t size() const noexcept;
  /// Events that newer ones have overwritten.
  std::uint64_t dropped() const noexcept;
  /// Those that are held, in the order in which they ended.
  std::vector<TraceEvent> events() const;
  /// By falling total. Of the events that are held: dropped() says how many are missing.
  std::vector<TraceSummary> summary() const;
  /// Forgets all events and the dropped count.
  void clear() noexcept;

  /// Chrome's trace JSON, which chrome://tracing and Perfetto read: an object with "traceEvents",
  /// one "X" event a call with ts and dur in microseconds, the context as tid. In names all but
  /// printable ASCII becomes '?'. A failed write shows in the state of `out`.
  void write_chrome(std::ostream& out) const;

  // What contexts call.

  /// Nanoseconds since the trace was made.
  std::int64_t now() const noexcept;
  /// Adds one event, over the oldest where the ring is full.
  void record(const TraceEvent& event) noexcept;
  /// The number of one more context.
  std::int32_t add_context() noexcept;

 private:
  struct State;
  explicit Trace(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

namespace core {
class Tracer;
}

/// Times a scope as one event where the context has a trace; costs one branch where it has none.
/// The library's ops have one each; engines name their own work with more.
class HYBRIDATTN_API TraceSpan {
 public:
  /// `name` must live as long as the span.
  TraceSpan(Context& context, std::string_view name) noexcept;
  ~TraceSpan();
  TraceSpan(const TraceSpan&) = delete;
  TraceSpan& operator=(const TraceSpan&) = delete;

 private:
  core::Tracer* tracer_;  // nullptr: no trace
  std::string_view name_;
  std::int64_t start_ns_ = 0;
  std::int32_t outer_workers_ = 0;
};

}  // namespace hybridattn
