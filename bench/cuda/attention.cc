// Softmax attention over pages on the GPU: prefill, rows that extend a prefix, decode, mixed steps.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "bench/cuda/device.h"
#include "bench/cuda/suites.h"
#include "hybridattn/hybridattn.h"

namespace hybridattn::bench {
namespace {

constexpr std::int32_t kHeads = 16, kKvHeads = 2;
constexpr std::int64_t kDim = 256;

struct Row {
  std::int32_t queries, keys;
};

/// A step: rows over pages in random order.
struct Step {
  Step(std::vector<Row> row_list, std::int32_t page, DType cache_dtype, std::int64_t copy_count = 1)
      : rows(std::move(row_list)), page_size(page), copies(copy_count) {
    for (const Row& row : rows) {
      start.push_back(static_cast<std::int32_t>(tokens));
      first_page.push_back(num_pages);
      queries.push_back(row.queries);
      keys.push_back(row.keys);
      tokens += row.queries;
      num_pages += (row.keys + page - 1) / page;
      most_keys = std::max(most_keys, row.keys);
    }
    pages.resize(static_cast<std::size_t>(num_pages * copies));
    std::iota(pages.begin(), pages.end(), 0);
    std::shuffle(pages.begin(), pages.end(), std::mt19937(7));
    q = DeviceTensor(DType::kBF16, {tokens, kHeads, kDim}, -2, 2);
    k = DeviceTensor(cache_dtype, {num_pages * copies, page, kKvHeads, kDim}, -2, 2);
    v = DeviceTensor(cache_dtype, {num_pages * copies, page, kKvHeads, kDim}, -2, 2);
    out = DeviceTensor(DType::kBF16, {tokens, kHeads, kDim}, -2, 2);
  }

  /// The rows over copy `copy` of the cache.
  AttentionRows host_rows(std::int64_t copy = 0) const {
    AttentionRows r;
    r.count = static_cast<std::int32_t>(rows.size());
    r.q_start = start.data();
    r.q_length = queries.data();
    r.kv_length = keys.data();
    r.kv_start = first_page.data();
    r.pages = pages.data() + copy * num_pages;
    r.num_pages_listed = num_pages;
    return r;
  }
  AttentionArgs args(const AttentionRows& r) const {
    AttentionArgs a;
    a.rows = r;
    a.q = q.view();
    a.k = k.view();
    a.v = v.view();
    a.out = out.view();
    a.options.scale = 1.0f / 16.0f;
    return a;
  }
  /// Lets every row begin with as many of the first row's pages as hold `keys_shared`.
  void share_pages(std::int32_t keys_shared) {
    const auto count = static_cast<std::int64_t>(keys_shared / page_size);
    for (std::int64_t copy = 0; copy < copies; ++copy) {
      const auto all = pages.begin() + copy * num_pages;
      for (const std::int64_t first : first_page) std::copy_n(all, count, all + first);
    }
  }
  double flop() const {
    double pairs = 0;
    for (const Row& row : rows) {
      const double n = row.queries, before = row.keys - row.queries;
      pairs += n * before + n * (n + 1) / 2;
    }
    return 4.0 * kHeads * kDim * pairs;
  }
  double cache_bytes() const {
    double bytes = 0;
    for (const Row& row : rows) bytes += row.keys;
    return bytes * 2 * kKvHeads * kDim * static_cast<double>(dtype_size(k.view().dtype));
  }

