// The verb `generate`.
#include <algorithm>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>

#include "apps/hybridattn/commands.h"
#include "apps/hybridattn/inputs.h"
#include "apps/hybridattn/progress_bar.h"
#include "apps/hybridattn/trace_file.h"
#include "engine/checkpoint/json_document.h"
#include "engine/text/detokenizer.h"
#include "engine/text/tokenizer.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::app {
namespace {

using engine::Tokenizer;

std::atomic<bool> interrupted{false};

void on_interrupt(int) { interrupted.store(true); }

/// What became of one prompt.
struct Outcome {
  std::string place;  ///< of the prompt, for messages
  std::vector<std::int32_t> prompt;
  std::vector<std::int32_t> ids;
  engine::Finish finish = engine::Finish::kNone;
};

/// The one prompt of an option.
Result<Prompt> read_prompt(const GenerateOptions& o) {
  Prompt prompt;
  if (o.prompt.has_value()) {
    prompt.place = "--prompt";
    prompt.text = *o.prompt;
  } else if (o.prompt_file.has_value()) {
    prompt.place = "--prompt-file " + *o.prompt_file;
    HYBRIDATTN_ASSIGN(prompt.text, read_text(*o.prompt_file));
  } else if (o.prompt_ids.has_value()) {
    prompt.place = "--prompt-ids";
    HYBRIDATTN_ASSIGN(prompt.ids, parse_id_list(prompt.place, *o.prompt_ids));
  } else {
    prompt.place = "--ids-file " + *o.ids_file;
    HYBRIDATTN_ASSIGN(prompt.ids, read_ids_file(*o.ids_file));
  }
  return prompt;
}

Result<std::vector<Prompt>> read_prompts(const GenerateOptions& o) {
  if (o.prompts_file.has_value()) return read_prompts_file(*o.prompts_file);
  HYBRIDATTN_ASSIGN(Prompt prompt, read_prompt(o));
  return std::vector<Prompt>{std::move(prompt)};
}

/// The tokenizer of the folder. Without one, prompts must be ids and the output is ids.
Result<std::optional<Tokenizer>> load_tokenizer(const std::string& model, bool needed) {
  const std::filesystem::path path = std::filesystem::path(model) / "tokenizer.json";
  std::error_code ignored;
  if (!needed && !std::filesystem::exists(path, ignored)) return std::optional<Tokenizer>();
  HYBRIDATTN_ASSIGN(Tokenizer tokenizer, Tokenizer::load(path));
  return std::optional<Tokenizer>(std::move(tokenizer));
}

Result<std::vector<Outcome>> encode_prompts(const std::vector<Prompt>& prompts,
                                            const std::optional<Tokenizer>& tokenizer) {
  std::vector<Outcome> outcomes;
  for (const Prompt& prompt : prompts) {
    Outcome outcome;
    outcome.place = prompt.place;
    outcome.prompt = prompt.ids;
    if (prompt.text.has_value()) {
      Result<std::vector<std::int32_t>> ids = tokenizer->encode(*prompt.text);
      if (!ids.ok()) return engine::with_place(prompt.place, ids.status());
      outcome.prompt = std::move(ids).value();
    }
    if (outcome.prompt.empty()) {
      return invalid_argument(prompt.place, ": the prompt is empty, must have at least one token");
    }
    outcomes.push_back(std::move(outcome));
  }
  return outcomes;
}

/// Runs all prompts to their end, or to an interrupt. `on_token` sees each token as it comes.
class Runner {
 public:
  Runner(engine::Engine& engine, std::vector<Outcome>& outcomes)
      : engine_(engine), outcomes_(outcomes) {}

