// What the tests of the engine share: the small checkpoints, prompts, and running requests to the
// end.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <new>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "engine/serve/engine.h"
#include "tests/support/contexts.h"

namespace hybridattn::engine {

using Ids = std::vector<std::int32_t>;

inline std::filesystem::path checkpoint_path(const std::string& name) {
  const std::filesystem::path root(HYBRIDATTN_SOURCE_DIR);
  return name == "tiny-model" ? root / "assets/tiny-model" : root / "tests/data" / name;
}

inline nlohmann::json read_json(const std::filesystem::path& path) {
  std::ifstream file(path);
  return nlohmann::json::parse(file);
}

/// Memory of the test device that is full of NaN: what is read before it was written shows, and
/// what is written behind the end. It counts what is not given back, and gives nothing from the
/// n-th request on where that is asked for. Thread-safe on the CPU.
class PoisonAllocator : public Allocator {
 public:
  void* allocate(std::size_t bytes) noexcept override {
    if (gives_ == 0) return nullptr;
    if (gives_ > 0) --gives_;  // of one thread where it is asked for
    void* block = hybridattn::testing::shared_memory().allocate(bytes + kTail);
    if (block == nullptr) return nullptr;
    std::memset(block, 0xff, bytes + kTail);
    live_ += static_cast<std::int64_t>(bytes);
    return block;
  }
  void deallocate(void* block, std::size_t bytes) noexcept override {
    live_ -= static_cast<std::int64_t>(bytes);
    const auto* tail = static_cast<const unsigned char*>(block) + bytes;
    for (std::size_t i = 0; i < kTail; ++i) {
      if (tail[i] == 0xff) continue;
      ADD_FAILURE() << "byte " << i << " behind a block of " << bytes << " bytes was written";
      break;
    }
    hybridattn::testing::shared_memory().deallocate(block, bytes + kTail);
  }
  /// -1 = no end.
  void set_gives(std::int64_t count) { gives_ = count; }
  std::int64_t live_bytes() const { return live_; }

 private:
  static constexpr std::size_t kTail = 4096;
  std::atomic<std::int64_t> gives_ = -1;
  std::atomic<std::int64_t> live_ = 0;
};

/// An engine over poisoned memory, one thread. The caches are for `tokens` a request, or of
/// `memory`.
struct EngineSetup {
  std::string checkpoint = "golden_a";
  DType dtype = DType::kF32;
  std::int32_t chunk = 512;
  std::int32_t max_batch = 8;
  std::int64_t tokens = 1200;
  std::int64_t memory = 0;
  Allocator* allocator = nullptr;
  std::int32_t page_size = 16;
  std::int32_t draft_tokens = 0;
  bool graphs = true;
  WeightFormat weights = WeightFormat::kStored;
  bool overlap = true;
  bool chunk_invariant = false;
  bool batch_invariant = false;
  std::int32_t ranks = 1;
  std::filesystem::path folder{};  ///< of the checkpoint, in place of its name
};

inline EngineOptions options_of(const EngineSetup& setup) {
  static PoisonAllocator poison;
  EngineOptions options;
  options.context.device = hybridattn::testing::test_device();
  options.context.threads = 1;
  options.ranks = setup.ranks;
  options.context.allocator = setup.allocator != nullptr ? setup.allocator : &poison;
  // Memory of several devices is not one allocator's.
  if (setup.ranks > 1 && options.context.device == DeviceType::kCuda) {
    options.context.allocator = nullptr;
  }
  options.dtype = setup.dtype;
  options.chunk = setup.chunk;
  options.max_batch = setup.max_batch;
  options.page_size = setup.page_size;
  options.draft_tokens = setup.draft_tokens;
  options.graphs = setup.graphs;
  options.weights = setup.weights;
  options.overlap = setup.overlap;
  options.context.chunk_invariant = setup.chunk_invariant;
  options.context.batch_invariant = setup.batch_invariant;
  return options;
}

inline std::unique_ptr<Engine> make_engine(const EngineSetup& setup) {
  const auto folder = setup.folder.empty() ? checkpoint_path(setup.checkpoint) : setup.folder;
  auto engine = or_throw(Engine::load(folder, options_of(setup)));
  or_throw(engine->allocate_caches({setup.tokens, setup.memory}));
  return engine;
}

/// Caches of `pages` pages beside all state slots, on each rank.
inline std::int64_t memory_of(const EngineSetup& setup, std::int32_t pages) {
  EngineSetup probe = setup;
  probe.memory = 0;
  probe.tokens = setup.page_size;
  const auto engine = make_engine(probe);
  const MemoryReport report = engine->memory();
  return (report.states + report.kv / setup.max_batch * pages) / engine->options().ranks;
}

inline Ids random_ids(std::size_t count, std::int32_t vocab, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_int_distribution<std::int32_t> id(0, vocab - 1);
  Ids ids(count);
  for (std::int32_t& x : ids) x = id(generator);
  return ids;
}

/// What became of a request.
struct Output {
  Ids ids;
  Finish finish = Finish::kNone;

  friend bool operator==(const Output&, const Output&) = default;
};

inline std::ostream& operator<<(std::ostream& out, const Output& output) {
  return out << nlohmann::json(output.ids).dump() << ' ' << finish_name(output.finish);
}

inline Request make_request(Ids prompt, std::int32_t max_new_tokens) {
  Request request;
  request.prompt = std::move(prompt);
  request.max_new_tokens = max_new_tokens;
  return request;
}

inline std::uint64_t submit_ok(Engine& engine, Request request) {
  return or_throw(engine.submit(std::move(request)));
}

using Outputs = std::map<std::uint64_t, Output>;

/// One step; the ledger must hold after it.
inline void step_ok(Engine& engine, Outputs& outputs) {
  const Result<std::vector<TokenEvent>> events = engine.step();
  if (!events.ok()) throw std::runtime_error(events.status().message());
  for (const TokenEvent& event : *events) {
    Output& output = outputs[event.request];
    EXPECT_EQ(output.finish, Finish::kNone)
        << "request " << event.request << " goes on after its end";
    if (event.token != kPadIndex) output.ids.push_back(event.token);
    output.finish = event.finish;
  }
  const Status ledger = engine.check();
  EXPECT_TRUE(ledger.ok()) << ledger.message();
}

inline void run_until_idle(Engine& engine, Outputs& outputs) {
  for (int steps = 0; !engine.idle(); ++steps) {
    if (steps == 20000) throw std::runtime_error("the engine does not come to an end");
    step_ok(engine, outputs);
  }
}

inline Output run_alone(Engine& engine, Request request) {
  Outputs outputs;
  const std::uint64_t id = submit_ok(engine, std::move(request));
  run_until_idle(engine, outputs);
  return outputs.at(id);
}

inline double relative_l2(std::span<const float> found, std::span<const float> wanted) {
  double error = 0;
  double norm = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const double difference = static_cast<double>(found[i]) - wanted[i];
    error += difference * difference;
    norm += static_cast<double>(wanted[i]) * wanted[i];
  }
  return std::sqrt(error / norm);
}

}  // namespace hybridattn::engine
