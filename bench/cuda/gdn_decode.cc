// Decode steps of Gated DeltaNet on the GPU: the recurrence alone and the whole fused step.
#include <algorithm>
#include <cstdio>
#include <numeric>
#include <random>

#include "bench/cuda/device.h"
#include "bench/cuda/suites.h"
#include "hybridattn/hybridattn.h"

namespace hybridattn::bench {
namespace {

constexpr std::int64_t kHeadDim = 128, kKeyHeads = 16;

/// Everything of one shape: states of several batches, so that each call finds its own in memory.
struct Shape {
  Shape(std::int64_t v_heads, std::int64_t batch_rows, DType state_dtype)
      : heads(v_heads), batch(batch_rows),
        state_bytes(heads * kHeadDim * kHeadDim *
                    static_cast<std::int64_t>(dtype_size(state_dtype))),
        rotation(std::clamp<std::int64_t>(
            (256'000'000 + batch * state_bytes - 1) / (batch * state_bytes), 2, 64)),
        channels(2 * kKeyHeads * kHeadDim + heads * kHeadDim),
        mixed(DType::kBF16, {batch, channels}, -1, 1), weight(DType::kBF16, {channels, 4}, -1, 1),
        windows(DType::kBF16, {slots(), channels, 3}, -1, 1),
        a(DType::kBF16, {batch, heads}, -2, 2), b(DType::kBF16, {batch, heads}, -2, 2),
        a_log(DType::kF32, {heads}, -1, 1), dt_bias(DType::kF32, {heads}, -1, 1),
        state(state_dtype, {slots(), heads, kHeadDim, kHeadDim}, -0.1, 0.1),
        z(DType::kBF16, {batch, heads, kHeadDim}, -1, 1), norm(DType::kBF16, {kHeadDim}, 0.5, 1.5),
        log_decay(DType::kF32, {batch, heads}, -0.7, 0), beta(DType::kF32, {batch, heads}, 0, 1),
        out(DType::kBF16, {batch, heads, kHeadDim}, -1, 1) {}

  std::int64_t slots() const { return batch * rotation + 3; }