  template <class OnToken>
  Status run(const GenerateOptions& o, std::int32_t vocab_limit, const OnToken& on_token) {
    for (std::size_t i = 0; i < outcomes_.size(); ++i) {
      engine::Request request;
      request.prompt = outcomes_[i].prompt;
      request.max_new_tokens = o.max_new_tokens;
      request.ignore_eos = o.ignore_eos;
      request.sampling = o.sampling;
      // Chance must not hit the padded tail of the vocabulary. Greedy stays the plain argmax, which
      // is never there in a trained model, and what the reference gives in any other.
      if (o.sampling.temperature > 0) request.vocab_limit = vocab_limit;
      const Result<std::uint64_t> id = engine_.submit(std::move(request));
      if (!id.ok()) return engine::with_place(outcomes_[i].place, id.status());
      by_id_[*id] = i;
      total_prompt_ += static_cast<std::int64_t>(outcomes_[i].prompt.size());
    }
    ProgressBar bar("prompt");
    while (!engine_.idle()) {
      if (interrupted.exchange(false)) HYBRIDATTN_TRY(cancel_all());
      HYBRIDATTN_ASSIGN(const std::vector<engine::TokenEvent> events, engine_.step());
      const double done = static_cast<double>(engine_.stats().prefill_tokens);
      if (events.empty()) bar.update(std::min(1.0, done / static_cast<double>(total_prompt_)));
      for (const engine::TokenEvent& event : events) {
        const std::size_t index = by_id_.at(event.request);
        outcomes_[index].finish = event.finish;
        if (event.token == kPadIndex) continue;
        outcomes_[index].ids.push_back(event.token);
        on_token(index, event.token);
      }
      // Nobody reads what would come next.
      if (!std::cout) return check_output();
    }
    return {};
  }

 private:
  Status cancel_all() {
    for (const auto& [id, index] : by_id_) {
      if (outcomes_[index].finish != engine::Finish::kNone) continue;
      // Not found: it has ended, and its last event comes with the next step.
      const Status cancelled = engine_.cancel(id);
      if (!cancelled.ok() && cancelled.code() != StatusCode::kNotFound) return cancelled;
    }
    return {};
  }

  engine::Engine& engine_;
  std::vector<Outcome>& outcomes_;
  std::map<std::uint64_t, std::size_t> by_id_;
  std::int64_t total_prompt_ = 0;
};

double rate(std::int64_t tokens, double seconds) {
  return seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0;
}

Result<nlohmann::ordered_json> outcome_json(const Outcome& outcome,
                                            const std::optional<Tokenizer>& tokenizer) {
  nlohmann::ordered_json out;
  out["prompt_ids"] = outcome.prompt;
  out["ids"] = outcome.ids;
  out["text"] = nullptr;
  if (tokenizer.has_value()) {
    HYBRIDATTN_ASSIGN(out["text"], tokenizer->decode(outcome.ids, true));
  }
  out["finish"] = engine::finish_name(outcome.finish);
  return out;
}

Status print_json(const std::vector<Outcome>& outcomes, const std::optional<Tokenizer>& tokenizer,
                  const engine::EngineStats& stats, bool several) {
  nlohmann::ordered_json out;
  if (several) {
    out["results"] = nlohmann::ordered_json::array();
    for (const Outcome& outcome : outcomes) {
      HYBRIDATTN_ASSIGN(nlohmann::ordered_json one, outcome_json(outcome, tokenizer));
      out["results"].push_back(std::move(one));
    }
  } else {
    HYBRIDATTN_ASSIGN(out, outcome_json(outcomes[0], tokenizer));
  }
  if (stats.drafted_tokens > 0) {
    out["drafted_tokens"] = stats.drafted_tokens;
    out["accepted_tokens"] = stats.accepted_tokens;
  }
  out["prefill_tokens_per_s"] = rate(stats.prefill_tokens, stats.prefill_seconds);
  out["decode_tokens_per_s"] = rate(stats.decode_tokens, stats.decode_seconds);
  out["peak_rss_bytes"] = peak_rss_bytes();
  std::cout << out.dump() << '\n';
  return {};
}

/// Streams one prompt's output: text where there is a tokenizer, ids where not.
class Printer {
 public:
  Printer(const std::optional<Tokenizer>& tokenizer, bool on) : on_(on) {
    if (tokenizer.has_value()) detokenizer_.emplace(*tokenizer, true);
  }
  void token(std::int32_t id) {
    if (!on_) return;
    if (detokenizer_.has_value()) {
      std::cout << detokenizer_->push(id) << std::flush;
    } else {
      std::cout << (first_ ? "" : " ") << id << std::flush;
      first_ = false;
    }
  }
  void finish() {
    if (!on_) return;
    if (detokenizer_.has_value()) std::cout << detokenizer_->finish();
    std::cout << std::endl;
  }

