// The verb `score`.
#include <cmath>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "apps/hybridattn/commands.h"
#include "apps/hybridattn/inputs.h"
#include "apps/hybridattn/progress_bar.h"
#include "apps/hybridattn/trace_file.h"
#include "engine/checkpoint/json_document.h"
#include "engine/text/tokenizer.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::app {
namespace {

Result<std::vector<std::int32_t>> encode(const ScoreOptions& o, const std::string& text) {
  HYBRIDATTN_ASSIGN(const engine::Tokenizer tokenizer,
                    engine::Tokenizer::load(std::filesystem::path(o.model) / "tokenizer.json"));
  return tokenizer.encode(text);
}

/// The ids, and in `place` what messages about them begin with.
Result<std::vector<std::int32_t>> read_ids(const ScoreOptions& o, std::string& place) {
  place = "--ids";
  if (o.ids.has_value()) return parse_id_list(place, *o.ids);
  if (o.ids_file.has_value()) {
    place = "--ids-file " + *o.ids_file;
    return read_ids_file(*o.ids_file);
  }
  place = "--text-file " + *o.text_file;
  HYBRIDATTN_ASSIGN(const std::string text, read_text(*o.text_file));
  Result<std::vector<std::int32_t>> ids = encode(o, text);
  if (!ids.ok()) return engine::with_place(place, ids.status());
  return ids;
}

}  // namespace

Status score(const ScoreOptions& options) {
  ScoreOptions o = options;
  o.max_batch = 1;
  std::string place;
  HYBRIDATTN_ASSIGN(const std::vector<std::int32_t> ids, read_ids(o, place));
  if (ids.empty()) {
    return invalid_argument(place, ": the input is empty, must have at least one token");
  }
  HYBRIDATTN_ASSIGN(TraceFile trace, TraceFile::open(o.trace));
  HYBRIDATTN_ASSIGN(const std::unique_ptr<engine::Engine> engine, load_engine(o, trace.trace()));
  HYBRIDATTN_TRY(engine->allocate_caches({static_cast<std::int64_t>(ids.size()), o.memory}));
  engine::ScoreResult result;
  {
    ProgressBar bar("scoring");
    auto scored = engine->score(ids, o.chunk, [&](double share) { bar.update(share); });
    if (!scored.ok()) return engine::with_place(place, scored.status());
    result = std::move(scored).value();
  }
  if (o.json) {
    nlohmann::ordered_json out;
    out["argmax"] = result.argmax;
    out["logprobs"] = result.logprobs;
    out["mean_nll"] = result.mean_nll;
    out["perplexity"] = std::exp(result.mean_nll);
    out["last_logits"] = result.last_logits;
    out["peak_rss_bytes"] = peak_rss_bytes();
    std::cout << out.dump() << '\n';
  } else {
    std::cout << ids.size() << " tokens, mean negative log-likelihood " << result.mean_nll
              << ", perplexity " << std::exp(result.mean_nll) << '\n';
  }
  HYBRIDATTN_TRY(check_output());
  return trace.finish();
}

}  // namespace hybridattn::app
