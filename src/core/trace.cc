// The ring of a trace and what can be made of it.
#include "hybridattn/trace.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>
#include <new>

namespace hybridattn {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMaxCapacity = std::size_t{1} << 28;

/// Nanoseconds as microseconds with three decimals, whatever the stream's locale.
std::string microseconds(std::int64_t ns) {
  const std::string decimals = std::to_string(1000 + ns % 1000);
  return concat(ns / 1000, ".", decimals.substr(1));
}

std::string quoted(std::string_view name) {
  std::string out = "\"";
  for (const char c : name) {
    if (c == '"' || c == '\\') out += '\\';
    out += c < 0x20 || c > 0x7e ? '?' : c;
  }
  return out + '"';
}

}  // namespace

struct Trace::State {
  explicit State(std::size_t capacity) : ring(capacity) {}

  /// Calls fn for each event that is held, oldest first. The caller holds the lock.
  template <class Fn>
  void for_each(const Fn& fn) const {
    const std::uint64_t held = std::min<std::uint64_t>(written, ring.size());
    for (std::uint64_t i = written - held; i < written; ++i) fn(ring[i % ring.size()]);
  }

  const Clock::time_point begin = Clock::now();
  mutable std::mutex mutex;
  std::vector<TraceEvent> ring;
  std::uint64_t written = 0;  // since the last clear
  std::int32_t contexts = 0;
};

Trace::Trace(std::unique_ptr<State> state) : state_(std::move(state)) {}
Trace::~Trace() = default;

Result<std::unique_ptr<Trace>> Trace::create(std::size_t capacity) {
  if (capacity < 1 || capacity > kMaxCapacity) {
    return invalid_argument("Trace::create: capacity is ", capacity, ", must be 1 to ",
                            kMaxCapacity);
  }
  try {
    return std::unique_ptr<Trace>(new Trace(std::make_unique<State>(capacity)));
  } catch (const std::bad_alloc&) {
    return error(StatusCode::kResourceExhausted, "Trace::create: no memory for ", capacity,
                 " events of ", sizeof(TraceEvent), " bytes");
  }
}

std::size_t Trace::capacity() const noexcept { return state_->ring.size(); }

std::size_t Trace::size() const noexcept {
  const std::lock_guard lock(state_->mutex);
  return static_cast<std::size_t>(std::min<std::uint64_t>(state_->written, state_->ring.size()));
}

std::uint64_t Trace::dropped() const noexcept {
  const std::lock_guard lock(state_->mutex);
  return state_->written - std::min<std::uint64_t>(state_->written, state_->ring.size());
}

std::vector<TraceEvent> Trace::events() const {
  const std::lock_guard lock(state_->mutex);
  std::vector<TraceEvent> events;
  state_->for_each([&](const TraceEvent& event) { events.push_back(event); });
  return events;
}

std::vector<TraceSummary> Trace::summary() const {
  std::map<std::string, TraceSummary> by_name;
  std::int64_t all = 0;
  for (const TraceEvent& event : events()) {
    TraceSummary& row = by_name[event.name];
    ++row.calls;
    row.total_ns += event.duration_ns;
    if (event.depth == 0) all += event.duration_ns;
  }
  std::vector<TraceSummary> rows;
  for (auto& [name, row] : by_name) {
    row.name = name;
    if (all > 0) row.share = static_cast<double>(row.total_ns) / static_cast<double>(all);
    rows.push_back(std::move(row));
  }
  std::stable_sort(rows.begin(), rows.end(), [](const TraceSummary& a, const TraceSummary& b) {
    return a.total_ns > b.total_ns;
  });
  return rows;
}

void Trace::clear() noexcept {
  const std::lock_guard lock(state_->mutex);
  state_->written = 0;
}

void Trace::write_chrome(std::ostream& out) const {
  const std::string pid = std::to_string(getpid());
  out << "{\"displayTimeUnit\":\"ns\",\"otherData\":{\"dropped\":" << std::to_string(dropped())
      << "},\"traceEvents\":[";
  const char* separator = "\n";
  for (const TraceEvent& e : events()) {
    out << concat(separator, "{\"name\":", quoted(e.name),
                  ",\"cat\":\"op\",\"ph\":\"X\",\"ts\":", microseconds(e.start_ns),
                  ",\"dur\":", microseconds(e.duration_ns), ",\"pid\":", pid,
                  ",\"tid\":", e.context, ",\"args\":{\"workers\":", e.workers, "}}");
    separator = ",\n";
  }
  out << "\n]}\n";
}

std::int64_t Trace::now() const noexcept {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - state_->begin).count();
}

void Trace::record(const TraceEvent& event) noexcept {
  const std::lock_guard lock(state_->mutex);
  state_->ring[state_->written % state_->ring.size()] = event;
  ++state_->written;
}

std::int32_t Trace::add_context() noexcept {
  const std::lock_guard lock(state_->mutex);
  return state_->contexts++;
}

}  // namespace hybridattn
