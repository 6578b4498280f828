// What stands in for the kernels in a build without CUDA: no context of such a build is on a GPU.
#include "engine/ops/cuda/kernels.h"
#include "engine/ops/experts.h"

namespace hybridattn::engine::cuda {
namespace {

Status absent(const char* op) {
  return error(StatusCode::kUnsupported, op, ": this build has no kernels for cuda");
}

}  // namespace

ThreadDevice::ThreadDevice(const ContextOptions&) {}
ThreadDevice::~ThreadDevice() = default;

Status embed(Context&, const EmbedArgs&) { return absent("embed"); }
Status gather_rows(Context&, const ConstTensorView&, const std::int32_t*, const TensorView&) {
  return absent("gather_rows");
}
Status greedy_tokens(Context&, const ConstTensorView&, const std::int32_t*, std::byte*,
                     NextToken*) {
  return absent("greedy_tokens");
}
Status draw_tokens(Context&, const ConstTensorView&, const Draw*, NextToken*) {
  return absent("draw_tokens");
}
Status zero(Context&, void*, std::size_t) { return absent("zero"); }

}  // namespace hybridattn::engine::cuda

namespace hybridattn::engine {

Status run_device_experts(Context&, const ExpertsArgs&) { return cuda::absent("experts"); }
Status add_gated_on_device(Context&, const ConstTensorView&, const ConstTensorView&,
                           const TensorView&) {
  return cuda::absent("add_gated");
}

}  // namespace hybridattn::engine
