// Any steps of any rows through HybridAttnBackend, eagerly, by GraphRunner and by a recorded graph:
// each row as in its run alone, padding zeros, and no byte changed that the step does not name.
// Steps that break a rule are refused and change nothing; which do is said here a second time.
#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "hybridattn/graph_runner.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/step_rules.h"
#include "tests/support/hybrid_world.h"

namespace hybridattn::fuzz {
namespace {

using testing::AloneRequest;
using testing::HybridWorld;
using testing::WorldOptions;

constexpr std::int32_t kPageSizes[] = {1, 2, 3, 4, 7, 16};
constexpr std::int32_t kMaxTokens = 40;
constexpr std::int32_t kMostTokensOfRow = 12;
constexpr std::int64_t kMostTokensOfRequest = 96;
constexpr int kMaxSteps = 6;
constexpr std::uint64_t kWrong = 1000;  // requests from here on are rejected drafts

// Smallest first, as GraphRunner looks for them.
const std::vector<GraphShape>& graph_sizes() {
  static const std::vector<GraphShape> sizes{
      {0, 3, 0, 3, 60}, {2, 2, 0, 17, 80}, {3, 4, 2, kMaxTokens, 200}};
  return sizes;
}

WorldOptions world_options(Bytes& bytes) {
  WorldOptions options;
  options.slots = 4;
  options.pages = 24;
  options.page_size = kPageSizes[bytes.index(std::size(kPageSizes))];
  options.max_tokens = kMaxTokens;
  options.kept = 12;
  return options;
}

struct Request {
  std::uint64_t id = 0;
  std::int32_t slot = 0;
  std::vector<std::int32_t> pages;
  std::int64_t computed = 0;
  std::unique_ptr<AloneRequest> alone;
};

/// One row of a step and what came of it.
struct Part {
  BatchRow row;
  Request* request = nullptr;      // nullptr: padding
  std::vector<std::int32_t> path;  // drafted tokens that will be accepted
};

class Session {
 public:
  explicit Session(Bytes& bytes) : bytes_(bytes), world_(world_options(bytes)) {
    for (std::int32_t s = 0; s < world_.options.slots; ++s) free_slots_.push_back(s);
    for (std::int32_t p = 0; p < world_.options.pages; ++p) free_pages_.push_back(p);
  }

  void run() {
    for (int step = 0; step < kMaxSteps && !bytes_.empty(); ++step) {
      for (std::int64_t i = bytes_.integer(0, 3); i > 0; --i) admit();
      if (bytes_.integer(0, 3) == 0) finish();
      std::vector<Part> parts = compose();
      if (bytes_.integer(0, 3) == 0) {
        try_changed(parts);
      } else {
        step_of(parts);
      }
    }
  }

 private:
  template <class T>
  T take(std::vector<T>& from) {
    const std::size_t at = bytes_.index(from.size());
    const T taken = from[at];
    from.erase(from.begin() + static_cast<std::ptrdiff_t>(at));
    return taken;
  }

  void admit() {
    if (free_slots_.empty() || free_pages_.empty()) return;
    Request r;
    r.id = ++last_id_;
    r.slot = take(free_slots_);
    const auto most = static_cast<std::int64_t>(std::min<std::size_t>(free_pages_.size(), 12));
    for (std::int64_t i = bytes_.integer(1, most); i > 0; --i) r.pages.push_back(take(free_pages_));
    world_.poison_slot(r.slot);
    for (const std::int32_t page : r.pages) world_.poison_page(page);
    r.alone = std::make_unique<AloneRequest>(r.id, world_.options, kMostTokensOfRequest);
    requests_.push_back(std::move(r));
  }
  void finish() {
    if (requests_.empty()) return;
    const std::size_t at = bytes_.index(requests_.size());
    free_slots_.push_back(requests_[at].slot);
    free_pages_.insert(free_pages_.end(), requests_[at].pages.begin(), requests_[at].pages.end());
    requests_.erase(requests_.begin() + static_cast<std::ptrdiff_t>(at));
  }

