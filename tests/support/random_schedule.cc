#include "tests/support/random_schedule.h"

#include <algorithm>

namespace hybridattn::testing {
namespace {

constexpr RowKind kPrefill = RowKind::kPrefill, kDecode = RowKind::kDecode;
constexpr RowKind kVerify = RowKind::kVerify, kPad = RowKind::kPad;
constexpr std::int32_t kMostRows = 5, kMostPages = 12, kMostDrafts = 4;
constexpr std::int64_t kMostTokens = 40;
/// Inputs of tokens that are drafted and wrong: those of a request that there never is.
constexpr std::uint64_t kWrong = 1u << 30;

std::vector<GraphShape> graph_sizes() {
  return {{0, kMostRows, 0, kMostRows, 30}, {2, 3, 2, 20, 40}, {5, 5, 5, 60, 60}};
}

}  // namespace

ScheduleSide::ScheduleSide(const WorldOptions& options, bool graph)
    : world(options), pages("page", options.pages), slots("state slot", options.slots),
      table(pages, &slots, options.page_size, kMostRows, kMostPages) {
  for (const GraphShape& shape : graph_sizes()) {
    if (!graph) break;
    Size size;
    size.plan = *world.backend->plan_graph(shape);
    auto recorded = Graph::record(*world.context, [&] { return world.run(*size.plan); });
    EXPECT_TRUE(recorded.ok()) << recorded.status().message();
    size.graph = std::move(*recorded);
    sizes_.push_back(std::move(size));
  }
  for (const HybridWorld::CacheBuffer& cache : world.cache_buffers()) {
    const std::size_t bytes = cache.memory.size() / static_cast<std::size_t>(cache.count);
    for (std::int32_t id = 0; id < cache.count; ++id) {
      const Byte* data = cache.memory.data() + static_cast<std::size_t>(id) * bytes;
      regions_.push_back({data, bytes, cache.of_slots, id, {data, data + bytes}});
    }
  }
}

Status ScheduleSide::run(const ForwardBatch& batch) {
  for (Size& size : sizes_) {
    Status planned = world.backend->replan(*size.plan, batch);
    if (planned.code() == StatusCode::kOutOfRange) continue;  // too small
    if (!planned.ok()) return planned;
    plan = size.plan.get();
    ++replays;
    return size.graph->replay();
  }
  auto made = world.backend->plan(batch);
  if (!made.ok()) return made.status();
  eager_ = std::move(*made);
  plan = eager_.get();
  return world.run(*plan);
}

void ScheduleSide::check_bystanders(const std::vector<std::int32_t>& owned_slots,
                                    const std::vector<std::int32_t>& owned_pages) {
  world.settle();
  for (Region& region : regions_) {
    const auto& owned = region.is_slot ? owned_slots : owned_pages;
    const bool mine = std::find(owned.begin(), owned.end(), region.id) != owned.end();
    const bool same = std::memcmp(region.data, region.copy.data(), region.bytes) == 0;
    EXPECT_TRUE(mine || same) << (region.is_slot ? "slot " : "page ") << region.id
                              << " has changed and no row names it";
    if (!same) std::memcpy(region.copy.data(), region.data, region.bytes);
  }
}

void ScheduleSide::poison(std::int32_t slot, const std::vector<std::int32_t>& page_ids) {
  world.poison_slot(slot);
  for (const std::int32_t page : page_ids) world.poison_page(page);
  std::vector<std::int32_t> all{slot};
  check_bystanders(all, page_ids);
}

Status ScheduleSide::check_ledger() const {
  for (const Status& status : {pages.check(), slots.check(), table.check()}) {
    if (!status.ok()) return status;
  }
  return {};
}

struct RandomSchedule::Request {
  struct Done {
    RowKind kind;
    std::int32_t tokens;
  };
  std::uint64_t id = 0;
  std::int64_t prompt = 0, length = 0;
  std::vector<Handle> rows;  // one for each side; empty while it waits
  std::vector<Done> log;     // what was computed, as it must be computed again
  std::size_t redone = 0;    // of the log, since the last admission
  std::int64_t computed = 0;
  std::unique_ptr<AloneRequest> alone;

