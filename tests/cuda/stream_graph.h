// A CUDA stream and the graph of what was captured on it, as an engine would hold them.
#pragma once

#include <functional>

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include "tests/support/contexts.h"

namespace hybridattn::testing {

class Stream {
 public:
  Stream() { EXPECT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator cudaStream_t() const { return stream_; }

  /// A context on it. `allocator`: nullptr = memory that host and device share.
  std::unique_ptr<Context> context(bool batch_invariant = false,
                                   Allocator* allocator = nullptr) const {
    ContextOptions options;
    options.allocator = allocator;
    options.batch_invariant = batch_invariant;
    return context(options);
  }
  std::unique_ptr<Context> context(ContextOptions options) const {
    options.device = DeviceType::kCuda;
    options.stream = stream_;
    if (options.allocator == nullptr) options.allocator = &shared_memory();
    auto made = Context::create(options);
    EXPECT_OK(made.status());
    return std::move(made).value();
  }

 private:
  cudaStream_t stream_ = nullptr;
};

class StreamGraph {
 public:
  /// Captures what `calls` starts. Nothing of the process may allocate or wait meanwhile: such
  /// calls are errors then.
  StreamGraph(const Stream& stream, const std::function<Status()>& calls) : stream_(stream) {
    EXPECT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), cudaSuccess);
    const Status called = calls();
    EXPECT_EQ(cudaStreamEndCapture(stream, &graph_), cudaSuccess);
    EXPECT_OK(called);
    if (graph_ == nullptr) return;
    EXPECT_EQ(cudaGraphInstantiate(&executable_, graph_, 0), cudaSuccess);
  }
  ~StreamGraph() {
    if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
    if (graph_ != nullptr) cudaGraphDestroy(graph_);
  }
  StreamGraph(const StreamGraph&) = delete;
  StreamGraph& operator=(const StreamGraph&) = delete;

  void launch() { ASSERT_EQ(cudaGraphLaunch(executable_, stream_), cudaSuccess); }

 private:
  const Stream& stream_;
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
};

}  // namespace hybridattn::testing