 private:
  bool on_;
  bool first_ = true;
  std::optional<engine::StreamingDetokenizer> detokenizer_;
};

Status print_all(const std::vector<Outcome>& outcomes, const std::optional<Tokenizer>& tokenizer) {
  for (std::size_t i = 0; i < outcomes.size(); ++i) {
    std::cout << "[" << i << "] ";
    Printer printer(tokenizer, true);
    for (const std::int32_t id : outcomes[i].ids) printer.token(id);
    printer.finish();
  }
  return {};
}

/// From now on Ctrl-C ends the run with what there is; a second one ends the program.
void catch_interrupts() {
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  action.sa_flags = SA_RESTART | static_cast<int>(SA_RESETHAND);
  sigaction(SIGINT, &action, nullptr);
}

}  // namespace

Status generate(const GenerateOptions& options) {
  GenerateOptions o = options;
  HYBRIDATTN_ASSIGN(const std::vector<Prompt> prompts, read_prompts(o));
  // Not before: a prompt that is being typed has nothing to end cleanly with.
  catch_interrupts();
  const bool text = std::any_of(prompts.begin(), prompts.end(),
                                [](const Prompt& p) { return p.text.has_value(); });
  // Caches are made for the requests that there are.
  o.max_batch =
      static_cast<std::int32_t>(std::min(static_cast<std::size_t>(o.max_batch), prompts.size()));
  HYBRIDATTN_ASSIGN(TraceFile trace, TraceFile::open(o.trace));
  HYBRIDATTN_ASSIGN(const std::unique_ptr<engine::Engine> engine,
                    load_engine(o, trace.trace(), o.draft_tokens));
  HYBRIDATTN_ASSIGN(const std::optional<Tokenizer> tokenizer, load_tokenizer(o.model, text));
  HYBRIDATTN_ASSIGN(std::vector<Outcome> outcomes, encode_prompts(prompts, tokenizer));
  std::int64_t longest = 0;
  for (const Outcome& outcome : outcomes) {
    longest = std::max(longest, static_cast<std::int64_t>(outcome.prompt.size()));
  }
  HYBRIDATTN_TRY(engine->allocate_caches({longest + o.max_new_tokens, o.memory}));
  const bool several = o.prompts_file.has_value();
  Printer printer(tokenizer, !o.json && !several);
  Runner runner(*engine, outcomes);
  HYBRIDATTN_TRY(runner.run(o, tokenizer ? tokenizer->vocab_size() : 0,
                            [&](std::size_t, std::int32_t token) { printer.token(token); }));
  const engine::EngineStats& stats = engine->stats();
  if (o.json) {
    HYBRIDATTN_TRY(print_json(outcomes, tokenizer, stats, several));
  } else if (several) {
    HYBRIDATTN_TRY(print_all(outcomes, tokenizer));
  } else {
    printer.finish();
  }
  HYBRIDATTN_TRY(check_output());
  std::cerr << "prefill " << stats.prefill_tokens << " tokens, "
            << rate(stats.prefill_tokens, stats.prefill_seconds) << " tokens/s; decode "
            << stats.decode_tokens << " tokens, " << rate(stats.decode_tokens, stats.decode_seconds)
            << " tokens/s";
  if (stats.drafted_tokens > 0) {
    std::cerr << "; " << stats.accepted_tokens << " of " << stats.drafted_tokens
              << " drafted tokens kept";
  }
  std::cerr << '\n';
  return trace.finish();
}

}  // namespace hybridattn::app
