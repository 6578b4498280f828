// The command line: arguments, call, print.
#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <limits>
#include <set>

#include "apps/hybridattn/commands.h"
#include "apps/hybridattn/inputs.h"
#include "bench/cpu/suites.h"
#include "bench/gpu.h"

namespace hybridattn::app {
namespace {

/// Rejects what parses as a number and is none: "nan", "inf".
const CLI::Validator kFinite(
    [](std::string& text) -> std::string {
      char* end = nullptr;
      const float value = std::strtof(text.c_str(), &end);  // as the options are
      if (*end != '\0' || end == text.c_str() || !std::isfinite(value)) {
        return "value is \"" + text + "\", must be a finite number";
      }
      return "";
    },
    "NUMBER");

/// Rejects what is no whole number of [low, high], "1.5" and "1e3" included.
template <class Int>
CLI::Validator whole(Int low, Int high = std::numeric_limits<Int>::max()) {
  return CLI::Validator(
      [low, high](std::string& text) -> std::string {
        Int value{};
        const char* end = text.data() + text.size();
        const auto parsed = std::from_chars(text.data(), end, value);
        const bool is_whole = parsed.ec == std::errc() && parsed.ptr == end;
        if (is_whole && value >= low && value <= high) return "";
        return "value is \"" + text + "\", must be a whole number of " + concat(low) + " to " +
               concat(high);
      },
      "N");
}

/// What a parser of ours says of the text.
template <class Parse>
CLI::Validator parsed_by(const Parse& parse) {
  return CLI::Validator([parse](std::string& text) { return parse(text).message(); }, "");
}

/// An empty path would be taken for the folder that the program stands in, or for nothing.
const CLI::Validator kPath(
    [](std::string& text) -> std::string {
      return text.empty() ? "value is \"\", must be a path" : "";
    },
    "");

Status check_device(const std::string& text) { return parse_devices(text).status(); }

CLI::Validator id_list() {
  return parsed_by([](const std::string& text) { return parse_id_list("value", text).status(); });
}

/// Where to run and how to answer: what every verb takes.
template <class Options>
void add_machine(CLI::App& app, Options& o, const std::string& json) {
  app.add_option("--device", o.device,
                 "cpu, cuda, cuda:N, or cuda:N,M,... to share one model out over several")
      ->check(parsed_by(check_device))
      ->capture_default_str();
  app.add_option("--threads", o.threads, "Threads (0 = one for each core)")
      ->check(whole(0, 1024))
      ->capture_default_str();
  app.add_flag("--json", o.json, json);
}

/// In what the products are computed.
void add_precision(CLI::App& app, CommonOptions& o) {
  app.add_option(
         "--dtype", o.dtype,
         "Type of activations and products: f32 or bf16 (default: the checkpoint's, f32 where "
         "that is f16; with experts always f32)")
      ->check(CLI::IsMember({"f32", "bf16"}));
  app.add_option("--weights", o.weights,
                 "How matrices are held: stored, as in the checkpoint; int8, rounded at load with "
                 "a scale for each row (half the memory of bf16, faster to read); or joined, "
                 "copied with those that read one input side by side, as always on a GPU")
      ->check(CLI::IsMember({"stored", "int8", "joined"}))
      ->capture_default_str();
}

/// What the caches hold.
void add_caches(CLI::App& app, CommonOptions& o) {
  app.add_option("--kv-dtype", o.kv_dtype,
                 "Type of the KV cache: f32, bf16, f16 or f8_e4m3 (default: --dtype, else the "
                 "checkpoint's, f32 where that is f16; also with experts)")
      ->check(CLI::IsMember({"f32", "bf16", "f16", "f8_e4m3"}));
  app.add_option("--state-dtype", o.state_dtype, "Type of recurrent states at rest: f32 or bf16")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->capture_default_str();
}

void add_overlap(CLI::App& app, CommonOptions& o) {
  app.add_flag("!--no-overlap", o.overlap,
               "On a GPU: read the tokens of each step before the next one is ordered");
}

void add_common(CLI::App& app, CommonOptions& o) {
  app.add_option("--model", o.model, "Folder of the checkpoint")->required()->check(kPath);
  add_machine(app, o, "One JSON object on standard output");
  add_precision(app, o);
  add_caches(app, o);
  app.add_option("--chunk", o.chunk, "Prompt tokens of one step")
      ->check(whole(1))
      ->capture_default_str();
  app.add_option("--max-batch", o.max_batch, "Requests that run at once")
      ->check(whole(1))
      ->capture_default_str();
  app.add_option("--memory", o.memory,
                 "Bytes for the caches, on each device (0 = what the requests need)")
      ->check(whole(std::int64_t{0}))
      ->capture_default_str();
  app.add_flag("--batch-invariant", o.batch_invariant,
               "The same bits alone and beside any other requests, for one --chunk");
  app.add_flag("--chunk-invariant", o.chunk_invariant,
               "The same bits for chunks of every multiple of 64 too; --chunk is cut to one");
  app.add_flag("!--no-graphs", o.graphs, "Run every step afresh, none recorded and replayed");
  add_overlap(app, o);
}

void add_trace(CLI::App& app, CommonOptions& o) {
  app.add_option("--trace", o.trace,
                 "Time every op: Chrome trace JSON in this file, a table on standard error")
      ->check(kPath);
}

void add_generate(CLI::App& app, GenerateOptions& o) {
  add_common(app, o);
  add_trace(app, o);
  CLI::Option_group* prompt = app.add_option_group("prompt", "Exactly one of these");
  prompt->add_option("--prompt", o.prompt, "The text to continue");
  prompt->add_option("--prompt-file", o.prompt_file, "A file with the text; - = standard input")
      ->check(kPath);
  prompt->add_option("--prompt-ids", o.prompt_ids, "Token ids: 1,2,3 (no tokenizer needed)")
      ->check(id_list());
  prompt->add_option("--ids-file", o.ids_file, "A JSON list of ids, or an object with one list")
      ->check(kPath);
  prompt
      ->add_option("--prompts-file", o.prompts_file,
                   "Several prompts: one a line, or JSON lines {\"prompt\": ...}, "
                   "{\"prompt_ids\": [...]} or [ids]")
      ->check(kPath);
  prompt->require_option(1);
  app.add_option("--max-new-tokens", o.max_new_tokens, "Tokens to generate, at most")
      ->check(whole(0))
      ->capture_default_str();
  app.add_option("--temperature", o.sampling.temperature, "0 = greedy")
      ->check(kFinite)
      ->capture_default_str();
  app.add_option("--top-k", o.sampling.top_k, "0 = off")->check(whole(0))->capture_default_str();
  app.add_option("--top-p", o.sampling.top_p, "1 = off")->check(kFinite)->capture_default_str();
  app.add_option("--min-p", o.sampling.min_p, "0 = off")->check(kFinite)->capture_default_str();
  app.add_option("--repetition-penalty", o.sampling.repetition_penalty, "1 = off")
      ->check(kFinite)
      ->capture_default_str();
  app.add_option("--seed", o.sampling.seed, "Seed of the sampler")
      ->check(whole(std::uint64_t{0}))
      ->capture_default_str();
  app.add_flag("--ignore-eos", o.ignore_eos, "Go on past end-of-text tokens");
  app.add_option(
         "--draft-tokens", o.draft_tokens,
         "Tokens to draft each step from what was said before; to the bit the same output with "
         "--batch-invariant or --chunk-invariant")
      ->check(whole(0, kMaxTreeTokens))
      ->capture_default_str();
}

void add_score(CLI::App& app, ScoreOptions& o) {
  add_common(app, o);
  add_trace(app, o);
  CLI::Option_group* input = app.add_option_group("input", "Exactly one of these");
  input->add_option("--ids", o.ids, "Token ids: 1,2,3")->check(id_list());
  input->add_option("--ids-file", o.ids_file, "A JSON list of ids, or an object with one list")
      ->check(kPath);
  input->add_option("--text-file", o.text_file, "A file with text; - = standard input")
      ->check(kPath);
  input->require_option(1);
}

void add_bench(CLI::App& app, BenchOptions& o) {
  std::set<std::string> names;
  for (const bench::Suite& suite : bench::kSuites) names.insert(suite.name);
  for (const std::string& suite : bench::gpu_suites()) names.insert(suite);
  names.insert({kModelSuite, kStepSuite});
  app.add_option("suite", o.suite, "What to measure")->required()->check(CLI::IsMember(names));
  add_machine(app, o, "One JSON object a line for each row on standard output");
  app.add_option("--model", o.model, "Folder of the checkpoint, for the suites model and step")
      ->check(kPath);
  add_precision(app, o);
  add_caches(app, o);
  add_overlap(app, o);
}

/// One line, whatever a file's name or an option's value holds.
void print_error(std::string message) {
  for (char& c : message) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  std::cerr << "hybridattn: " << message << '\n';
}

/// CLI11 has the option's name and what was wanted in what().
int usage_error(const std::string& message) {
  print_error(message + " (see --help)");
  return kExitUsage;
}

int finish(const Status& status) {
  if (status.ok()) return kExitOk;
  print_error(status.message());
  return kExitData;
}

int run(int argc, char** argv) {
  CLI::App app("Hybrid attention language models on CPUs and NVIDIA GPUs");
  app.set_version_flag("--version", std::string("hybridattn ") + version());
  app.require_subcommand(1);
  GenerateOptions generate_options;
  ScoreOptions score_options;
  InfoOptions info_options;
  BenchOptions bench_options;
  CLI::App* generate_verb = app.add_subcommand("generate", "Continue one or more prompts");
  CLI::App* score_verb = app.add_subcommand("score", "Likelihood of a text");
  CLI::App* info_verb = app.add_subcommand("info", "What a checkpoint holds and what it needs");
  CLI::App* bench_verb = app.add_subcommand("bench", "What the library reaches on this machine");
  add_generate(*generate_verb, generate_options);
  add_score(*score_verb, score_options);
  add_common(*info_verb, info_options);
  add_bench(*bench_verb, bench_options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {
    app.exit(e);
    return finish(check_output());
  } catch (const CLI::ParseError& e) {
    return usage_error(e.what());
  }
  if (*generate_verb) {
    if (const Status valid = generate_options.sampling.validate(); !valid.ok()) {
      return usage_error("--" + valid.message());
    }
    return finish(generate(generate_options));
  }
  if (*bench_verb) return finish(run_benchmarks(bench_options));
  if (*score_verb) return finish(score(score_options));
  return finish(info(info_options));
}

}  // namespace
}  // namespace hybridattn::app

int main(int argc, char** argv) {
  // A reader of standard output who goes away is an error like any other, and no signal.
  std::signal(SIGPIPE, SIG_IGN);
  try {
    return hybridattn::app::run(argc, argv);
  } catch (const std::bad_alloc&) {
    hybridattn::app::print_error("out of memory");
  } catch (const std::exception& e) {
    hybridattn::app::print_error(e.what());
  }
  return hybridattn::app::kExitData;
}
