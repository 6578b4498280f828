// The suite `step` of the verb `bench`: whole steps of a checkpoint on a GPU, beside what the card
// can do in the same run. Steps are timed on the wall clock, from one call of the engine to the
// next, eager and replayed.
#include <algorithm>
#include <map>
#include <vector>

#include "apps/hybridattn/bench_prompts.h"
#include "apps/hybridattn/commands.h"
#include "bench/cpu/timing.h"
#include "bench/gpu.h"
#include "bench/median.h"
#include "bench/report.h"
#include "bench/require.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::app {
namespace {

constexpr std::int32_t kPrompt = 128;  // tokens in front of a decode step, at least
constexpr std::int32_t kSteps = 64;    // decode steps that are timed
constexpr std::int32_t kDecodes[] = {1, 8, 32, 64, 128};
constexpr std::int32_t kMixedDecodes = 64, kMixedChunk = 512;
constexpr double kLeastAgreement = 0.9;

struct Prefill {
  std::int32_t sequences, length;
};
constexpr Prefill kPrefills[] = {{1, 2048}, {1, 8192}, {8, 2048}};

using Said = std::map<std::uint64_t, std::vector<std::int32_t>>;  // by request

/// Share of tokens that are the same, of each request up to the first that is not: what follows it
/// answers another text. Steps of other sizes sum in another order, and near ties fall otherwise.
double agreement(const Said& a, const Said& b) {
  std::int64_t same = 0, other = 0;
  for (const auto& [request, tokens] : a) {
    const std::vector<std::int32_t>& others = b.at(request);
    const auto [end, unused] =
        std::mismatch(tokens.begin(), tokens.end(), others.begin(), others.end());
    same += end - tokens.begin();
    other += end != tokens.end() || tokens.size() != others.size() ? 1 : 0;
  }
  return static_cast<double>(same) / static_cast<double>(same + other);
}

/// An engine in use, and what it said.
class Steps {
 public:
  explicit Steps(engine::Engine& engine) : engine_(engine) {}

  Status submit(std::int32_t length, std::int32_t new_tokens) {
    engine::Request request;
    request.prompt = random_prompt(length, engine_.model().config().vocab_size, next_seed_++);
    request.max_new_tokens = new_tokens;
    request.ignore_eos = true;
    return engine_.submit(std::move(request)).status();
  }
  /// Seconds of one step.
  Result<double> step() {
    const double begin = bench::now();
    HYBRIDATTN_ASSIGN(const std::vector<engine::TokenEvent> events, engine_.step());
    const double seconds = bench::now() - begin;
    for (const engine::TokenEvent& event : events) said_[event.request].push_back(event.token);
    return seconds;
  }
  Status run_to_end() {
    while (!engine_.idle()) HYBRIDATTN_TRY(step().status());
    return {};
  }
  const Said& said() const { return said_; }

 private:
  engine::Engine& engine_;
  std::uint32_t next_seed_ = 1;
  Said said_;
};

/// Microseconds of a decode step of `rows` sequences, the median.
Result<double> time_decode(Steps& steps, std::int32_t rows) {
  for (std::int32_t i = 0; i < rows; ++i) {
    HYBRIDATTN_TRY(steps.submit(kPrompt, kSteps + 4));
  }
  // The prompts fit one chunk. Steps that follow are warm.
  for (int i = 0; i < 3; ++i) HYBRIDATTN_TRY(steps.step().status());
  std::vector<double> times;
  for (std::int32_t i = 0; i < kSteps; ++i) {
    HYBRIDATTN_ASSIGN(const double seconds, steps.step());
    times.push_back(seconds * 1e6);
  }
  HYBRIDATTN_TRY(steps.run_to_end());
  return bench::median(times);
}

/// Microseconds until the first tokens behind prompts that are computed in one step.
Result<double> time_prefill(Steps& steps, const Prefill& prefill) {
  std::vector<double> times;
  for (int round = 0; round < 6; ++round) {
    for (std::int32_t i = 0; i < prefill.sequences; ++i) {
      HYBRIDATTN_TRY(steps.submit(prefill.length, 1));
    }
    const double begin = bench::now();
    HYBRIDATTN_TRY(steps.run_to_end());
    if (round > 0) times.push_back((bench::now() - begin) * 1e6);
  }
  return bench::median(times);
}

/// Microseconds of a step of one prompt beside decodes, of which each step has one.
Result<double> time_mixed(Steps& steps) {
  constexpr int kWarm = 3;
  std::vector<double> times;
  for (std::int32_t i = 0; i < kMixedDecodes; ++i) HYBRIDATTN_TRY(steps.submit(kPrompt, 64));
  for (int i = 0; i < kWarm; ++i) HYBRIDATTN_TRY(steps.step().status());
  for (int round = 0; round < 16; ++round) {
    HYBRIDATTN_TRY(steps.submit(kMixedChunk, 1));
    HYBRIDATTN_ASSIGN(const double seconds, steps.step());
    if (round >= kWarm) times.push_back(seconds * 1e6);
  }
  HYBRIDATTN_TRY(steps.run_to_end());
  return bench::median(times);
}

/// What a step must move and compute at least.
class Floors {
 public:
  Floors(engine::Engine& engine, const bench::GpuCeilings& ceilings)
      : model_(engine.model()), options_(engine.options()), ceilings_(ceilings) {}

