#include "apps/hybridattn/trace_file.h"

#include <cerrno>
#include <cstdio>
#include <iostream>
#include <system_error>
#include <vector>

#include "engine/checkpoint/json_document.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::app {
namespace {

// 16 MiB of events: the last 600 steps of a model of 24 layers, and JSON that viewers still open.
constexpr std::size_t kCapacity = std::size_t{1} << 18;

Status cannot_write(const std::string& path) {
  const std::string reason = std::generic_category().message(errno);
  return error(StatusCode::kDataLoss, "--trace ", engine::path_text(path),
               ": can't write it: ", reason);
}

void print_line(const std::string& name, const std::string& calls, const std::string& ms,
                const std::string& share) {
  char line[128];
  std::snprintf(line, sizeof line, "%-36s %9s %12s %8s\n", name.c_str(), calls.c_str(), ms.c_str(),
                share.c_str());
  std::cerr << line;
}

std::string fixed(double value, int decimals) {
  char text[48];
  std::snprintf(text, sizeof text, "%.*f", decimals, value);
  return text;
}

void print_table(const Trace& trace) {
  print_line("op", "calls", "total ms", "share");
  for (const TraceSummary& row : trace.summary()) {
    print_line(row.name, std::to_string(row.calls),
               fixed(static_cast<double>(row.total_ns) * 1e-6, 3), fixed(row.share * 100, 1) + "%");
  }
  if (trace.dropped() == 0) return;
  std::cerr << trace.dropped() << " earlier calls are not in the trace, which holds the last "
            << trace.capacity() << '\n';
}

}  // namespace

Result<TraceFile> TraceFile::open(const std::string& path) {
  TraceFile made;
  if (path.empty()) return made;
  made.path_ = path;
  HYBRIDATTN_ASSIGN(made.trace_, Trace::create(kCapacity));
  errno = 0;
  made.file_.open(path, std::ios::binary | std::ios::trunc);
  if (!made.file_) return cannot_write(path);
  return made;
}

Status TraceFile::finish() {
  if (trace_ == nullptr) return {};
  errno = 0;
  trace_->write_chrome(file_);
  file_.close();
  if (!file_) return cannot_write(path_);
  print_table(*trace_);
  return {};
}

}  // namespace hybridattn::app
