// Loading the engine for a verb.
#include <sys/resource.h>

#include <algorithm>
#include <charconv>
#include <iostream>

#include "apps/hybridattn/commands.h"
#include "apps/hybridattn/progress_bar.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::app {
namespace {

DType parse_dtype(const std::string& name) {
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF8E4M3}) {
    if (name == dtype_name(dtype)) return dtype;
  }
  return DType::kF32;
}

}  // namespace

Result<Devices> parse_devices(const std::string& text) {
  if (text == "cpu") return Devices();
  if (text == "cuda") return Devices{DeviceType::kCuda, {0}};
  const std::string list = text.rfind("cuda:", 0) == 0 ? text.substr(5) : "";
  Devices out{DeviceType::kCuda, {}};
  const char* const end = list.data() + list.size();
  bool valid = false;
  for (const char* at = list.data(); !valid; ++at) {
    int index = -1;
    const auto parsed = std::from_chars(at, end, index);
    const bool known =
        std::find(out.indices.begin(), out.indices.end(), index) != out.indices.end();
    at = parsed.ptr;
    if (parsed.ec != std::errc() || index < 0 || known || (at != end && *at != ',')) break;
    out.indices.push_back(index);
    valid = at == end;
  }
  if (valid) return out;
  return invalid_argument("value is \"", text,
                          "\", must be cpu, cuda, cuda:N or several different ones, cuda:N,M");
}

Status check_output() {
  std::cout.flush();
  if (std::cout) return {};
  return error(StatusCode::kDataLoss, "standard output cannot be written");
}

Result<std::unique_ptr<engine::Engine>> load_engine(const CommonOptions& options, Trace* trace,
                                                    std::int32_t draft_tokens) {
  engine::EngineOptions o;
  HYBRIDATTN_ASSIGN(const Devices devices, parse_devices(options.device));
  o.context.device = devices.type;
  if (devices.type == DeviceType::kCuda) o.devices = devices.indices;
  o.ranks = static_cast<std::int32_t>(devices.indices.size());
  o.context.threads = options.threads;
  o.context.trace = trace;
  if (!options.dtype.empty()) o.dtype = parse_dtype(options.dtype);
  if (!options.kv_dtype.empty()) o.kv_dtype = parse_dtype(options.kv_dtype);
  o.state_dtype = parse_dtype(options.state_dtype);
  for (const auto format : {engine::WeightFormat::kInt8, engine::WeightFormat::kJoined}) {
    if (options.weights == engine::weight_format_name(format)) o.weights = format;
  }
  o.chunk = options.chunk;
  o.max_batch = options.max_batch;
  o.draft_tokens = draft_tokens;
  o.graphs = options.graphs;
  o.overlap = options.overlap;
  o.context.batch_invariant = options.batch_invariant;
  o.context.chunk_invariant = options.chunk_invariant;
  ProgressBar bar("loading");
  return engine::Engine::load(options.model, o, [&](double share) { bar.update(share); });
}

std::int64_t peak_rss_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return std::int64_t{usage.ru_maxrss} * 1024;
}

}  // namespace hybridattn::app