  /// Weights, states read and written, keys and values of `rows` sequences of `tokens`.
  double decode_us(std::int32_t rows, std::int32_t tokens) const {
    const engine::ModelWeights& w = model_.weights();
    std::int64_t bytes = w.copied_bytes;
    if (!w.tied) {
      bytes -=
          w.embedding.num_elements() * static_cast<std::int64_t>(dtype_size(w.embedding.dtype));
    }
    const std::int64_t state = model_.state_shape(options_.state_dtype).slot_bytes();
    const std::int64_t page = model_.kv_shape(1, *options_.kv_dtype).page_bytes();
    bytes += rows * (2 * state + tokens * page);
    return static_cast<double>(bytes) / ceilings_.copy * 1e6;
  }
  /// Products of all layers, causal attention, the delta rule; logits of the last token alone.
  double prefill_us(const Prefill& p) const {
    const engine::ModelConfig& c = model_.config();
    const engine::ModelWeights& w = model_.weights();
    const double table = double{1} * c.vocab_size * c.hidden_size;
    const double tokens = double{1} * p.sequences * p.length;
    const double parameters = static_cast<double>(w.num_parameters) - table * (w.tied ? 1 : 2);
    double flop = 2 * parameters * tokens;
    flop += 2.0 * c.count(engine::LayerKind::kFullAttention) * tokens * p.length *
            c.num_attention_heads * c.head_dim;
    constexpr double kDeltaRule = 164e3;  // of a token and head, in chunks of 64
    flop += kDeltaRule * c.count(engine::LayerKind::kLinearAttention) * tokens *
            c.linear_num_value_heads;
    return flop / ceilings_.bf16_products * 1e6;
  }

