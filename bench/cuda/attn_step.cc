// Whole steps through HybridAttnBackend on the GPU: the attention layers of a model, of both kinds,
// planned and run eagerly, and planned into a captured graph and replayed.
#include <chrono>
#include <vector>

#include "bench/cuda/device.h"
#include "bench/cuda/suites.h"
#include "hybridattn/hybridattn.h"

namespace hybridattn::bench {
namespace {

constexpr std::int64_t kDim = 256, kRotated = 64, kHead = 128, kKeyHeads = 16, kPage = 64;

/// The heads of a model whose every fourth layer is full attention.
struct Model {
  const char* name;
  std::int32_t layers, heads, kv_heads, v_heads;
};
constexpr Model kModels[] = {{"0.8B", 24, 8, 2, 16}, {"4B", 32, 16, 4, 32}};

/// Memory of the device full of one small number, whatever type it is read as: random numbers for
/// gigabytes would take longer than the benchmark.
class Memory {
 public:
  explicit Memory(std::int64_t bytes) : bytes_(static_cast<std::size_t>(bytes)) {
    require_cuda(cudaMalloc(&data_, bytes_), "memory");
    clear();
  }
  ~Memory() { cudaFree(data_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  void clear() { require_cuda(cudaMemset(data_, 0x3c, bytes_), "memory"); }
  TensorView take(DType dtype, std::initializer_list<std::int64_t> dims) {
    const TensorView view(static_cast<std::byte*>(data_) + used_, dtype, dims);
    used_ += (static_cast<std::size_t>(view.num_elements()) * dtype_size(dtype) + 255) / 256 * 256;
    require(used_ <= bytes_, "a benchmark's memory is too small");
    return view;
  }

 private:
  std::size_t bytes_, used_ = 0;
  void* data_ = nullptr;
};

struct Rows {
  std::int32_t decodes, keys;  // keys of each before its new token
  std::int32_t prefill, before;
};

class World {
 public:
  World(Context& context, const Model& model, std::int32_t slots, std::int32_t pages,
        std::int32_t most_tokens)
      : context_(context), model_(model),
        caches_(std::int64_t{model.layers} / 4 *
                    (std::int64_t{pages} * kPage * model.kv_heads * kDim * 4 + 512) +
                std::int64_t{model.layers} * 3 / 4 * (slots * slot_bytes() + 512)) {
    PagedKvView kv;
    GdnStateView states;
    std::set<std::int32_t> full_ids;
    for (std::int32_t i = 0; i < model.layers; ++i)
      add_layer(i, slots, pages, kv, states, full_ids);
    auto full = PagedAttnBackend::create(context, kv);
    auto gdn = GDNAttnBackend::create(context, states);
    require_ok(full.status());
    require_ok(gdn.status());
    require_ok((*full)->set_layers(full_));
    require_ok((*gdn)->set_layers(gdn_));
    auto made = HybridAttnBackend::create(std::move(*full), std::move(*gdn), full_ids);
    require_ok(made.status());
    backend = std::move(*made);
    make_inputs(most_tokens);
  }

  Status run(const Plan& plan) {
    const std::int64_t tokens = plan.num_tokens();
    const auto head = [tokens](const DeviceTensor& x) {
      TensorView view = x.view();
      view.shape[0] = tokens;
      return view;
    };
    std::size_t full = 0, gdn = 0;
    for (std::int32_t i = 0; i < model_.layers; ++i) {
      Status status;
      if (i % 4 == 3) {
        AttentionRunArgs args;
        args.q = head(q_), args.k = head(k_), args.v = head(v_), args.gate = head(gate_);
        args.out = head(attention_out_);
        args.q_norm = args.k_norm = head_norm_.view();
        args.cos = head(cos_), args.sin = head(sin_);
        status = backend->run_attention(plan, full_[full++], args);
      } else {
        status = backend->run_gdn(
            plan, gdn_[gdn++],
            {head(mixed_), head(a_), head(b_), head(gdn_out_), head(z_), state_norm_.view()});
      }
      if (!status.ok()) return status;
    }
    return {};
  }

  ForwardBatch batch(const Rows& rows) const {
    std::vector<BatchRow> list;
    std::int32_t page = 0;
    const auto add = [&](RowKind kind, std::int32_t computed, std::int32_t tokens) {
      BatchRow row{kind, static_cast<std::int32_t>(list.size()), {}, computed, tokens};
      for (std::int64_t at = 0; at < computed + tokens; at += kPage) row.pages.push_back(page++);
      list.push_back(std::move(row));
    };
    for (std::int32_t r = 0; r < rows.decodes; ++r) add(RowKind::kDecode, rows.keys, 1);
    if (rows.prefill > 0) add(RowKind::kPrefill, rows.before, rows.prefill);
    auto made = ForwardBatch::create(std::move(list));
    require_ok(made.status());
    return std::move(*made);
  }
  /// Bytes of keys, values and states that a step must read and write.
  double bytes(const Rows& rows) const {
    const double keys = static_cast<double>(rows.decodes) * rows.keys + rows.before + rows.prefill;
    const double states = rows.decodes + (rows.prefill > 0 ? 1 : 0);
    return model_.layers / 4 * keys * model_.kv_heads * kDim * 4 +
           model_.layers * 3 / 4 * states * 2 * static_cast<double>(slot_bytes());
  }
  std::vector<float> outputs(std::int64_t tokens) {
    require_ok(context_.synchronize());
    auto all = attention_out_.read(0, tokens * model_.heads * kDim);
    const auto more = gdn_out_.read(0, tokens * model_.v_heads * kHead);
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  void clear() { caches_.clear(); }

  std::unique_ptr<HybridAttnBackend> backend;

 private:
  std::int64_t channels() const { return (2 * kKeyHeads + model_.v_heads) * kHead; }
  std::int64_t slot_bytes() const {
    return model_.v_heads * kHead * kHead * 4 + channels() * 3 * 2;
  }
  void add_layer(std::int32_t i, std::int32_t slots, std::int32_t pages, PagedKvView& kv,
                 GdnStateView& states, std::set<std::int32_t>& full_ids) {
    if (i % 4 == 3) {
      for (auto* caches : {&kv.k, &kv.v}) {
        caches->push_back(caches_.take(DType::kBF16, {pages, kPage, model_.kv_heads, kDim}));
      }
      RadixAttention layer{i,
                           static_cast<std::int32_t>(full_.size()),
                           model_.heads,
                           model_.kv_heads,
                           kDim,
                           kDim,
                           1.0f / 16};
      full_ids.insert(i);
      full_.push_back(layer);
      return;
    }
    states.recurrent.push_back(caches_.take(DType::kF32, {slots, model_.v_heads, kHead, kHead}));
    states.conv.push_back(caches_.take(DType::kBF16, {slots, channels(), 3}));
    weights_.emplace_back(DType::kBF16, std::vector<std::int64_t>{channels(), 4}, -0.5, 0.5);
    gates_.emplace_back(DType::kF32, std::vector<std::int64_t>{model_.v_heads}, -1, 1);
    gdn_.push_back({i, static_cast<std::int32_t>(gdn_.size()), kKeyHeads, model_.v_heads, kHead,
                    kHead, weights_.back().view(), gates_.back().view(), gates_.back().view()});
  }
  void make_inputs(std::int64_t t) {
    const auto make = [t](DeviceTensor& x, std::vector<std::int64_t> shape,
                          DType dtype = DType::kBF16) {
      shape.insert(shape.begin(), t);
      x = DeviceTensor(dtype, shape, -1, 1);
    };
    make(q_, {model_.heads, kDim}), make(gate_, {model_.heads, kDim});
    make(attention_out_, {model_.heads, kDim});
    make(k_, {model_.kv_heads, kDim}), make(v_, {model_.kv_heads, kDim});
    make(cos_, {kRotated / 2}, DType::kF32), make(sin_, {kRotated / 2}, DType::kF32);
    make(mixed_, {channels()}), make(a_, {model_.v_heads}), make(b_, {model_.v_heads});
    make(z_, {model_.v_heads, kHead}), make(gdn_out_, {model_.v_heads, kHead});
    head_norm_ = DeviceTensor(DType::kBF16, {kDim}, -0.5, 0.5);
    state_norm_ = DeviceTensor(DType::kBF16, {kHead}, 0.5, 1.5);
  }

  Context& context_;
  Model model_;
  Memory caches_;
  std::vector<RadixAttention> full_;
  std::vector<RadixLinearAttention> gdn_;
  std::vector<DeviceTensor> weights_, gates_;
  DeviceTensor q_, k_, v_, gate_, attention_out_, cos_, sin_, head_norm_, state_norm_;
  DeviceTensor mixed_, a_, b_, z_, gdn_out_;
};

/// Microseconds of a step, wall clock, the median of a few times many steps one behind the other.
template <class Step>
double wall_time(Context& context, const Step& step) {
  constexpr int kSteps = 30;
  std::vector<double> times;
  for (int round = 0; round < 5; ++round) {
    require_ok(context.synchronize());
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < kSteps; ++i) require_ok(step());
    require_ok(context.synchronize());
    times.push_back(
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin)
            .count() /
        kSteps);
  }
  std::nth_element(times.begin(), times.begin() + 2, times.end());
  return times[2];
}

void report_step(Context& context, const Model& model, const Rows& rows, double copy_rate,
                 Report& report) {
  const std::int32_t slots = rows.decodes + 1;
  const auto pages_for = [](std::int64_t keys) {
    return static_cast<std::int32_t>((keys + kPage - 1) / kPage);
  };
  const std::int32_t pages =
      rows.decodes * pages_for(rows.keys + 1) + pages_for(rows.before + rows.prefill);
  const std::int32_t tokens = rows.decodes + rows.prefill;
  World world(context, model, slots, pages, tokens);
  const ForwardBatch batch = world.batch(rows);
  const auto eager = [&]() -> Status {
    auto plan = world.backend->plan(batch);
    return plan.ok() ? world.run(**plan) : plan.status();
  };
  require_ok(eager());
  const auto plain = world.outputs(tokens);
  world.clear();
  const auto begin = std::chrono::steady_clock::now();
  auto runner = GraphRunner::create(context, *world.backend, {batch.shape()},
                                    [&](const Plan& plan) { return world.run(plan); });
  require_ok(runner.status());
  require_ok(context.synchronize());
  const double capture_ms =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
  require_ok((*runner)->run(batch).status());
  const double error = relative_error(world.outputs(tokens), plain);
  require(error < 6e-3, concat("a captured step is off by ", error));
  auto plan = world.backend->plan_graph(batch.shape());
  require_ok(plan.status());
  const double plan_us = host_time([&] { return world.backend->replan(**plan, batch); });
  const double eager_us = wall_time(context, eager);
  const double captured_us = wall_time(context, [&] { return (*runner)->run(batch).status(); });
  const double floor_us = world.bytes(rows) / copy_rate * 1e6;
  report.row({{"model", std::string(model.name)},
              {"decodes", rows.decodes},
              {"keys", rows.keys},
              {"prefill", rows.prefill},
              {"before", rows.before},
              {"eager_us", eager_us, 1},
              {"captured_us", captured_us, 1},
              {"floor_us", floor_us, 1},
              {"captured_of_eager", captured_us / eager_us, 2},
              {"over_floor", captured_us / floor_us, 2},
              {"plan_us", plan_us, 1},
              {"capture_ms", capture_ms, 1},
              {"error", error, 5}});
}

}  // namespace

void run_attn_step(Context& context, cudaStream_t, double copy_rate, Report& report) {
  for (const Model& model : kModels) {
    for (const Rows& rows : {Rows{1, 2048, 0, 0}, Rows{8, 2048, 0, 0}, Rows{32, 2048, 0, 0},
                             Rows{128, 2048, 0, 0}, Rows{64, 2048, 512, 1024}, Rows{0, 0, 2048, 0},
                             Rows{0, 0, 8192, 0}, Rows{256, 512, 0, 0}}) {
      report_step(context, model, rows, copy_rate, report);
    }
  }
}

}  // namespace hybridattn::bench