  /// Rows of each request at most once, and of padding, in any order. All are legal.
  std::vector<Part> compose() {
    std::vector<Part> parts;
    std::vector<Request*> waiting;
    for (Request& r : requests_) waiting.push_back(&r);
    std::int64_t room = kMaxTokens;
    std::int64_t kept = world_.options.kept;
    for (std::int64_t i = bytes_.integer(0, 6); i > 0; --i) {
      Part part = waiting.empty() || bytes_.integer(0, 4) == 0 ? padding(room)
                                                               : row_of(take(waiting), room, kept);
      room -= part.row.new_tokens;
      if (part.row.kind == RowKind::kVerify) kept -= part.row.new_tokens;
      parts.push_back(std::move(part));
    }
    return parts;
  }
  Part padding(std::int64_t room) {
    Part part;
    part.row.new_tokens = bytes_.int32(0, std::min<std::int64_t>(room, 3));
    return part;
  }
  Part row_of(Request* r, std::int64_t room, std::int64_t kept) {
    const auto capacity =
        std::min(static_cast<std::int64_t>(r->pages.size()) * world_.options.page_size,
                 kMostTokensOfRequest);
    const std::int64_t most =
        std::min({room, capacity - r->computed, std::int64_t{kMostTokensOfRow}});
    Part part;
    part.request = r;
    part.row = {RowKind::kPrefill, r->slot, r->pages, r->computed, 0};
    const std::int64_t kind = bytes_.integer(0, 2);
    if (kind == 1 && most > 0) {
      part.row.kind = RowKind::kDecode;
      part.row.new_tokens = 1;
    } else if (kind == 2) {
      part.row.new_tokens = bytes_.int32(0, std::min(most, kept));
      draft(part);
    } else {
      part.row.new_tokens = bytes_.int32(0, most);
    }
    return part;
  }
  /// A chain or a tree, and the path through it that will be accepted.
  void draft(Part& part) {
    part.row.kind = RowKind::kVerify;
    const std::int32_t tokens = part.row.new_tokens;
    const bool tree = tokens > 0 && bytes_.flag();
    std::vector<std::int32_t> parents;
    for (std::int32_t i = 0; i < tokens; ++i) {
      parents.push_back(tree ? bytes_.int32(-1, i - 1) : i - 1);
    }
    for (std::int32_t t = bytes_.int32(-1, tokens - 1); t >= 0;
         t = parents[static_cast<std::size_t>(t)]) {
      part.path.insert(part.path.begin(), t);
    }
    if (tree) part.row.parents = parents;
  }

  static std::vector<BatchRow> rows_of(const std::vector<Part>& parts) {
    std::vector<BatchRow> rows;
    for (const Part& part : parts) rows.push_back(part.row);
    return rows;
  }

  /// Changes one field of one row, or puts a row in twice, and holds the answer against the rules.
  void try_changed(const std::vector<Part>& parts) {
    std::vector<BatchRow> rows = rows_of(parts);
    if (rows.empty()) return;
    change(rows);
    const bool legal = Rules(world_.options).allow(rows);
    const auto before = everything();
    const Status status = try_plan(rows);
    FUZZ_CHECK(status.ok() == legal, text_of(rows), ": ",
               legal ? status.message() : "was taken, and breaks a rule");
    if (!status.ok()) {
      check_refusal(status, {StatusCode::kInvalidArgument, StatusCode::kOutOfRange,
                             StatusCode::kResourceExhausted});
    }
    FUZZ_CHECK(everything() == before, "planning has changed something");
  }
  Status try_plan(const std::vector<BatchRow>& rows) {
    const auto batch = ForwardBatch::create(rows);
    if (!batch.ok()) return batch.status();
    const Status planned = world_.backend->plan(*batch).status();
    // A graph's plan refuses the same steps, and those beyond its size.
    if (bytes_.flag()) {
      Recorded& graph = recorded();
      const std::uint64_t version = graph.plan->version();
      const Status replanned = world_.backend->replan(*graph.plan, *batch);
      FUZZ_CHECK(replanned.ok() == (planned.ok() && fits(batch->shape(), graph_sizes().back())),
                 replanned.message(), planned.message());
      FUZZ_CHECK(graph.plan->version() == version + (replanned.ok() ? 1 : 0));
    }
    return planned;
  }
  void change(std::vector<BatchRow>& rows) {
    const std::size_t at = bytes_.index(rows.size());
    BatchRow& row = rows[at];
    const std::int32_t corner[] = {-2, -1, 0, 1, 2, 3, 4, 23, 24, 1 << 20, INT32_MAX};
    const auto any = [&] { return corner[bytes_.index(std::size(corner))]; };
    switch (bytes_.integer(0, 7)) {
      case 0: row.kind = static_cast<RowKind>(bytes_.integer(0, 4)); break;
      case 1: row.slot = any(); break;
      case 2: row.computed = bytes_.flag() ? any() : std::int64_t{any()} << 31; break;
      case 3: row.new_tokens = any(); break;
      case 4:
        if (!row.pages.empty()) row.pages[bytes_.index(row.pages.size())] = any();
        break;
      case 5: row.pages.resize(bytes_.index(row.pages.size() + 1)); break;
      case 6: row.parents.assign(bytes_.index(4), bytes_.int32(-2, 2)); break;
      default: rows.push_back(row);
    }
    // A legal plan of that many tokens of padding would only take memory.
    if (rows[at].kind == RowKind::kPad) {
      rows[at].new_tokens = std::min(rows[at].new_tokens, 64);
    }
  }

