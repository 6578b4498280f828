// The verb `info`.
#include <iostream>
#include <nlohmann/json.hpp>

#include "apps/hybridattn/commands.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::app {
namespace {

using nlohmann::ordered_json;

/// What serves each part of a layer.
ordered_json kernels_of(engine::Engine& engine) {
  const bool on_cpu = engine.context().device() == DeviceType::kCpu;
  const bool int8 = engine.model().weights().format == engine::WeightFormat::kInt8;
  return {
      {"full_attention", {"qk_norm_rope_store", "attention"}},
      {"gated_delta_net",
       {"causal_conv", "gdn_gates", on_cpu ? "gdn_step (decode)" : "gdn_decode (decode)",
        "gdn_prefill (chunks of 64)", "gated_rms_norm"}},
      {"products", int8 ? std::vector{"linear_int8", "linear (gates)"} : std::vector{"linear"}}};
}

ordered_json describe(engine::Engine& engine) {
  const engine::HybridModel& model = engine.model();
  const engine::ModelConfig& c = model.config();
  const PagedKvShape kv = model.kv_shape(1, *engine.options().kv_dtype);
  const GdnStateShape state = model.state_shape(engine.options().state_dtype);
  const engine::MemoryReport memory = engine.memory();
  ordered_json out;
  out["model_type"] = c.model_type;
  out["parameters"] = model.weights().num_parameters;
  out["layers"] = {{"total", c.num_layers()},
                   {"full_attention", c.count(engine::LayerKind::kFullAttention)},
                   {"gated_delta_net", c.count(engine::LayerKind::kLinearAttention)}};
  out["experts"] = c.moe.num_experts;
  out["vocab_size"] = c.vocab_size;
  out["context_tokens"] = c.max_position_embeddings;
  out["tied_embeddings"] = model.weights().tied;
  out["eos_token_ids"] = c.eos_token_ids;
  out["dtype"] = dtype_name(model.dtype());
  out["kv_dtype"] = dtype_name(kv.dtype);
  out["state_dtype"] = dtype_name(state.state_dtype);
  out["weights"] = engine::weight_format_name(model.weights().format);
  out["weight_bytes"] = memory.weights;
  // All ranks together: heads that several of them share are held by each.
  const std::int32_t ranks = engine.options().ranks;
  out["kv_bytes_per_token"] = kv.page_bytes() * ranks;
  out["state_bytes_per_sequence"] = state.slot_bytes() * ranks;
  out["workspace_bytes"] = memory.workspace;
  if (engine.context().device() == DeviceType::kCpu) {
    out["device"] = "cpu";
    out["isa"] = isa_name(engine.context().isa());
    out["threads"] = engine.context().executor().concurrency();
  } else {
    std::string device = concat("cuda:", engine.options().context.device_index);
    for (std::size_t i = 1; i < engine.options().devices.size(); ++i) {
      device += concat(",", engine.options().devices[i]);
    }
    out["device"] = device;
  }
  out["kernels"] = kernels_of(engine);
  return out;
}

void print_text(const ordered_json& info) {
  for (const auto& [key, value] : info.items()) {
    std::cout << key << ": " << (value.is_string() ? value.get<std::string>() : value.dump())
              << '\n';
  }
}

}  // namespace

Status info(const InfoOptions& o) {
  HYBRIDATTN_ASSIGN(const std::unique_ptr<engine::Engine> engine, load_engine(o));
  // The caches of the least size: what they take is told per token and per sequence.
  HYBRIDATTN_TRY(engine->allocate_caches({1, 0}));
  const ordered_json out = describe(*engine);
  if (o.json) {
    std::cout << out.dump() << '\n';
  } else {
    print_text(out);
  }
  return check_output();
}

}  // namespace hybridattn::app
