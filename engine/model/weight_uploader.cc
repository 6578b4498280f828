#include "engine/model/weight_uploader.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "hybridattn/status_macros.h"

namespace hybridattn::engine {
namespace {

float as_float(float x) { return x; }
template <class Half>
float as_float(Half x) {
  return to_float(x);
}

template <class To>
void convert_to(const ConstTensorView& from, std::int64_t first, std::int64_t count, To* to) {
  const auto each = [&](const auto* data) {
    for (std::int64_t i = 0; i < count; ++i) {
      if constexpr (std::is_same_v<To, float>) {
        to[i] = as_float(data[first + i]);
      } else {
        to[i] = to_bf16(as_float(data[first + i]));
      }
    }
  };
  switch (from.dtype) {
    case DType::kBF16: return each(static_cast<const BF16*>(from.data));
    case DType::kF16: return each(static_cast<const F16*>(from.data));
    default: return each(static_cast<const float*>(from.data));
  }
}

/// Elements [first, first + count) of a dense view as `dtype`, f32 or bf16.
void convert(const ConstTensorView& from, std::int64_t first, std::int64_t count, DType dtype,
             std::byte* to) {
  if (from.dtype == dtype) {
    const auto size = static_cast<std::int64_t>(dtype_size(dtype));
    std::memcpy(to, static_cast<const std::byte*>(from.data) + first * size,
                static_cast<std::size_t>(count * size));
  } else if (dtype == DType::kF32) {
    convert_to(from, first, count, reinterpret_cast<float*>(to));
  } else {
    convert_to(from, first, count, reinterpret_cast<BF16*>(to));
  }
}

std::size_t bytes_of(const ConstTensorView& view, DType dtype) {
  return static_cast<std::size_t>(view.num_elements()) * dtype_size(dtype);
}

/// The same shape over other memory, dense.
ConstTensorView moved(const ConstTensorView& view, DType dtype, const std::byte* to) {
  ConstTensorView out = view;
  out.data = to;
  out.dtype = dtype;
  return out;
}

}  // namespace

WeightUploader::WeightUploader(Context& context, DType dtype, DeviceBlocks& blocks,
                               std::int64_t total, const LoadProgress& progress)
    : context_(context), dtype_(dtype), blocks_(blocks), progress_(progress), total_(total) {}

WeightUploader::~WeightUploader() {
  // Copies of them may still be on their way.
  const Status done = context_.synchronize();
  static_cast<void>(done);  // an earlier error was told
  for (std::byte* stage : stages_) {
    if (stage != nullptr) context_.pinned_allocator().deallocate(stage, kStageBytes);
  }
}

/// A stage that no copy reads any more.
Result<std::byte*> WeightUploader::next_stage() {
  stage_ = (stage_ + 1) % static_cast<int>(stages_.size());
  std::byte*& stage = stages_[static_cast<std::size_t>(stage_)];
  if (stage == nullptr) {
    stage = static_cast<std::byte*>(context_.pinned_allocator().allocate(kStageBytes));
    if (stage == nullptr) {
      return error(StatusCode::kResourceExhausted, "weights: there are no ", kStageBytes,
                   " bytes of pinned memory");
    }
  } else if (stage_ == 0) {
    HYBRIDATTN_TRY(context_.synchronize());
  }
  return stage;
}

Status WeightUploader::copy(const ConstTensorView& from, DType dtype, std::byte* to) {
  const auto size = static_cast<std::int64_t>(dtype_size(dtype));
  const std::int64_t at_once = kStageBytes / size, count = from.num_elements();
  constexpr std::int64_t kTask = std::int64_t{1} << 16;
  for (std::int64_t first = 0; first < count; first += at_once) {
    const std::int64_t part = std::min(at_once, count - first);
    HYBRIDATTN_ASSIGN(std::byte* const stage, next_stage());
    parallel_for(context_.executor(), (part + kTask - 1) / kTask, [&](std::int64_t task, int) {
      const std::int64_t begin = task * kTask;
      convert(from, first + begin, std::min(kTask, part - begin), dtype, stage + begin * size);
    });
    HYBRIDATTN_TRY(context_.copy(to + first * size, stage, static_cast<std::size_t>(part * size)));
  }
  done_ += static_cast<std::int64_t>(bytes_of(from, from.dtype));
  if (progress_) progress_(static_cast<double>(done_) / static_cast<double>(total_));
  return {};
}

Status WeightUploader::matrix(ConstTensorView& view) {
  HYBRIDATTN_ASSIGN(std::byte* const to, blocks_.take(bytes_of(view, dtype_)));
  HYBRIDATTN_TRY(copy(view, dtype_, to));
  view = moved(view, dtype_, to);
  return {};
}

Status WeightUploader::vector(ConstTensorView& view) {
  HYBRIDATTN_ASSIGN(std::byte* const to, blocks_.take(bytes_of(view, view.dtype)));
  HYBRIDATTN_TRY(copy(view, view.dtype, to));
  view = moved(view, view.dtype, to);
  return {};
}

Result<ConstTensorView> WeightUploader::joined(std::span<ConstTensorView* const> views) {
  std::int64_t rows = 0;
  for (const ConstTensorView* view : views) rows += view->dim(0);
  const std::int64_t columns = views[0]->dim(1);
  ConstTensorView all(nullptr, dtype_, {rows, columns});
  HYBRIDATTN_ASSIGN(std::byte * to, blocks_.take(bytes_of(all, dtype_)));
  all.data = to;
  for (ConstTensorView* view : views) {
    HYBRIDATTN_TRY(copy(*view, dtype_, to));
    *view = moved(*view, dtype_, to);
    to += bytes_of(*view, dtype_);
  }
  return all;
}

namespace {

Status upload_mlp(WeightUploader& uploader, MlpWeights& w) {
  HYBRIDATTN_TRY(uploader.joined({&w.gate, &w.up}).status());
  return uploader.matrix(w.down);
}

Status upload_moe(WeightUploader& uploader, MoeWeights& w) {
  HYBRIDATTN_TRY(uploader.matrix(w.router));
  std::vector<ConstTensorView*> gate_up, down;
  for (MlpWeights& expert : w.experts) {
    gate_up.insert(gate_up.end(), {&expert.gate, &expert.up});
    down.push_back(&expert.down);
  }
  HYBRIDATTN_ASSIGN(w.gate_up, uploader.joined(gate_up));
  HYBRIDATTN_ASSIGN(w.down, uploader.joined(down));
  if (!w.shared.has_value()) return {};
  HYBRIDATTN_TRY(upload_mlp(uploader, *w.shared));
  return uploader.matrix(w.shared_gate);
}

Status upload_layer(WeightUploader& uploader, LayerWeights& w) {
  HYBRIDATTN_TRY(uploader.vector(w.input_norm));
  HYBRIDATTN_TRY(uploader.vector(w.post_attention_norm));
  if (w.full.has_value()) {
    FullAttentionWeights& full = *w.full;
    HYBRIDATTN_ASSIGN(full.joined, uploader.joined({&full.q_proj, &full.k_proj, &full.v_proj}));
    HYBRIDATTN_TRY(uploader.matrix(full.o_proj));
    HYBRIDATTN_TRY(uploader.vector(full.q_norm));
    HYBRIDATTN_TRY(uploader.vector(full.k_norm));
  }
  if (w.gdn.has_value()) {
    GdnWeights& gdn = *w.gdn;
    HYBRIDATTN_ASSIGN(gdn.joined, uploader.joined({&gdn.in_qkv, &gdn.in_z, &gdn.in_b, &gdn.in_a}));
    HYBRIDATTN_TRY(uploader.matrix(gdn.conv));  // of the type of what it convolves
    for (ConstTensorView* view : {&gdn.a_log, &gdn.dt_bias, &gdn.norm}) {
      HYBRIDATTN_TRY(uploader.vector(*view));
    }
    HYBRIDATTN_TRY(uploader.matrix(gdn.out_proj));
  }
  return w.mlp.has_value() ? upload_mlp(uploader, *w.mlp) : upload_moe(uploader, *w.moe);
}

}  // namespace

Status upload_weights(Context& context, DType dtype, ModelWeights& weights,
                      const LoadProgress& progress) {
  if (weights.format == WeightFormat::kInt8) {
    return error(StatusCode::kUnsupported, "weights are int8, must be stored or joined on cuda");
  }
  const bool has_experts = std::any_of(weights.layers.begin(), weights.layers.end(),
                                       [](const LayerWeights& w) { return w.moe.has_value(); });
  if (has_experts && context.device() == DeviceType::kCpu) {
    return error(StatusCode::kUnsupported,
                 "weights are joined, must be stored on the CPU for a model with experts");
  }
  weights.on_device_ = std::make_unique<DeviceBlocks>(context);
  WeightUploader uploader(context, dtype, *weights.on_device_,
                          weights.mapped_bytes + weights.copied_bytes, progress);
  const ConstTensorView& head = weights.lm_head;
  const std::ptrdiff_t head_begins = weights.tied
                                         ? static_cast<const std::byte*>(head.data) -
                                               static_cast<const std::byte*>(weights.embedding.data)
                                         : 0;
  const std::int64_t first =
      head_begins / static_cast<std::ptrdiff_t>(dtype_size(weights.embedding.dtype));
  HYBRIDATTN_TRY(uploader.matrix(weights.embedding));
  if (weights.tied) {
    weights.lm_head = weights.embedding.at(first, {head.dim(0), head.dim(1)}, {head.dim(1), 1});
  } else {
    HYBRIDATTN_TRY(uploader.matrix(weights.lm_head));
  }
  for (LayerWeights& layer : weights.layers) HYBRIDATTN_TRY(upload_layer(uploader, layer));
  HYBRIDATTN_TRY(uploader.vector(weights.final_norm));
  HYBRIDATTN_TRY(uploader.finish());
  weights.checkpoint_.reset();
  weights.copies_ = WeightBlocks();
  weights.mapped_bytes = 0;
  weights.format = WeightFormat::kJoined;
  weights.copied_bytes = static_cast<std::int64_t>(weights.on_device_->bytes());
  return {};
}

}  // namespace hybridattn::engine