  /// Keeps everything that must not change, runs the step, and looks at each row.
  void step_of(std::vector<Part>& parts) {
    const std::vector<BatchRow> rows = rows_of(parts);
    const auto batch = ForwardBatch::create(rows);
    FUZZ_CHECK(batch.ok(), batch.status().message());
    world_.poison_tokens();
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (parts[i].request != nullptr) {
        feed(parts[i], batch->token_start(static_cast<std::int32_t>(i)));
      }
    }
    const auto before = everything();
    const std::shared_ptr<Plan> plan = execute(*batch, rows);
    check_bystanders(before, parts);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      check_outputs(parts[i], batch->token_start(static_cast<std::int32_t>(i)));
    }
    commit(plan, parts);
    for (const Part& part : parts) {
      if (part.request == nullptr) continue;
      FUZZ_CHECK(world_.slot_bytes(part.request->slot) == part.request->alone->state(),
                 "the state of request ", part.request->id, " after ", part.request->computed,
                 " tokens: ", text_of(rows));
    }
  }
  void feed(const Part& part, std::int32_t first) {
    for (std::int32_t j = 0; j < part.row.new_tokens; ++j) {
      std::uint64_t request = part.request->id;
      std::int64_t position = part.request->computed + j;
      if (part.row.kind == RowKind::kVerify) {
        const auto at = std::find(part.path.begin(), part.path.end(), j);
        if (at == part.path.end()) request = kWrong + static_cast<std::uint64_t>(j);
        if (at != part.path.end()) position = part.request->computed + (at - part.path.begin());
      }
      world_.feed(request, position, first + j);
    }
  }
  /// Returns the plan where there are rows to commit.
  std::shared_ptr<Plan> execute(const ForwardBatch& batch, const std::vector<BatchRow>& rows) {
    const std::int64_t way = bytes_.integer(0, 2);
    const bool drafts = batch.shape().verify_rows > 0;
    if (way == 1 && !drafts && runner().can_run(batch)) {
      const auto graph = runner().run(batch);
      FUZZ_CHECK(graph.ok(), graph.status().message());
      const auto size = std::find_if(graph_sizes().begin(), graph_sizes().end(),
                                     [&](const GraphShape& s) { return fits(batch.shape(), s); });
      check_zeros(batch.num_tokens(), size->tokens);
      return nullptr;
    }
    if (way == 2 && fits(batch.shape(), graph_sizes().back())) {
      const Status replanned = world_.backend->replan(*recorded().plan, batch);
      FUZZ_CHECK(replanned.ok(), replanned.message(), ": ", text_of(rows));
      const Status replayed = recorded().graph->replay();
      FUZZ_CHECK(replayed.ok(), replayed.message());
      check_zeros(batch.num_tokens(), graph_sizes().back().tokens);
      return recorded().plan;
    }
    const auto plan = world_.backend->plan(batch);
    FUZZ_CHECK(plan.ok(), plan.status().message(), ": ", text_of(rows));
    testing::poison_workspace(*world_.context);
    const Status ran = world_.run(**plan);
    FUZZ_CHECK(ran.ok(), ran.message());
    return *plan;
  }

  void check_zeros(std::int32_t begin, std::int32_t end) const {
    for (std::int32_t t = begin; t < end; ++t) {
      for (const double value : world_.output(t)) FUZZ_CHECK(value == 0.0, "token ", t);
    }
  }
  void check_outputs(const Part& part, std::int32_t first) {
    if (part.request == nullptr) return check_zeros(first, first + part.row.new_tokens);
    Request& r = *part.request;
    if (part.row.kind != RowKind::kVerify) {
      const auto wanted = r.alone->advance(part.row.kind, part.row.new_tokens);
      for (std::int32_t j = 0; j < part.row.new_tokens; ++j) {
        FUZZ_CHECK(world_.output(first + j) == wanted[static_cast<std::size_t>(j)], "request ",
                   r.id, ", position ", r.computed + j);
      }
      r.computed += part.row.new_tokens;
      return;
    }
    for (const std::int32_t t : part.path) {
      const std::vector<double> got = world_.output(first + t);
      const std::vector<double> wanted = r.alone->advance(RowKind::kDecode, 1).front();
      // A tree's keys lie at other places: the sums of attention are cut elsewhere.
      const bool same =
          part.row.parents.empty() ? got == wanted : bool(testing::near(got, wanted, {1e-5, 1e-4}));
      FUZZ_CHECK(same, "request ", r.id, ", drafted token ", t);
    }
    r.computed += static_cast<std::int64_t>(part.path.size());
  }
  void commit(const std::shared_ptr<Plan>& plan, const std::vector<Part>& parts) {
    if (plan == nullptr) return;
    std::vector<std::int32_t> last;
    for (const Part& part : parts) {
      const bool draft = part.row.kind == RowKind::kVerify && !part.path.empty();
      last.push_back(draft ? part.path.back() : -1);
    }
    const Status committed = world_.backend->commit(*plan, last);
    FUZZ_CHECK(committed.ok(), committed.message());
    const Status again = world_.backend->commit(*plan, last);
    check_refusal(again, {StatusCode::kFailedPrecondition});
  }

