#include "hybridattn/graph_runner.h"

#include <algorithm>

#include "hybridattn/status_macros.h"

namespace hybridattn {
namespace {

std::int64_t total_rows(const GraphShape& shape) {
  return std::int64_t{shape.prefill_rows} + shape.decode_rows + shape.verify_rows;
}

bool smaller(const GraphShape& a, const GraphShape& b) {
  if (a.tokens != b.tokens) return a.tokens < b.tokens;
  if (total_rows(a) != total_rows(b)) return total_rows(a) < total_rows(b);
  return a.pages < b.pages;
}

bool holds(const GraphShape& room, const GraphShape& has) {
  return has.prefill_rows <= room.prefill_rows && has.decode_rows <= room.decode_rows &&
         has.verify_rows <= room.verify_rows && has.tokens <= room.tokens &&
         has.pages <= room.pages;
}

}  // namespace

std::vector<GraphShape> decode_buckets(std::int32_t max_rows, std::int32_t pages_per_row) {
  std::vector<GraphShape> shapes;
  const auto add = [&](std::int32_t rows) {
    GraphShape shape;
    shape.decode_rows = rows;
    shape.tokens = rows;
    shape.pages = rows * pages_per_row;
    shapes.push_back(shape);
  };
  std::int32_t rows = 1;
  while (rows < max_rows) {
    add(rows);
    rows = rows < 8 ? rows * 2 : rows + (rows < 256 ? 8 : (rows < 512 ? 16 : 32));
  }
  if (max_rows > 0) add(max_rows);
  return shapes;
}

Result<std::unique_ptr<GraphRunner>> GraphRunner::create(Context& context,
                                                         AttentionBackend& backend,
                                                         std::vector<GraphShape> sizes, Step step) {
  std::unique_ptr<GraphRunner> runner(new GraphRunner(backend));
  std::sort(sizes.begin(), sizes.end(), smaller);
  for (const GraphShape& shape : sizes) {
    const auto failed = [&](const Status& status) {
      return error(status.code(), "GraphRunner: size of ", shape.tokens,
                   " tokens: ", status.message());
    };
    Size size;
    Result<std::shared_ptr<Plan>> plan = backend.plan_graph(shape);
    if (!plan.ok()) return failed(plan.status());
    size.plan = std::move(plan).value();
    Result<std::unique_ptr<Graph>> graph = Graph::record(context, [&] { return step(*size.plan); });
    if (!graph.ok()) return failed(graph.status());
    size.graph = std::move(graph).value();
    runner->sizes_.push_back(std::move(size));
  }
  return runner;
}

const GraphRunner::Size* GraphRunner::find(const ForwardBatch& batch) const noexcept {
  const GraphShape has = batch.shape();
  for (const Size& size : sizes_) {
    if (holds(size.plan->shape(), has)) return &size;
  }
  return nullptr;
}

bool GraphRunner::can_run(const ForwardBatch& batch) const noexcept {
  return find(batch) != nullptr;
}

Result<const Graph*> GraphRunner::run(const ForwardBatch& batch) {
  const Size* size = find(batch);
  if (size == nullptr) {
    return error(StatusCode::kOutOfRange, "GraphRunner: no size holds ", batch.num_rows(),
                 " rows of ", batch.num_tokens(), " tokens and ", batch.shape().pages, " pages");
  }
  HYBRIDATTN_TRY(backend_.replan(*size->plan, batch));
  HYBRIDATTN_TRY(size->graph->replay());
  return static_cast<const Graph*>(size->graph.get());
}

std::size_t GraphRunner::workspace_bytes() const noexcept {
  std::size_t bytes = 0;
  for (const Size& size : sizes_) bytes += size.graph->workspace_bytes();
  return bytes;
}

}  // namespace hybridattn