 private:
  const engine::HybridModel& model_;
  const engine::EngineOptions& options_;
  const bench::GpuCeilings& ceilings_;
};

/// Of one engine, in the order of the tables above; microseconds.
struct Measured {
  std::vector<double> decode, decode_floor, prefill, prefill_floor;
  double mixed = 0;
  Said said;
};

Result<Measured> measure(engine::Engine& engine, const bench::GpuCeilings& ceilings) {
  Measured out;
  Steps steps(engine);
  const Floors floors(engine, ceilings);
  for (const std::int32_t rows : kDecodes) {
    HYBRIDATTN_ASSIGN(const double us, time_decode(steps, rows));
    out.decode.push_back(us);
    out.decode_floor.push_back(floors.decode_us(rows, kPrompt + kSteps / 2));
  }
  for (const Prefill& prefill : kPrefills) {
    HYBRIDATTN_ASSIGN(const double us, time_prefill(steps, prefill));
    out.prefill.push_back(us);
    out.prefill_floor.push_back(floors.prefill_us(prefill));
  }
  HYBRIDATTN_ASSIGN(out.mixed, time_mixed(steps));
  out.said = steps.said();
  return out;
}

Result<Measured> load_and_measure(BenchOptions options, bool graphs,
                                  const bench::GpuCeilings& ceilings) {
  std::int32_t longest = 0, most = 0;
  for (const Prefill& p : kPrefills) {
    longest = std::max(longest, p.length);
    most = std::max(most, p.sequences * p.length);
  }
  options.graphs = graphs;
  options.chunk = most;
  options.max_batch = *std::max_element(std::begin(kDecodes), std::end(kDecodes));
  HYBRIDATTN_ASSIGN(const std::unique_ptr<engine::Engine> engine, load_engine(options));
  // Room for the prompts of a step, not for as many of the longest as there may be rows.
  const engine::HybridModel& model = engine->model();
  const std::int32_t page = engine->options().page_size;
  const std::int64_t pages = 2 * std::int64_t{most} / page + options.max_batch;
  const std::int64_t bytes =
      pages * model.kv_shape(page, *engine->options().kv_dtype).page_bytes() +
      options.max_batch * model.state_shape(engine->options().state_dtype).slot_bytes();
  HYBRIDATTN_TRY(engine->allocate_caches({longest + 1, bytes}));
  return measure(*engine, ceilings);
}

void report_decode(const Measured& eager, const Measured& replayed, bench::Report& report) {
  for (std::size_t i = 0; i < std::size(kDecodes); ++i) {
    report.row({{"suite", std::string("step")},
                {"step", std::string("decode")},
                {"rows", std::int64_t{kDecodes[i]}},
                {"eager_us", eager.decode[i], 0},
                {"replayed_us", replayed.decode[i], 0},
                {"floor_us", replayed.decode_floor[i], 0},
                {"over_floor", replayed.decode[i] / replayed.decode_floor[i], 2},
                {"tokens_per_s", kDecodes[i] / replayed.decode[i] * 1e6, 0}});
  }
}

void report_prefill(const Measured& eager, const Measured& replayed, bench::Report& report) {
  for (std::size_t i = 0; i < std::size(kPrefills); ++i) {
    const Prefill& p = kPrefills[i];
    const double us = std::min(eager.prefill[i], replayed.prefill[i]);
    report.row({{"suite", std::string("step")},
                {"step", std::string("prefill")},
                {"rows", std::int64_t{p.sequences}},
                {"tokens", std::int64_t{p.length}},
                {"us", us, 0},
                {"of_products", replayed.prefill_floor[i] / us, 2},
                {"tokens_per_s", p.sequences * p.length / us * 1e6, 0}});
  }
  report.row({{"suite", std::string("step")},
              {"step", std::string("mixed")},
              {"rows", std::int64_t{kMixedDecodes}},
              {"tokens", std::int64_t{kMixedChunk}},
              {"eager_us", eager.mixed, 0},
              {"replayed_us", replayed.mixed, 0},
              {"replayed_over_eager", replayed.mixed / eager.mixed, 2}});
}

}  // namespace

Status bench_step(const BenchOptions& options, const ContextOptions& device) {
  if (options.model.empty()) return invalid_argument("bench step: --model is missing");
  bench::Report report(options.json);
  HYBRIDATTN_ASSIGN(const bench::GpuCeilings ceilings, bench::measure_gpu(device));
  report.row({{"device", ceilings.device},
              {"copy_tb_per_s", ceilings.copy / 1e12, 2},
              {"bf16_tflop_per_s", ceilings.bf16_products / 1e12, 0}});
  HYBRIDATTN_ASSIGN(const Measured eager, load_and_measure(options, false, ceilings));
  HYBRIDATTN_ASSIGN(const Measured replayed, load_and_measure(options, true, ceilings));
  const double agree = agreement(eager.said, replayed.said);
  bench::require(eager.said.size() == replayed.said.size() && agree >= kLeastAgreement,
                 concat("step: of the tokens of eager steps replayed ones say ", agree));
  report.row({{"suite", std::string("step")},
              {"state_dtype", options.state_dtype},
              {"overlap", std::string(options.overlap ? "yes" : "no")},
              {"tokens_as_eager", agree, 3}});
  report_decode(eager, replayed, report);
  report_prefill(eager, replayed, report);
  return {};
}

}  // namespace hybridattn::app