  /// Bytes of each slot, then those of each place of each page.
  std::vector<std::vector<testing::Byte>> everything() const {
    std::vector<std::vector<testing::Byte>> all;
    for (std::int32_t s = 0; s < world_.options.slots; ++s) all.push_back(world_.slot_bytes(s));
    for (std::int32_t p = 0; p < world_.options.pages; ++p) append_places(p, all);
    return all;
  }
  void append_places(std::int32_t page, std::vector<std::vector<testing::Byte>>& all) const {
    const std::vector<testing::Byte> bytes = world_.page_bytes(page);
    const auto size = static_cast<std::size_t>(world_.options.page_size);
    const std::size_t widths[] = {
        sizeof(float) * HybridWorld::kHk * static_cast<std::size_t>(world_.options.dim),
        sizeof(float) * HybridWorld::kHk * static_cast<std::size_t>(world_.options.v_dim)};
    const std::size_t first = all.size();
    all.resize(first + size);
    std::size_t at = 0;
    while (at < bytes.size()) {
      for (const std::size_t width : widths) {
        for (std::size_t i = 0; i < size; ++i, at += width) {
          const auto from = bytes.begin() + static_cast<std::ptrdiff_t>(at);
          all[first + i].insert(all[first + i].end(), from,
                                from + static_cast<std::ptrdiff_t>(width));
        }
      }
    }
  }
  /// Before a commit: the slots of prefill and decode rows with tokens and the places of all new
  /// tokens may differ, nothing else.
  void check_bystanders(const std::vector<std::vector<testing::Byte>>& before,
                        const std::vector<Part>& parts) const {
    std::set<std::size_t> named;
    const std::int64_t size = world_.options.page_size;
    for (const Part& part : parts) {
      if (part.request == nullptr || part.row.new_tokens == 0) continue;
      if (part.row.kind != RowKind::kVerify) named.insert(static_cast<std::size_t>(part.row.slot));
      for (std::int64_t p = part.row.computed; p < part.row.computed + part.row.new_tokens; ++p) {
        const std::int64_t page = part.row.pages[static_cast<std::size_t>(p / size)];
        named.insert(static_cast<std::size_t>(world_.options.slots + page * size + p % size));
      }
    }
    const auto after = everything();
    for (std::size_t i = 0; i < after.size(); ++i) {
      FUZZ_CHECK(named.count(i) != 0 || after[i] == before[i], "slot or place ", i,
                 " has changed and was not named: ", text_of(rows_of(parts)));
    }
  }

  struct Recorded {
    std::shared_ptr<Plan> plan;
    std::unique_ptr<Graph> graph;
  };
  Recorded& recorded() {
    if (recorded_.graph != nullptr) return recorded_;
    auto plan = world_.backend->plan_graph(graph_sizes().back());
    FUZZ_CHECK(plan.ok(), plan.status().message());
    recorded_.plan = *plan;
    auto graph = Graph::record(*world_.context, [&] { return world_.run(*recorded_.plan); });
    FUZZ_CHECK(graph.ok(), graph.status().message());
    recorded_.graph = std::move(*graph);
    return recorded_;
  }
  GraphRunner& runner() {
    if (runner_ != nullptr) return *runner_;
    auto made = GraphRunner::create(*world_.context, *world_.backend, graph_sizes(),
                                    [this](const Plan& plan) { return world_.run(plan); });
    FUZZ_CHECK(made.ok(), made.status().message());
    runner_ = std::move(*made);
    return *runner_;
  }

  Bytes& bytes_;
  HybridWorld world_;
  Recorded recorded_;
  std::unique_ptr<GraphRunner> runner_;
  std::vector<Request> requests_;
  std::vector<std::int32_t> free_slots_;
  std::vector<std::int32_t> free_pages_;
  std::uint64_t last_id_ = 0;
};

}  // namespace
}  // namespace hybridattn::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // What the shared worlds expect of a test ends the process here.
  static const bool throws = [] { return ::testing::GTEST_FLAG(throw_on_failure) = true; }();
  static_cast<void>(throws);
  hybridattn::fuzz::Bytes bytes(data, size);
  hybridattn::fuzz::Session(bytes).run();
  return 0;
}
