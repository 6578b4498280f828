// Prefill of Gated DeltaNet on the GPU: the chunked delta rule over the head sets of the models at
// hand and sequences from one long to several short.
#include <algorithm>
#include <cstdio>
#include <numeric>

#include "bench/cuda/device.h"
#include "bench/cuda/suites.h"
#include "hybridattn/hybridattn.h"

namespace hybridattn::bench {
namespace {

constexpr std::int64_t kHeadDim = 128;

struct Heads {
  std::int64_t keys, values;
};
constexpr Heads kHeads[] = {{2, 8}, {16, 16}, {16, 32}, {16, 48}, {16, 64}};
const std::vector<std::vector<std::int32_t>> kSequences = {{65536},
                                                           {8192},
                                                           {2048},
                                                           {1024, 7168},
                                                           std::vector<std::int32_t>(8, 1024),
                                                           std::vector<std::int32_t>(8, 8192)};

struct Case {
  Case(const Heads& head_set, const std::vector<std::int32_t>& sequence_lengths, bool slow_gates)
      : heads(head_set), lengths(sequence_lengths), slow(slow_gates),
        tokens(std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0})),
        q(DType::kBF16, {tokens, heads.keys, kHeadDim}, -1, 1),
        k(DType::kBF16, {tokens, heads.keys, kHeadDim}, -1, 1),
        v(DType::kBF16, {tokens, heads.values, kHeadDim}, -1, 1),
        log_decay(DType::kF32, {tokens, heads.values}, slow ? -0.02 : -0.69, slow ? 0 : -0.31),
        beta(DType::kF32, {tokens, heads.values}, 0.5, 0.73),
        state(DType::kF32,
              {static_cast<std::int64_t>(lengths.size()), heads.values, kHeadDim, kHeadDim}, -1, 1),
        out(DType::kBF16, {tokens, heads.values, kHeadDim}, -1, 1) {}

  GdnArgs args(const RaggedRows& rows) const {
    GdnArgs args;
    args.rows = rows;
    args.q = q.view();
    args.k = k.view();
    args.v = v.view();
    args.log_decay = log_decay.view();
    args.beta = beta.view();
    args.state = state.view();
    args.out = out.view();
    args.scale = 0.08838834764f;
    return args;
  }
  /// Each input read once, each output written once.
  double floor_bytes() const {
    return static_cast<double>(q.bytes() + k.bytes() + v.bytes() + log_decay.bytes() +
                               beta.bytes() + 2 * state.bytes() + out.bytes());
  }

  Heads heads;
  std::vector<std::int32_t> lengths;
  bool slow;
  std::int64_t tokens;
  DeviceTensor q, k, v, log_decay, beta, state, out;
};

/// Rows one after the other, each over a state of its own that is not zero.
std::unique_ptr<DeviceRows> make_rows(Context& context, const Case& x) {
  const auto count = static_cast<std::int32_t>(x.lengths.size());
  std::vector<std::int32_t> start, slot, computed(x.lengths.size(), 64);
  std::int32_t next = 0;
  for (std::int32_t r = 0; r < count; ++r) {
    start.push_back(next);
    slot.push_back(r);
    next += x.lengths[static_cast<std::size_t>(r)];
  }
  auto rows = DeviceRows::create(context, count, static_cast<std::int32_t>(x.tokens));
  require_ok(rows.status());
  require_ok((*rows)->write({count, start.data(), x.lengths.data(), slot.data(), computed.data()}));
  return std::move(rows).value();
}

/// The last row's last 512 tokens against plain CUDA C++ that steps token after token. States are
/// given back.
double check_case(Context& context, const Case& x, const RaggedRows& rows) {
  ContextOptions options;
  options.device = DeviceType::kCuda;
  options.kernel_family = "smxx";
  auto plain = Context::create(options);
  require_ok(plain.status());
  const std::int64_t head = x.heads.values * kHeadDim;
  const std::int64_t last = std::min<std::int64_t>(512, x.tokens);
  const auto states = static_cast<std::size_t>(x.state.bytes());
  void* kept = nullptr;
  require_cuda(cudaMalloc(&kept, states), "cudaMalloc");
  const auto move_states = [&](void* to, const void* from) {
    require_cuda(cudaDeviceSynchronize(), "run");
    require_cuda(cudaMemcpy(to, from, states, cudaMemcpyDeviceToDevice), "copy");
  };
  move_states(kept, x.state.view().data);
  require_ok(gdn_prefill(context, x.args(rows)));
  const auto got = x.out.read((x.tokens - last) * head, last * head);
  move_states(x.state.view().data, kept);
  RaggedRows host_rows = rows;
  host_rows.device = nullptr;
  require_ok(gdn_prefill(**plain, x.args(host_rows)));
  require_ok((*plain)->synchronize());
  const double error = relative_error(got, x.out.read((x.tokens - last) * head, last * head));
  move_states(x.state.view().data, kept);
  cudaFree(kept);
  require(error < 1e-2, concat("the chunked kernel is off by ", error));
  return error;
}

std::string name_of(const Case& x) {
  const auto n = x.lengths.size();
  if (n == 2) return concat(x.lengths[0], "+", x.lengths[1]);
  return n == 1 ? concat("1x", x.lengths[0]) : concat(x.lengths[0], "x", n);
}

}  // namespace

void run_gdn_prefill(Context& context, cudaStream_t stream, double copy_rate, Report& report) {
  for (const bool slow : {false, true}) {
    for (const Heads& heads : kHeads) {
      if (slow && heads.values != 8 && heads.values != 32 && heads.values != 64) continue;
      for (const auto& lengths : kSequences) {
        if (slow && lengths.size() == 8 && lengths[0] != 1024) continue;
        if (slow && (lengths.size() == 2 || lengths[0] == 2048)) continue;
        const Case x(heads, lengths, slow);
        const auto rows = make_rows(context, x);
        const double error = check_case(context, x, rows->rows());
        const std::vector<std::function<Status()>> calls(
            4, [&] { return gdn_prefill(context, x.args(rows->rows())); });
        const double ms = time_in_graph(stream, calls) / 1e3;
        const double floor_ms = x.floor_bytes() / copy_rate * 1e3;
        report.row({{"hk", heads.keys},
                    {"hv", heads.values},
                    {"sequences", name_of(x)},
                    {"gates", slow ? "slow" : "fast"},
                    {"ms", ms, 3},
                    {"floor_ms", floor_ms, 3},
                    {"over_floor", ms / floor_ms, 2},
                    {"error", error, 5}});
      }
    }
  }
}

}  // namespace hybridattn::bench
