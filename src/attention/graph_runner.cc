#include "hybridattn/graph_runner.h"

#include <algorithm>

#include "hybridattn/status_macros.h"
#include "src/attention/step_shape.h"

namespace hybridattn {
namespace {

bool smaller(const GraphShape& a, const GraphShape& b) {
  if (a.tokens != b.tokens) return a.tokens < b.tokens;
  const std::int64_t rows_a = backend::total_rows(a);
  const std::int64_t rows_b = backend::total_rows(b);
  if (rows_a != rows_b) return rows_a < rows_b;
  return a.pages < b.pages;
}

}  // namespace

std::vector<GraphShape> decode_buckets(std::int32_t max_rows, std::int32_t pages_per_row) {
  std::vector<GraphShape> shapes;
  std::int32_t rows = 1;
  while (rows < max_rows) {
    shapes.push_back(backend::decode_shape(rows, pages_per_row));
    rows = rows < 8 ? rows * 2 : rows + (rows < 256 ? 8 : (rows < 512 ? 16 : 32));
  }
  if (max_rows > 0) shapes.push_back(backend::decode_shape(max_rows, pages_per_row));
  return shapes;
}

Result<std::unique_ptr<GraphRunner>> GraphRunner::create(Context& context,
                                                         AttentionBackend& backend,
                                                         std::vector<GraphShape> sizes, Step step) {
  std::unique_ptr<GraphRunner> runner(new GraphRunner(backend));
  std::sort(sizes.begin(), sizes.end(), smaller);
  // The largest first: what workspace it makes the context take serves the others.
  std::reverse(sizes.begin(), sizes.end());
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
  std::reverse(runner->sizes_.begin(), runner->sizes_.end());
  return runner;
}

const GraphRunner::Size* GraphRunner::find(const ForwardBatch& batch) const noexcept {
  for (const Size& size : sizes_) {
    if (!backend::shape_excess(batch.shape(), size.plan->shape()).has_value()) return &size;
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
  last_plan_ = size->plan.get();
  HYBRIDATTN_TRY(size->graph->replay());
  return static_cast<const Graph*>(size->graph.get());
}

std::size_t GraphRunner::workspace_bytes() const noexcept {
  std::size_t bytes = 0;
  for (const Size& size : sizes_) bytes += size.graph->workspace_bytes();
  return bytes;
}

}  // namespace hybridattn