  std::int64_t heads, batch, state_bytes, rotation, channels;
  DeviceTensor mixed, weight, windows, a, b, a_log, dt_bias, state, z, norm, log_decay, beta, out;
};

GdnArgs step_args(const Shape& x, const RaggedRows& rows) {
  GdnArgs args;
  args.rows = rows;
  const TensorView mixed = x.mixed.view();
  args.q = mixed.at(0, {x.batch, kKeyHeads, kHeadDim}, {x.channels, kHeadDim, 1});
  args.k =
      mixed.at(kKeyHeads * kHeadDim, {x.batch, kKeyHeads, kHeadDim}, {x.channels, kHeadDim, 1});
  args.v =
      mixed.at(2 * kKeyHeads * kHeadDim, {x.batch, x.heads, kHeadDim}, {x.channels, kHeadDim, 1});
  args.log_decay = x.log_decay.view();
  args.beta = x.beta.view();
  args.state = x.state.view();
  args.out = x.out.view();
  args.scale = 0.08838834764f;
  return args;
}

GdnDecodeArgs decode_args(const Shape& x, const RaggedRows& rows) {
  GdnDecodeArgs args;
  args.rows = rows;
  args.num_k_heads = kKeyHeads;
  args.mixed_qkv = x.mixed.view();
  args.conv_weight = x.weight.view();
  args.conv_state = x.windows.view();
  args.a = x.a.view();
  args.b = x.b.view();
  args.a_log = x.a_log.view();
  args.dt_bias = x.dt_bias.view();
  args.state = x.state.view();
  args.z = x.z.view();
  args.norm_weight = x.norm.view();
  args.out = x.out.view();
  return args;
}

/// Batches of rows, each over slots of its own in random order.
std::vector<std::unique_ptr<DeviceRows>> make_rotation(Context& context, const Shape& x) {
  std::vector<std::int32_t> slots(static_cast<std::size_t>(x.slots()));
  std::iota(slots.begin(), slots.end(), 0);
  std::shuffle(slots.begin(), slots.end(), std::mt19937(3));
  const auto count = static_cast<std::size_t>(x.batch);
  std::vector<std::int32_t> start(count), ones(count, 1), computed(count, 100);
  std::iota(start.begin(), start.end(), 0);
  std::vector<std::unique_ptr<DeviceRows>> out;
  for (std::int64_t i = 0; i < x.rotation; ++i) {
    auto rows = DeviceRows::create(context, static_cast<std::int32_t>(x.batch),
                                   static_cast<std::int32_t>(x.batch));
    require_ok(rows.status());
    require_ok((*rows)->write({static_cast<std::int32_t>(x.batch), start.data(), ones.data(),
                               slots.data() + i * x.batch, computed.data()}));
    out.push_back(std::move(rows).value());
  }
  return out;
}

/// The fused step against the ops one after the other, before anything is timed.
double check_decode(Context& context, const Shape& x, const RaggedRows& rows) {
  const std::int64_t head = kHeadDim * kHeadDim;
  const std::int64_t first = std::int64_t{rows.slot[0]} * x.heads * head;
  const auto before = x.state.read(first, x.heads * head);
  ContextOptions options;
  auto cpu = Context::create(options);
  require_ok(cpu.status());
  // One row of everything on the host.
  std::vector<std::vector<float>> host;
  const auto copy = [&](const DeviceTensor& t, std::int64_t at,
                        std::initializer_list<std::int64_t> d) {
    std::int64_t n = 1;
    for (const std::int64_t dim : d) n *= dim;
    host.push_back(t.read(at, n));
    return TensorView(host.back().data(), DType::kF32, d);
  };
  GdnDecodeArgs args = decode_args(x, rows);
  const std::int32_t zero = 0, one = 1, some = 100;
  args.rows = {1, &zero, &one, &zero, &some};
  args.mixed_qkv = copy(x.mixed, 0, {1, x.channels});
  args.conv_weight = copy(x.weight, 0, {x.channels, 4});
  args.conv_state = copy(x.windows, rows.slot[0] * x.channels * 3, {1, x.channels, 3});
  args.a = copy(x.a, 0, {1, x.heads});
  args.b = copy(x.b, 0, {1, x.heads});
  args.a_log = copy(x.a_log, 0, {x.heads});
  args.dt_bias = copy(x.dt_bias, 0, {x.heads});
  args.state = copy(x.state, first, {1, x.heads, kHeadDim, kHeadDim});
  args.z = copy(x.z, 0, {1, x.heads, kHeadDim});
  args.norm_weight = copy(x.norm, 0, {kHeadDim});
  args.out = copy(x.out, 0, {1, x.heads, kHeadDim});
  require_ok(gdn_decode(**cpu, args));
  require_ok(gdn_decode(context, decode_args(x, rows)));
  const auto want = static_cast<const float*>(args.out.data);
  const auto state = static_cast<const float*>(args.state.data);
  const double out_error =
      relative_error(x.out.read(0, x.heads * kHeadDim), {want, want + x.heads * kHeadDim});
  const double state_error =
      relative_error(x.state.read(first, x.heads * head), {state, state + x.heads * head});
  require(out_error < 4e-3 && state_error < 4e-3,
          concat("the fused step is off by ", out_error, " and ", state_error));
  return std::max(out_error, state_error);
}

}  // namespace

void run_gdn_decode(Context& context, cudaStream_t stream, double copy_rate, Report& report) {
  for (const DType state : {DType::kF32, DType::kBF16}) {
    for (const std::int64_t heads : {16, 32, 64}) {
      for (const std::int64_t batch : {1, 8, 32, 64, 128, 256, 512}) {
        const Shape x(heads, batch, state);
        const auto rows = make_rotation(context, x);
        const double error = check_decode(context, x, rows[0]->rows());
        std::vector<std::function<Status()>> step, fused;
        for (const auto& some : rows) {
          step.push_back([&] { return gdn_step(context, step_args(x, some->rows())); });
          fused.push_back([&] { return gdn_decode(context, decode_args(x, some->rows())); });
        }
        const double step_us = time_in_graph(stream, step);
        const double fused_us = time_in_graph(stream, fused);
        const double floor_us = 2.0 * static_cast<double>(batch * x.state_bytes) / copy_rate * 1e6;
        report.row({{"hv", heads},
                    {"batch", batch},
                    {"state", std::string(dtype_name(state))},
                    {"step_us", step_us, 1},
                    {"step_of_copy", floor_us / step_us, 2},
                    {"fused_us", fused_us, 1},
                    {"fused_of_copy", floor_us / fused_us, 2},
                    {"fused_over_step", fused_us / step_us, 2},
                    {"error", error, 5}});
      }
    }
  }
}

}  // namespace hybridattn::bench
