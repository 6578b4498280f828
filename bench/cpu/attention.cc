// Paged attention on the CPU at the heads of a small hybrid model.
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "bench/cpu/suites.h"
#include "bench/cpu/tensors.h"
#include "bench/cpu/timing.h"
#include "bench/require.h"
#include "hybridattn/ops/attention.h"

namespace hybridattn::bench {
namespace {

constexpr std::int64_t kDim = 256, kPageSize = 64;
constexpr double kSeconds = 0.6;

/// Types of queries and outputs, and of the cache.
struct Types {
  DType q, cache;
};

/// One row of `queries` tokens at the end of `keys` cached ones.
struct Case {
  Case(Types types, std::int64_t q_heads, std::int64_t kv_heads, std::int64_t num_queries,
       std::int64_t num_keys)
      : heads(q_heads), queries(num_queries), keys(num_keys),
        q(types.q, {queries, heads, kDim}, -1, 1),
        k(types.cache, {pages(), kPageSize, kv_heads, kDim}, -1, 1),
        v(types.cache, {pages(), kPageSize, kv_heads, kDim}, -1, 1),
        out(types.q, {queries, heads, kDim}, 0, 1), page_ids(static_cast<std::size_t>(pages())) {
    std::iota(page_ids.rbegin(), page_ids.rend(), 0);
  }

  std::int64_t pages() const { return (keys + kPageSize - 1) / kPageSize; }
  AttentionArgs args() const {
    AttentionArgs args;
    args.rows.count = 1;
    args.rows.q_start = &zero;
    args.rows.q_length = &q_length;
    args.rows.kv_start = &first_page;
    args.rows.kv_length = &kv_length;
    args.rows.pages = page_ids.data();
    args.rows.num_pages_listed = pages();
    args.q = q.view();
    args.k = k.view();
    args.v = v.view();
    args.out = out.view();
    args.options.scale = 1 / std::sqrt(static_cast<float>(kDim));
    return args;
  }
  /// The last query of a head against the plain formula in double.
  void check() const {
    const std::int64_t kv_heads = k.view().dim(2), head = heads - 1, token = queries - 1;
    std::vector<double> sum(kDim, 0.0);
    double total = 0;
    for (std::int64_t j = 0; j < keys; ++j) {
      const std::int64_t row =
          (page_ids[static_cast<std::size_t>(j / kPageSize)] * kPageSize + j % kPageSize) *
              kv_heads +
          kv_heads - 1;
      double logit = 0;
      for (std::int64_t i = 0; i < kDim; ++i) {
        logit += double{q.at((token * heads + head) * kDim + i)} * k.at(row * kDim + i);
      }
      const double weight = std::exp(logit / std::sqrt(static_cast<double>(kDim)));
      total += weight;
      for (std::int64_t i = 0; i < kDim; ++i)
        sum[static_cast<std::size_t>(i)] += weight * v.at(row * kDim + i);
    }
    double difference = 0, size = 0;
    for (std::int64_t i = 0; i < kDim; ++i) {
      const double want = sum[static_cast<std::size_t>(i)] / total;
      const double d = out.at((token * heads + head) * kDim + i) - want;
      difference += d * d;
      size += want * want;
    }
    require(std::sqrt(difference / size) < 1e-2, "attention: the answer is wrong");
  }

  std::int64_t heads, queries, keys;
  HostTensor q, k, v, out;
  std::vector<std::int32_t> page_ids;
  std::int32_t zero = 0;
  std::int64_t first_page = 0;
  std::int32_t q_length = static_cast<std::int32_t>(queries);
  std::int32_t kv_length = static_cast<std::int32_t>(keys);
};

void measure(Context& context, const Ceilings& ceilings, Types types, const Case& x,
             Report& report) {
  const Times t =
      time_calls(kSeconds, [&](std::int64_t) { require_ok(attention(context, x.args())); });
  x.check();
  const double pairs = static_cast<double>(x.queries) *
                       (static_cast<double>(x.keys) - static_cast<double>(x.queries - 1) / 2);
  const double flop = 4.0 * pairs * static_cast<double>(x.heads * kDim);
  const double bytes = static_cast<double>(x.k.bytes() + x.v.bytes());
  report.row({{"suite", std::string("attention")},
              {"kernel", std::string(context.last_kernel_target())},
              {"q", std::string(dtype_name(types.q))},
              {"cache", std::string(dtype_name(types.cache))},
              {"hq", x.heads},
              {"hk", x.k.view().dim(2)},
              {"queries", x.queries},
              {"keys", x.keys},
              {"ms", t.median * 1e3, 2},
              {"best_ms", t.best * 1e3, 2},
              {"gflop_per_s", flop / t.median / 1e9, 0},
              {"kv_gb_per_s", bytes / t.median / 1e9, 1},
              {"of_read", bytes / t.median / ceilings.read, 2}});
}

}  // namespace

void run_attention(Context& context, const Ceilings& ceilings, Report& report) {
  constexpr Types kBf16{DType::kBF16, DType::kBF16};
  for (const std::int64_t heads : {8, 32}) {
    for (const auto& [queries, keys] : {std::pair<std::int64_t, std::int64_t>{512, 512},
                                        {512, 10000},
                                        {1, 10000},
                                        {512, 32768},
                                        {1, 32768}}) {
      measure(context, ceilings, kBf16, {kBf16, heads, 2, queries, keys}, report);
    }
  }
  for (const Types types : {Types{DType::kBF16, DType::kF8E4M3}, Types{DType::kF16, DType::kF16}}) {
    measure(context, ceilings, types, {types, 8, 2, 1, 32768}, report);
  }
}

}  // namespace hybridattn::bench
