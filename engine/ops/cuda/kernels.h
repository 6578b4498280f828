// The engine's kernels on CUDA, ordered on the context's stream. What they take was checked by the
// ops; arrays lie on the device. In a build without CUDA each says so.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/ops/draw.h"
#include "engine/ops/embedding.h"
#include "engine/ops/greedy.h"
#include "hybridattn/context.h"
#include "hybridattn/tensor.h"

namespace hybridattn::engine::cuda {

/// Makes the device of a context that of the calling thread for a scope, in which the kernels below
/// may be ordered. Nothing on the CPU.
class ThreadDevice {
 public:
  explicit ThreadDevice(const ContextOptions& options);
  ~ThreadDevice();
  ThreadDevice(const ThreadDevice&) = delete;
  ThreadDevice& operator=(const ThreadDevice&) = delete;

 private:
  [[maybe_unused]] int before_ = -1;  // the device to go back to, or none; unused without CUDA
};

Status embed(Context& context, const EmbedArgs& args);
Status gather_rows(Context& context, const ConstTensorView& x, const std::int32_t* rows,
                   const TensorView& out);
Status greedy_tokens(Context& context, const ConstTensorView& logits, const std::int32_t* limits,
                     std::byte* scratch, NextToken* tokens);
Status draw_tokens(Context& context, const ConstTensorView& logits, const Draw* draws,
                   NextToken* tokens);
Status zero(Context& context, void* data, std::size_t bytes);

}  // namespace hybridattn::engine::cuda
