// The suite `model` of the verb `bench`: prefill and decode of a whole checkpoint, beside what the
// machine can do in the same run.
#include <algorithm>
#include <map>
#include <numeric>
#include <vector>

#include "apps/hybridattn/bench_prompts.h"
#include "apps/hybridattn/commands.h"
#include "bench/cpu/ceilings.h"
#include "bench/cpu/timing.h"
#include "bench/median.h"
#include "bench/require.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::app {
namespace {

constexpr int kRounds = 3;  // measured; one more comes first
constexpr std::int32_t kNewTokens = 33;
constexpr int kStepsInTurn = 4;

/// `sequences` prompts of `length` random ids each, together, then new tokens.
struct Workload {
  const char* name;
  std::int32_t sequences, length;
};
constexpr Workload kWorkloads[] = {{"one", 1, 512}, {"long", 1, 2048}, {"eight", 8, 128}};

/// Tokens and seconds of a run.
struct Spent {
  double prefill_tokens = 0, prefill_seconds = 0, decode_tokens = 0, decode_seconds = 0;

  double prefill() const { return prefill_tokens / prefill_seconds; }
  double decode() const { return decode_tokens / decode_seconds; }
  Spent operator-(const Spent& other) const {
    return {prefill_tokens - other.prefill_tokens, prefill_seconds - other.prefill_seconds,
            decode_tokens - other.decode_tokens, decode_seconds - other.decode_seconds};
  }
};

Spent spent_by(const engine::Engine& engine) {
  const engine::EngineStats& s = engine.stats();
  return {static_cast<double>(s.prefill_tokens), s.prefill_seconds,
          static_cast<double>(s.decode_tokens), s.decode_seconds};
}

using Tokens = std::map<std::uint64_t, std::vector<std::int32_t>>;

/// Submits prompt `index` of a length.
Result<std::uint64_t> submit(engine::Engine& engine, std::int32_t index, std::int32_t length) {
  engine::Request request;
  request.prompt = random_prompt(length, engine.model().config().vocab_size,
                                 static_cast<std::uint32_t>(index + 1));
  request.max_new_tokens = kNewTokens;
  request.ignore_eos = true;
  return engine.submit(std::move(request));
}

/// Steps until all requests are done; `out` gets the tokens of each.
Status run_all(engine::Engine& engine, const std::vector<std::uint64_t>& requests, Tokens& out) {
  while (!engine.idle()) {
    HYBRIDATTN_ASSIGN(const std::vector<engine::TokenEvent> events, engine.step());
    for (const engine::TokenEvent& event : events) {
      const auto at = std::find(requests.begin(), requests.end(), event.request);
      if (event.token == kPadIndex) continue;
      out[static_cast<std::uint64_t>(at - requests.begin())].push_back(event.token);
    }
  }
  return {};
}

/// Runs a workload to its end, its prompts together or, if `apart`, one after the other.
Result<Spent> run_workload(engine::Engine& engine, const Workload& workload, bool apart,
                           Tokens& out) {
  const Spent before = spent_by(engine);
  std::vector<std::uint64_t> requests;
  out.clear();
  for (std::int32_t i = 0; i < workload.sequences; ++i) {
    HYBRIDATTN_ASSIGN(const std::uint64_t id, submit(engine, i, workload.length));
    requests.push_back(id);
    if (apart) HYBRIDATTN_TRY(run_all(engine, requests, out));
  }
  HYBRIDATTN_TRY(run_all(engine, requests, out));
  return spent_by(engine) - before;
}

/// Parameters of the products that each token goes through, or 0 where experts decide that.
double product_parameters(const engine::HybridModel& model) {
  const engine::ModelConfig& c = model.config();
  const engine::ModelWeights& w = model.weights();
  if (c.moe.num_experts > 0) return 0;
  const std::int64_t table = std::int64_t{c.vocab_size} * c.hidden_size;
  return static_cast<double>(w.num_parameters - table * (w.tied ? 1 : 2));
}

/// Bytes that a decode step of some sequences reads of weights, and reads and writes of states.
double step_bytes(engine::Engine& engine, std::int32_t sequences) {
  const engine::ModelWeights& w = engine.model().weights();
  const GdnStateShape state = engine.model().state_shape(engine.options().state_dtype);
  std::int64_t bytes = w.mapped_bytes + w.copied_bytes + 2 * sequences * state.slot_bytes();
  // Of an embedding that is no product's matrix a few rows are read.
  if (w.lm_head.data != w.embedding.data) {
    bytes -= w.embedding.num_elements() * static_cast<std::int64_t>(dtype_size(w.embedding.dtype));
  }
  return static_cast<double>(bytes);
}

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

Status measure(engine::Engine& engine, bench::CeilingProbe& probe, const Workload& workload,
               bench::Report& report) {
  std::vector<double> prefill, decode, together, products, read;
  const bool int8 = engine.model().weights().format == engine::WeightFormat::kInt8;
  Tokens first, tokens;
  for (int round = 0; round <= kRounds; ++round) {
    // Between the runs, as the rates move with the machine's neighbours.
    const bench::Ceilings ceilings = probe.measure();
    bench::report_ceilings(engine.context(), ceilings, report);
    products.push_back(bench::product_rate(ceilings, int8 ? 1 : 2));
    read.push_back(ceilings.read);
    HYBRIDATTN_ASSIGN(const Spent times,
                      run_workload(engine, workload, false, round == 0 ? first : tokens));
    if (round == 0) continue;
    bench::require(tokens == first, "model: the same prompts gave other tokens");
    prefill.push_back(times.prefill());
    decode.push_back(times.decode());
    if (workload.sequences == 1) continue;
    HYBRIDATTN_ASSIGN(const Spent apart, run_workload(engine, workload, true, tokens));
    together.push_back(times.prefill() / apart.prefill());
  }
  const double rate = mean(products), decoded = bench::median(decode);
  const double prefilled = bench::median(prefill);
  const double flop = 2 * product_parameters(engine.model()) * prefilled;
  const double bytes = step_bytes(engine, workload.sequences) * decoded / workload.sequences;
  report.row({{"suite", std::string("model")},
              {"workload", std::string(workload.name)},
              {"weights", std::string(engine::weight_format_name(engine.model().weights().format))},
              {"dtype", std::string(dtype_name(engine.model().dtype()))},
              {"sequences", std::int64_t{workload.sequences}},
              {"prompt", std::int64_t{workload.length}},
              {"prefill_tokens_per_s", prefilled, 1},
              {"of_rate", rate > 0 ? flop / rate : 0, 2},
              {"of_one_by_one", together.empty() ? 1 : bench::median(together), 2},
              {"decode_tokens_per_s", decoded, 1},
              {"decode_gb_per_s", bytes / 1e9, 1},
              {"of_read", bytes / mean(read), 2}});
  return {};
}

/// Decode steps of a workload, a few in turn with what memory gives just then, as that moves with
/// the machine's neighbours from second to second.
Status measure_decode(engine::Engine& engine, bench::CeilingProbe& probe, const Workload& workload,
                      bench::Report& report) {
  for (std::int32_t i = 0; i < workload.sequences; ++i) {
    HYBRIDATTN_TRY(submit(engine, i, workload.length).status());
  }
  const double bytes = step_bytes(engine, workload.sequences);
  std::vector<double> rates, shares;
  double read = 0;
  for (int i = 0; !engine.idle(); ++i) {
    if (i % kStepsInTurn == 0) read = probe.read();
    bench::require(read > 0, "model: memory gave other bytes than were written");
    const Spent before = spent_by(engine);
    HYBRIDATTN_TRY(engine.step().status());
    const Spent step = spent_by(engine) - before;
    if (step.prefill_tokens > 0 || step.decode_tokens < workload.sequences) continue;
    rates.push_back(step.decode());
    shares.push_back(bytes / step.decode_seconds / read);
  }
  bench::require(!rates.empty(), "model: no step was one of decodes alone");
  report.row({{"suite", std::string("model")},
              {"workload", std::string(workload.name)},
              {"sequences", std::int64_t{workload.sequences}},
              {"steps", static_cast<std::int64_t>(rates.size())},
              {"decode_tokens_per_s", bench::median(rates), 1},
              {"of_read_in_turn", bench::median(shares), 2}});
  return {};
}

/// From the load, which began at `begin`, to the first token behind a prompt of one; a first load
/// before that has brought the weights into the page cache.
Status measure_start(engine::Engine& engine, double begin, bench::Report& report) {
  const double loaded = bench::now() - begin;
  HYBRIDATTN_TRY(submit(engine, 0, 1).status());
  for (bool any = false; !any;) {
    HYBRIDATTN_ASSIGN(const std::vector<engine::TokenEvent> events, engine.step());
    any = !events.empty();
  }
  const double first_token = bench::now() - begin;
  while (!engine.idle()) HYBRIDATTN_TRY(engine.step().status());
  report.row(
      {{"suite", std::string("model")}, {"load_s", loaded, 3}, {"first_token_s", first_token, 3}});
  return {};
}

}  // namespace

Status bench_model(const BenchOptions& options) {
  if (options.model.empty()) return invalid_argument("bench model: --model is missing");
  HYBRIDATTN_TRY(load_engine(options).status());
  const double begin = bench::now();
  HYBRIDATTN_ASSIGN(const std::unique_ptr<engine::Engine> engine, load_engine(options));
  HYBRIDATTN_TRY(engine->allocate_caches({2048 + kNewTokens, 0}));
  bench::Report report(options.json);
  HYBRIDATTN_TRY(measure_start(*engine, begin, report));
  bench::CeilingProbe probe(engine->context());
  for (const Workload& workload : kWorkloads) {
    HYBRIDATTN_TRY(measure(*engine, probe, workload, report));
    HYBRIDATTN_TRY(measure_decode(*engine, probe, workload, report));
  }
  return {};
}

}  // namespace hybridattn::app
