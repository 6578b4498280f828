// Requests that run together in one world, eagerly or by replay, each held against its run alone.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "hybridattn/graph_runner.h"
#include "tests/support/hybrid_world.h"

namespace hybridattn::testing {

class HybridService {
 public:
  struct Part {
    std::uint64_t request;
    RowKind kind;
    std::int32_t tokens;
  };

  explicit HybridService(const WorldOptions& options = {}) : world(options) {}

  /// From now on steps that fit one of the sizes are replayed.
  void record(const std::vector<GraphShape>& sizes) {
    auto made = GraphRunner::create(*world.context, *world.backend, sizes,
                                    [this](const Plan& plan) { return world.run(plan); });
    ASSERT_TRUE(made.ok()) << made.status().message();
    runner = std::move(*made);
  }

  /// Takes a slot and pages of the caller's choice. What they held becomes poison.
  void admit(std::uint64_t request, std::int32_t slot, const std::vector<std::int32_t>& pages,
             std::int64_t max_tokens = 256) {
    for (const std::int32_t page : pages) world.poison_page(page);
    world.poison_slot(slot);
    Live live{slot, pages, 0, std::make_unique<AloneRequest>(request, world.options, max_tokens)};
    live_.insert_or_assign(request, std::move(live));
  }
  void finish(std::uint64_t request) { live_.erase(request); }
  std::int32_t slot_of(std::uint64_t request) const { return live_.at(request).slot; }

  Result<ForwardBatch> batch_of(const std::vector<Part>& parts) const {
    std::vector<BatchRow> rows;
    for (const Part& part : parts) {
      if (part.kind == RowKind::kPad) {
        rows.push_back({RowKind::kPad, kPadIndex, {}, 0, part.tokens});
        continue;
      }
      const Live& live = live_.at(part.request);
      rows.push_back({part.kind, live.slot, live.pages, live.computed, part.tokens});
    }
    return ForwardBatch::create(rows);
  }

  /// One step of these rows in this order. Every real token's output, every state and every byte
  /// that the step does not name is checked.
  void step(const std::vector<Part>& parts) {
    auto batch = batch_of(parts);
    ASSERT_TRUE(batch.ok()) << batch.status().message();
    world.poison_tokens();
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (parts[i].kind == RowKind::kPad) continue;
      const std::int64_t before = live_.at(parts[i].request).computed;
      for (std::int32_t j = 0; j < parts[i].tokens; ++j) {
        world.feed(parts[i].request, before + j,
                   batch->token_start(static_cast<std::int32_t>(i)) + j);
      }
    }
    const auto untouched = bystanders(parts);
    if (runner != nullptr && runner->can_run(*batch)) {
      auto graph = runner->run(*batch);
      ASSERT_TRUE(graph.ok()) << graph.status().message();
      ++replays;
    } else {
      auto plan = world.backend->plan(*batch);
      ASSERT_TRUE(plan.ok()) << plan.status().message();
      poison_workspace(*world.context);
      ASSERT_OK(world.run(**plan));
    }
    for (std::size_t i = 0; i < parts.size(); ++i) {
      check_row(parts[i], batch->token_start(static_cast<std::int32_t>(i)));
    }
    EXPECT_EQ(bystanders(parts), untouched) << "a slot or page that the step does not name changed";
  }

  /// All outputs of the tokens [begin, end) are exactly zero.
  void expect_zeros(std::int32_t begin, std::int32_t end) const {
    for (std::int32_t t = begin; t < end; ++t) {
      for (const double value : world.output(t)) ASSERT_EQ(value, 0.0) << "token " << t;
    }
  }

  HybridWorld world;
  std::unique_ptr<GraphRunner> runner;
  int replays = 0;

 private:
  struct Live {
    std::int32_t slot;
    std::vector<std::int32_t> pages;
    std::int64_t computed;
    std::unique_ptr<AloneRequest> alone;
  };

  void check_row(const Part& part, std::int32_t first) {
    if (part.kind == RowKind::kPad) return expect_zeros(first, first + part.tokens);
    Live& live = live_.at(part.request);
    const auto wanted = live.alone->advance(part.kind, part.tokens);
    for (std::int32_t j = 0; j < part.tokens; ++j) {
      EXPECT_EQ(world.output(first + j), wanted[static_cast<std::size_t>(j)])
          << "request " << part.request << ", position " << live.computed + j;
    }
    live.computed += part.tokens;
    EXPECT_EQ(world.slot_bytes(live.slot), live.alone->state())
        << "state of request " << part.request << " after " << live.computed << " tokens";
  }

  /// Bytes of all slots and pages that no row of the step owns.
  std::vector<std::vector<Byte>> bystanders(const std::vector<Part>& parts) const {
    std::vector<bool> slots(static_cast<std::size_t>(world.options.slots), false);
    std::vector<bool> pages(static_cast<std::size_t>(world.options.pages), false);
    for (const Part& part : parts) {
      if (part.kind == RowKind::kPad) continue;
      const Live& live = live_.at(part.request);
      slots[static_cast<std::size_t>(live.slot)] = true;
      for (const std::int32_t page : live.pages) pages[static_cast<std::size_t>(page)] = true;
    }
    std::vector<std::vector<Byte>> bytes;
    for (std::size_t s = 0; s < slots.size(); ++s) {
      if (!slots[s]) bytes.push_back(world.slot_bytes(static_cast<std::int32_t>(s)));
    }
    for (std::size_t p = 0; p < pages.size(); ++p) {
      if (!pages[p]) bytes.push_back(world.page_bytes(static_cast<std::int32_t>(p)));
    }
    return bytes;
  }

  std::map<std::uint64_t, Live> live_;
};

}  // namespace hybridattn::testing