  bool running() const { return !rows.empty(); }
  bool recomputes() const { return redone < log.size(); }
};

/// One row of the step.
struct RandomSchedule::Work {
  Request* request;
  RowKind kind;
  std::int32_t tokens;
  std::int32_t accepted;  // of a verify row; else all
  bool again;             // computed before
  std::int32_t first = 0;
  bool dropped = false;  // its request ended while it ran
};

RandomSchedule::RandomSchedule(std::uint64_t seed, const WorldOptions& options)
    : random_(seed), options_(options) {
  options_.slots = kMostRows;
  options_.pages = 30;
  options_.max_tokens = 64;
  options_.kept = kMostRows * kMostDrafts;
  for (const bool graph : {false, true}) {
    sides_.push_back(std::make_unique<ScheduleSide>(options_, graph));
  }
}

RandomSchedule::~RandomSchedule() = default;

void RandomSchedule::admit() {
  const auto waits = [](const auto& r) { return !r->running(); };
  if (std::count_if(requests_.begin(), requests_.end(), waits) == 0 && random_.integer(0, 3) == 0) {
    auto fresh = std::make_unique<Request>();
    fresh->id = next_id_++;
    fresh->prompt = random_.integer(1, 24);
    fresh->length = fresh->prompt + random_.integer(1, 16);
    fresh->alone = std::make_unique<AloneRequest>(fresh->id, options_, kMostTokens);
    requests_.push_back(std::move(fresh));
  }
  const auto next = std::find_if(requests_.begin(), requests_.end(), waits);
  if (next == requests_.end()) return;
  const std::int64_t wanted = random_.integer(0, (*next)->prompt);
  std::vector<Handle> rows;
  for (auto& side : sides_) {
    Result<Handle> row = side->table.open(wanted);
    if (row.ok()) rows.push_back(*row);
  }
  ASSERT_TRUE(rows.empty() || rows.size() == sides_.size()) << "the sides' ledgers differ";
  if (rows.empty()) {
    ++counts_.failed;
    return;
  }
  ASSERT_EQ(rows[0].index, rows[1].index);
  (*next)->rows = std::move(rows);
  (*next)->redone = 0;
  (*next)->computed = 0;
}

void RandomSchedule::close(Request& request) {
  for (std::size_t i = 0; i < sides_.size(); ++i) {
    ScheduleSide& side = *sides_[i];
    const Handle& row = request.rows[i];
    const auto held = side.table.pages_of(row);
    side.poison(side.table.slot_id(row), {held.begin(), held.end()});
    ASSERT_OK(side.table.close(row));
  }
  request.rows.clear();
}

void RandomSchedule::preempt(Request& request) {
  close(request);
  ++counts_.preempted;
}

/// Pages for `tokens` in all. When there are none the youngest other running request gives up its.
bool RandomSchedule::make_room(Request& request, std::int64_t tokens) {
  std::vector<Status> got;
  for (std::size_t i = 0; i < sides_.size(); ++i) {
    got.push_back(sides_[i]->table.reserve(request.rows[i], tokens));
  }
  EXPECT_EQ(got[0].ok(), got[1].ok()) << "the sides' ledgers differ";
  if (got[0].ok()) return true;
  ++counts_.failed;
  for (std::size_t i = requests_.size(); i-- > 0;) {
    if (requests_[i].get() == &request || !requests_[i]->running()) continue;
    if (requests_[i]->id > request.id) preempt(*requests_[i]);
    break;
  }
  return false;
}

std::optional<RandomSchedule::Work> RandomSchedule::choose(Request& r) {
  if (random_.integer(0, 5) == 0) return std::nullopt;  // parked for this step
  Work work{&r, kDecode, 1, 1, false};
  if (r.recomputes()) {
    // Decoded tokens may come back as drafts that are all accepted: the bits are the same.
    work.again = true;
    work.kind = r.log[r.redone].kind;
    work.tokens = r.log[r.redone].tokens;
    if (work.kind == kDecode && random_.integer(0, 1) == 0) {
      work.kind = kVerify;
      while (work.tokens < kMostDrafts &&
             r.redone + static_cast<std::size_t>(work.tokens) < r.log.size() &&
             r.log[r.redone + static_cast<std::size_t>(work.tokens)].kind == kDecode) {
        ++work.tokens;
      }
    }
    work.accepted = work.tokens;
  } else if (r.computed < r.prompt) {
    work.kind = kPrefill;
    work.tokens = static_cast<std::int32_t>(
        random_.integer(0, std::min<std::int64_t>(r.prompt - r.computed, 9)));
    work.accepted = work.tokens;
  } else if (random_.integer(0, 1) == 0) {
    work.kind = kVerify;
    const std::int64_t left = r.length - r.computed;
    work.tokens = static_cast<std::int32_t>(random_.integer(1, std::min<std::int64_t>(left, 4)));
    work.accepted = static_cast<std::int32_t>(random_.integer(0, work.tokens));
  }
  if (!make_room(r, r.computed + work.tokens)) return std::nullopt;
  return work;
}

void RandomSchedule::feed(const Work& work, std::int32_t token) {
  for (std::int32_t i = 0; i < work.tokens; ++i) {
    const bool right = i < work.accepted;
    for (auto& side : sides_) {
      side->world.feed(right ? work.request->id : kWrong + static_cast<std::uint64_t>(i),
                       work.request->computed + i, token + i);
    }
  }
}

void RandomSchedule::maybe_inject() {
  if (random_.integer(0, 15) != 0) return;
  const std::int64_t nth = random_.integer(1, 4);
  const bool of_pages = random_.integer(0, 1) == 0;
  for (auto& side : sides_) (of_pages ? side->pages : side->slots).fail_allocation(nth);
}

void RandomSchedule::step() {
  maybe_inject();
  admit();
  std::vector<Work> works;
  for (auto& request : requests_) {
    if (!request->running()) continue;
    if (auto work = choose(*request)) works.push_back(*work);
  }
  // Making room for a later row may have preempted an earlier one.
  std::erase_if(works, [](const Work& w) { return !w.request->running(); });
  std::shuffle(works.begin(), works.end(), random_.engine());
  std::vector<std::vector<BatchRow>> rows(sides_.size());
  std::int32_t token = 0;
  for (auto& side : sides_) side->world.poison_tokens();
  for (Work& work : works) {
    work.first = token;
    for (std::size_t i = 0; i < sides_.size(); ++i) {
      rows[i].push_back(*sides_[i]->table.batch_row(work.request->rows[i], work.kind, work.tokens));
    }
    feed(work, token);
    token += work.tokens;
  }
  const bool padded = random_.integer(0, 3) == 0;
  if (padded) {
    const auto pads = static_cast<std::int32_t>(random_.integer(0, 2));
    for (auto& side_rows : rows) side_rows.push_back({kPad, kPadIndex, {}, 0, pads});
  }
  for (std::size_t i = 0; i < sides_.size(); ++i) {
    auto batch = ForwardBatch::create(rows[i]);
    ASSERT_TRUE(batch.ok()) << batch.status().message();
    ASSERT_OK(sides_[i]->run(*batch));
    std::vector<std::int32_t> slots, pages;
    for (const BatchRow& row : rows[i]) {
      slots.push_back(row.slot);
      pages.insert(pages.end(), row.pages.begin(), row.pages.end());
    }
    sides_[i]->check_bystanders(slots, pages);
  }
  check(works);
  commit(works, padded);
  for (auto& side : sides_) ASSERT_OK(side->check_ledger());
}

/// Every row's outputs: those of both sides agree, and what is new is what the request gives alone.
void RandomSchedule::check(const std::vector<Work>& works) {
  for (const Work& work : works) {
    std::vector<std::vector<double>> wanted;
    if (!work.again && work.kind == kPrefill) {
      wanted = work.request->alone->advance(kPrefill, work.tokens);
    }
    for (std::int32_t i = 0; i < work.tokens; ++i) {
      const auto got = sides_[0]->world.output(work.first + i);
      ASSERT_EQ(sides_[1]->world.output(work.first + i), got) << "the replay differs";
      if (work.again || i >= work.accepted) continue;
      if (work.kind != kPrefill) {
        wanted.push_back(work.request->alone->advance(kDecode, 1)[0]);
      }
      ASSERT_EQ(got, wanted[static_cast<std::size_t>(i)])
          << "request " << work.request->id << ", position " << work.request->computed + i;
    }
  }
}

/// Some requests end while their step runs; the others count what they have computed.
void RandomSchedule::commit(std::vector<Work>& works, bool padded) {
  std::vector<std::vector<Handle>> handles(sides_.size());
  std::vector<std::int32_t> last;
  for (Work& work : works) {
    last.push_back(work.accepted - 1);
    for (std::size_t i = 0; i < sides_.size(); ++i) handles[i].push_back(work.request->rows[i]);
    if (random_.integer(0, 60) == 0) {
      work.dropped = true;
      close(*work.request);
      ++counts_.cancelled;
    }
  }
  if (padded) last.push_back(-1);
  for (std::size_t i = 0; i < sides_.size(); ++i) {
    ScheduleSide& side = *sides_[i];
    if (padded) handles[i].emplace_back();
    ASSERT_OK(side.world.backend->commit(*side.plan, side.table, handles[i], last));
    for (std::size_t w = 0; w < works.size(); ++w) {
      if (works[w].dropped || works[w].kind == kVerify) continue;
      ASSERT_OK(side.table.advance(handles[i][w], works[w].tokens));
    }
    // A commit moves what its requests own, and nothing of one that ended meanwhile.
    std::vector<std::int32_t> slots, pages;
    for (std::size_t w = 0; w < works.size(); ++w) {
      if (works[w].dropped) continue;
      slots.push_back(side.table.slot_id(handles[i][w]));
      const auto held = side.table.pages_of(handles[i][w]);
      pages.insert(pages.end(), held.begin(), held.end());
    }
    side.check_bystanders(slots, pages);
  }
  for (Work& work : works) {
    if (!work.dropped) finish(work);
  }
  std::erase_if(requests_, [&](const auto& r) {
    return std::any_of(works.begin(), works.end(),
                       [&](const Work& w) { return w.dropped && w.request == r.get(); });
  });
}

/// Notes what the request has computed, and holds its state to its run alone.
void RandomSchedule::finish(Work& work) {
  Request& r = *work.request;
  r.computed += work.accepted;
  if (work.kind == kVerify) {
    counts_.drafted += work.tokens;
    counts_.accepted += work.accepted;
  }
  const std::size_t entries = work.kind == kPrefill ? 1 : static_cast<std::size_t>(work.accepted);
  if (work.again) {
    r.redone += entries;
    counts_.recomputed += work.accepted;
  } else {
    const Request::Done done{work.kind == kPrefill ? kPrefill : kDecode,
                             work.kind == kPrefill ? work.tokens : 1};
    r.log.insert(r.log.end(), entries, done);
    r.redone = r.log.size();
  }
  for (std::size_t i = 0; i < sides_.size(); ++i) {
    ScheduleSide& side = *sides_[i];
    const std::int32_t slot = side.table.slot_id(r.rows[i]);
    ASSERT_EQ(side.table.computed(r.rows[i]), r.computed);
    if (r.recomputes() || r.computed == 0) continue;
    ASSERT_EQ(side.world.slot_bytes(slot), r.alone->state())
        << "request " << r.id << " after " << r.computed << " tokens";
  }
  if (r.recomputes() || r.computed < r.length) return;
  close(r);
  work.dropped = true;
  ++counts_.finished;
}

void RandomSchedule::run(std::int64_t steps) {
  for (std::int64_t i = 0; i < steps && !::testing::Test::HasFailure(); ++i) {
    SCOPED_TRACE(::testing::Message() << "step " << counts_.steps);
    step();
    ++counts_.steps;
    counts_.replays = sides_[1]->replays;
  }
}

void RandomSchedule::drain() {
  for (auto& request : requests_) {
    if (request->running()) close(*request);
  }
  requests_.clear();
  for (auto& side : sides_) {
    EXPECT_OK(side->check_ledger());
    EXPECT_EQ(side->pages.num_free(), side->pages.capacity());
    EXPECT_EQ(side->slots.num_free(), side->slots.capacity());
    EXPECT_EQ(side->table.num_open(), 0);
  }
}

}  // namespace hybridattn::testing
