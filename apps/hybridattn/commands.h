// What the program was asked to do, and the functions that do it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/serve/engine.h"

namespace hybridattn::app {

inline constexpr int kExitOk = 0;
inline constexpr int kExitData = 1;   ///< a file, the model, memory or the device is at fault
inline constexpr int kExitUsage = 2;  ///< the command line is

/// Options that every verb takes.
struct CommonOptions {
  std::string model;
  std::string device = "cpu";
  std::int32_t threads = 0;
  bool json = false;
  std::string dtype;     // "" = the checkpoint's, f32 where that is f16; with experts always f32
  std::string kv_dtype;  // "" = dtype, or else the checkpoint's; also with experts
  std::string state_dtype = "f32";
  std::string weights = "stored";
  std::int32_t chunk = 512;
  std::int32_t max_batch = 8;
  std::int64_t memory = 0;
  bool batch_invariant = false;
  bool chunk_invariant = false;
  bool graphs = true;
  bool overlap = true;
  std::string trace;  // file; "" = none
};

struct GenerateOptions : CommonOptions {
  std::optional<std::string> prompt;
  std::optional<std::string> prompt_file;
  std::optional<std::string> prompt_ids;
  std::optional<std::string> ids_file;
  std::optional<std::string> prompts_file;
  std::int32_t max_new_tokens = 128;
  bool ignore_eos = false;
  std::int32_t draft_tokens = 0;
  engine::SamplingParams sampling;
};

struct ScoreOptions : CommonOptions {
  std::optional<std::string> ids;
  std::optional<std::string> ids_file;
  std::optional<std::string> text_file;
};

struct InfoOptions : CommonOptions {};

/// The suites of `bench` that need a checkpoint; that of steps needs a GPU besides.
inline constexpr const char* kModelSuite = "model";
inline constexpr const char* kStepSuite = "step";

struct BenchOptions : CommonOptions {
  std::string suite;
};

// Each prints its result on standard output, everything else on standard error.
Status generate(const GenerateOptions& options);
Status score(const ScoreOptions& options);
Status info(const InfoOptions& options);
/// What the parts of the library reach on this machine, beside what it can do at most.
Status run_benchmarks(const BenchOptions& options);
/// The same for a whole checkpoint. Errors: those of load_engine; invalid_argument without one.
Status bench_model(const BenchOptions& options);
/// The same for its steps on a GPU, eager and replayed.
Status bench_step(const BenchOptions& options, const ContextOptions& device);

/// Loads the engine with a progress bar. Errors: those of Engine::load, and of the device's name.
Result<std::unique_ptr<engine::Engine>> load_engine(const CommonOptions& options,
                                                    Trace* trace = nullptr,
                                                    std::int32_t draft_tokens = 0);

/// What --device says.
struct Devices {
  DeviceType type = DeviceType::kCpu;
  std::vector<int> indices{0};  ///< of several CUDA devices each has a part of the model
};
/// Errors: invalid_argument.
Result<Devices> parse_devices(const std::string& text);

/// Everything that was printed reached standard output. Errors: data_loss.
Status check_output();

/// Most memory that this process held at once, in bytes.
std::int64_t peak_rss_bytes();

}  // namespace hybridattn::app