  std::vector<Row> rows;
  std::int32_t page_size;
  std::int64_t copies;  // of the cache, so that each call finds its own in memory
  std::int64_t tokens = 0, num_pages = 0;
  std::int32_t most_keys = 0;
  std::vector<std::int32_t> start, queries, keys, pages;
  std::vector<std::int64_t> first_page;
  DeviceTensor q, k, v, out;
};

/// One key head's queries of a token, in float on the CPU.
std::vector<float> expected(const Step& x, const Row& row, std::size_t r, std::int32_t query) {
  std::vector<float> out;
  const std::int64_t seen = row.keys - row.queries + query + 1;
  const std::int64_t key_stride = kKvHeads * kDim;
  std::vector<std::vector<float>> k, v;
  for (std::int64_t j = 0; j < seen; ++j) {
    const std::int64_t page = x.pages[static_cast<std::size_t>(x.first_page[r] + j / x.page_size)];
    const std::int64_t at = (page * x.page_size + j % x.page_size) * key_stride;
    k.push_back(x.k.read(at, kDim));
    v.push_back(x.v.read(at, kDim));
  }
  for (std::int32_t head = 0; head < kHeads / kKvHeads; ++head) {
    const auto q = x.q.read(((x.start[r] + query) * kHeads + head) * kDim, kDim);
    std::vector<double> logits, sum(kDim, 0.0);
    for (const auto& key : k) {
      logits.push_back(std::inner_product(q.begin(), q.end(), key.begin(), 0.0) / 16.0);
    }
    const double top = *std::max_element(logits.begin(), logits.end());
    double all = 0;
    for (std::size_t j = 0; j < logits.size(); ++j) {
      const double weight = std::exp(logits[j] - top);
      all += weight;
      for (std::size_t d = 0; d < kDim; ++d) sum[d] += weight * v[j][d];
    }
    for (const double value : sum) out.push_back(static_cast<float>(value / all));
  }
  return out;
}

/// The first and last query of the shortest row, before anything is timed.
double check(Context& context, const Step& x, const AttentionRows& rows) {
  require_ok(attention(context, x.args(rows)));
  require_ok(context.synchronize());
  const auto shortest = std::min_element(
      x.rows.begin(), x.rows.end(), [](const Row& a, const Row& b) { return a.keys < b.keys; });
  const auto r = static_cast<std::size_t>(shortest - x.rows.begin());
  double error = 0;
  for (const std::int32_t query : {0, std::min(shortest->queries - 1, 40)}) {
    const auto want = expected(x, *shortest, r, query);
    const auto got =
        x.out.read((x.start[r] + query) * kHeads * kDim, static_cast<std::int64_t>(want.size()));
    error = std::max(error, relative_error(got, want));
  }
  require(error < 6e-3, concat("attention is off by ", error));
  return error;
}

struct Result {
  double us, error, plan_us;
};

/// Rows of each copy of the step's cache, written and ready.
std::vector<std::unique_ptr<DeviceAttentionRows>> rows_of(Context& context, const Step& x,
                                                          bool shared_prefixes = false) {
  const AttentionHeads heads{kHeads, kKvHeads, x.page_size};
  std::int32_t row_tokens = 0;
  for (const Row& row : x.rows) row_tokens = std::max(row_tokens, row.queries);
  AttentionLimits limits{static_cast<std::int32_t>(x.rows.size()),
                         static_cast<std::int32_t>(x.tokens), x.num_pages, x.most_keys, row_tokens};
  limits.cache_pages = x.k.view().dim(0);
  limits.shared_prefixes = shared_prefixes;
  std::vector<std::unique_ptr<DeviceAttentionRows>> rows;
  for (std::int64_t copy = 0; copy < x.copies; ++copy) {
    auto made = DeviceAttentionRows::create(context, heads, limits);
    require_ok(made.status());
    require_ok((*made)->write(x.host_rows(copy)));
    rows.push_back(std::move(made).value());
  }
  return rows;
}

Result time_step(Context& context, cudaStream_t stream, const Step& x,
                 bool shared_prefixes = false) {
  const auto rows = rows_of(context, x, shared_prefixes);
  Result result{};
  result.error = check(context, x, rows[0]->rows());
  std::vector<std::function<Status()>> calls;
  for (const auto& some : rows) {
    calls.push_back([&] { return attention(context, x.args(some->rows())); });
  }
  result.us = time_in_graph(stream, calls);
  result.plan_us = host_time([&] { return rows[0]->write(x.host_rows()); });
  return result;
}

std::string name_of(const Context& context) { return std::string(context.last_kernel_target()); }

void report_flop(Context& context, cudaStream_t stream, const char* what, const Step& x,
                 Report& report) {
  const Result r = time_step(context, stream, x);
  report.row({{"step", std::string(what)},
              {"page", x.page_size},
              {"kernel", name_of(context)},
              {"us", r.us, 1},
              {"tflop_per_s", x.flop() / r.us / 1e6, 0},
              {"plan_us", r.plan_us, 1},
              {"error", r.error, 5}});
}

}  // namespace

void run_attn_prefill(Context& context, cudaStream_t stream, double, Report& report) {
  for (const std::int32_t tokens : {2048, 8192, 32768}) {
    for (const std::int32_t page : {1, 16, 64}) {
      const Step x({{tokens, tokens}}, page, DType::kBF16);
      report_flop(context, stream, concat("prefill ", tokens).c_str(), x, report);
    }
  }
}

void run_attn_extend(Context& context, cudaStream_t stream, double, Report& report) {
  for (const std::int32_t queries : {8, 64, 512}) {
    const Step x(std::vector<Row>(8, {queries, 8192}), 64, DType::kBF16);
    report_flop(context, stream, concat("8 x ", queries, " of 8192").c_str(), x, report);
  }
  const Step x({{512, 32768}}, 64, DType::kBF16);
  report_flop(context, stream, "512 of 32768", x, report);
  std::vector<Row> mixed(32, {1, 4096});
  mixed.push_back({2048, 2048});
  const Step y(mixed, 64, DType::kBF16);
  report_flop(context, stream, "32 decodes at 4096 and 2048 new", y, report);
}

/// Decodes that begin with one prompt, which is read once or by each.
void run_attn_shared(Context& context, cudaStream_t stream, double, Report& report) {
  struct Shape {
    std::int32_t batch, shared, own;
  };
  for (const DType cache : {DType::kBF16, DType::kF8E4M3}) {
    for (const Shape& shape : {Shape{2, 1024, 256}, Shape{2, 8192, 256}, Shape{8, 1024, 256},
                               Shape{8, 8192, 256}, Shape{32, 1024, 1024}, Shape{32, 8192, 256},
                               Shape{128, 8192, 256}, Shape{128, 512, 512}, Shape{32, 0, 4096}}) {
      Step x(std::vector<Row>(static_cast<std::size_t>(shape.batch), {1, shape.shared + shape.own}),
             64, cache, shape.batch > 8 ? 2 : 8);
      x.share_pages(shape.shared);
      const Result apart = time_step(context, stream, x);
      const Result together = time_step(context, stream, x, true);
      report.row({{"batch", shape.batch},
                  {"shared", shape.shared},
                  {"own", shape.own},
                  {"cache", std::string(dtype_name(cache))},
                  {"us_apart", apart.us, 1},
                  {"us_shared", together.us, 1},
                  {"plan_us_apart", apart.plan_us, 1},
                  {"plan_us_shared", together.plan_us, 1},
                  {"error", together.error, 5}});
    }
  }
}

/// The output gate inside attention beside the op of its own.
void run_attn_gate(Context& context, cudaStream_t stream, double, Report& report) {
  std::vector<Row> mixed(32, {1, 4096});
  mixed.push_back({2048, 2048});
  const std::vector<std::pair<const char*, std::vector<Row>>> steps{
      {"1 decode at 8192", {{1, 8192}}},
      {"32 decodes at 4096", std::vector<Row>(32, {1, 4096})},
      {"512 of 32768", {{512, 32768}}},
      {"8192 new", {{8192, 8192}}},
      {"32 decodes at 4096 and 2048 new", mixed}};
  for (const auto& [name, list] : steps) {
    const Step x(list, 64, DType::kBF16, list.size() == 1 && list[0].queries == 1 ? 18 : 2);
    const DeviceTensor gate(DType::kBF16, {x.tokens, kHeads, kDim}, -4, 4);
    const auto rows = rows_of(context, x);
    const double error = check(context, x, rows[0]->rows());
    const std::string kernel = name_of(context);
    const auto attend = [&](const DeviceAttentionRows& some, bool gated) {
      AttentionArgs args = x.args(some.rows());
      if (gated) args.gate = gate.view();
      return attention(context, args);
    };
    const auto open = [&] {
      return sigmoid_gate(context, {x.out.view(), gate.view(), x.out.view()});
    };
    require_ok(attend(*rows[0], false));
    require_ok(open());
    const auto apart = x.out.read(0, kHeads * kDim);
    require_ok(attend(*rows[0], true));
    const double gate_error = relative_error(x.out.read(0, kHeads * kDim), apart);
    require(gate_error < 6e-3, concat("the gate is off by ", gate_error));
    std::vector<std::function<Status()>> without, inside, behind;
    for (const auto& some : rows) {
      without.push_back([&] { return attend(*some, false); });
      inside.push_back([&] { return attend(*some, true); });
      behind.push_back([&] {
        const Status status = attend(*some, false);
        return status.ok() ? open() : status;
      });
    }
    report.row({{"step", std::string(name)},
                {"kernel", kernel},
                {"us_without", time_in_graph(stream, without), 1},
                {"us_inside", time_in_graph(stream, inside), 1},
                {"us_behind", time_in_graph(stream, behind), 1},
                {"error", error, 5}});
  }
}

void run_attn_decode(Context& context, cudaStream_t stream, double copy_rate, Report& report) {
  struct Shape {
    std::int32_t batch, keys, page;
    DType cache;
  };
  std::vector<Shape> shapes;
  for (const DType cache : {DType::kBF16, DType::kF8E4M3}) {
    for (const std::int32_t batch : {1, 8, 32, 128}) shapes.push_back({batch, 8192, 64, cache});
    shapes.push_back({1, 131072, 64, cache});
    shapes.push_back({256, 1024, 16, cache});
    shapes.push_back({32, 8192, 1, cache});
  }
  for (const Shape& shape : shapes) {
    const double bytes = static_cast<double>(shape.batch) * shape.keys * 2 * kKvHeads * kDim *
                         static_cast<double>(dtype_size(shape.cache));
    const Step x(std::vector<Row>(static_cast<std::size_t>(shape.batch), {1, shape.keys}),
                 shape.page, shape.cache, std::max(2, static_cast<int>(300e6 / bytes)));
    const Result r = time_step(context, stream, x);
    report.row({{"batch", shape.batch},
                {"keys", shape.keys},
                {"page", shape.page},
                {"cache", std::string(dtype_name(shape.cache))},
                {"kernel", name_of(context)},
                {"us", r.us, 1},
                {"tb_per_s", x.cache_bytes() / r.us / 1e6, 2},
                {"of_copy", x.cache_bytes() / r.us * 1e6 / copy_rate, 2},
                {"plan_us", r.plan_us, 1},
                {"error", r.error, 5}});
  }
}

}  // namespace hybridattn::bench
