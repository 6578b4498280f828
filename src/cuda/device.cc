// The CUDA runtime behind core::Device.
#include "src/cuda/device.h"

#include <cuda_runtime_api.h>

#include "hybridattn/status_macros.h"
#include "src/cuda/check.h"

namespace hybridattn::cuda {
namespace {

/// Makes a device that of the calling thread, which may serve contexts of several. Returns the one
/// before, or -1 where nothing changed.
int make_current(int index) noexcept {
  int before = -1;
  cudaGetDevice(&before);
  if (before == index) return -1;
  cudaSetDevice(index);
  return before;
}
void make_current_again(int before) noexcept {
  if (before >= 0) cudaSetDevice(before);
}

class Current {
 public:
  explicit Current(int index) : before_(make_current(index)) {}
  ~Current() { make_current_again(before_); }
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;

 private:
  int before_;
};

class DeviceMemory final : public Allocator {
 public:
  explicit DeviceMemory(int index) : index_(index) {}
  void* allocate(std::size_t bytes) noexcept override {
    const Current current(index_);
    void* data = nullptr;
    if (cudaMalloc(&data, bytes) == cudaSuccess) return data;
    cudaGetLastError();  // said by the result; not to be taken for a later call's
    return nullptr;
  }
  void deallocate(void* pointer, std::size_t) noexcept override {
    const Current current(index_);
    cudaFree(pointer);
  }

 private:
  int index_;
};

class PinnedMemory final : public Allocator {
 public:
  explicit PinnedMemory(int index) : index_(index) {}
  void* allocate(std::size_t bytes) noexcept override {
    const Current current(index_);  // or another device would be opened for it
    void* data = nullptr;
    if (cudaMallocHost(&data, bytes) == cudaSuccess) return data;
    cudaGetLastError();
    return nullptr;
  }
  void deallocate(void* pointer, std::size_t) noexcept override {
    const Current current(index_);
    cudaFreeHost(pointer);
  }

 private:
  int index_;
};

/// Ends what a capture made, whichever step of that fails.
class CudaGraph final : public core::DeviceGraph {
 public:
  CudaGraph(int index, cudaStream_t stream) : index_(index), stream_(stream) {}
  ~CudaGraph() override {
    const Current current(index_);
    if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
    if (graph_ != nullptr) cudaGraphDestroy(graph_);
  }

  Status end_capture() {
    if (const cudaError_t status = cudaStreamEndCapture(stream_, &graph_); status != cudaSuccess) {
      cudaGetLastError();  // said by the result; not to be taken for a later call's
      return check(status, "Graph::record: the capture");
    }
    HYBRIDATTN_TRY(check(cudaGraphGetNodes(graph_, nullptr, &num_nodes_), "Graph::record"));
    return check(cudaGraphInstantiate(&executable_, graph_, 0), "Graph::record: the graph");
  }
  Status launch() override {
    const Current current(index_);
    return check(cudaGraphLaunch(executable_, stream_), "Graph::replay");
  }
  std::size_t num_nodes() const noexcept override { return num_nodes_; }

 private:
  int index_;
  cudaStream_t stream_;
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
  std::size_t num_nodes_ = 0;
};

class CudaEvent final : public core::DeviceEvent {
 public:
  CudaEvent(int index, cudaStream_t stream) : index_(index), stream_(stream) {}
  ~CudaEvent() override {
    const Current current(index_);
    if (event_ != nullptr) cudaEventDestroy(event_);
  }

  Status open() {
    const Current current(index_);
    return check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "event");
  }
  Status mark() override {
    const Current current(index_);
    return check(cudaEventRecord(event_, stream_), "event");
  }
  Status wait() override { return check(cudaEventSynchronize(event_), "event"); }

 private:
  int index_;
  cudaStream_t stream_;
  cudaEvent_t event_ = nullptr;
};

class CudaDevice final : public core::Device {
 public:
  explicit CudaDevice(const core::DeviceInfo& info)
      : info_(info), memory_(info.index), pinned_(info.index) {}
  ~CudaDevice() override {
    const Current current(info_.index);
    if (stream_ != nullptr) cudaStreamSynchronize(stream_);
    if (own_stream_) cudaStreamDestroy(stream_);
  }

  Status open(void* stream) {
    const Current current(info_.index);
    stream_ = static_cast<cudaStream_t>(stream);
    if (stream == nullptr) {
      HYBRIDATTN_TRY(check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking),
                           "Context::create: a stream"));
      own_stream_ = true;
    }
    return {};
  }

  const core::DeviceInfo& info() const noexcept override { return info_; }
  void* stream() const noexcept override { return stream_; }
  int enter() noexcept override { return make_current(info_.index); }
  void leave(int before) noexcept override { make_current_again(before); }
  Allocator& memory() noexcept override { return memory_; }
  Allocator& pinned() noexcept override { return pinned_; }

  Status copy(void* to, const void* from, std::size_t bytes) override {
    const Current current(info_.index);
    return check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_), "copy");
  }
  Status zero(void* data, std::size_t bytes) override {
    const Current current(info_.index);
    return check(cudaMemsetAsync(data, 0, bytes, stream_), "zero");
  }
  Status synchronize(std::string_view after) override {
    const Current current(info_.index);
    return check(cudaStreamSynchronize(stream_), after);
  }
  bool capturing() const noexcept override {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    return cudaStreamIsCapturing(stream_, &status) == cudaSuccess &&
           status == cudaStreamCaptureStatusActive;
  }
  Status begin_capture() override {
    const Current current(info_.index);
    return check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal),
                 "Graph::record: the stream");
  }
  Result<std::unique_ptr<core::DeviceGraph>> end_capture() override {
    const Current current(info_.index);
    auto graph = std::make_unique<CudaGraph>(info_.index, stream_);
    HYBRIDATTN_TRY(graph->end_capture());
    return std::unique_ptr<core::DeviceGraph>(std::move(graph));
  }
  Result<std::unique_ptr<core::DeviceEvent>> make_event() override {
    auto event = std::make_unique<CudaEvent>(info_.index, stream_);
    HYBRIDATTN_TRY(event->open());
    return std::unique_ptr<core::DeviceEvent>(std::move(event));
  }

 private:
  core::DeviceInfo info_;
  DeviceMemory memory_;
  PinnedMemory pinned_;
  cudaStream_t stream_ = nullptr;
  bool own_stream_ = false;
};

Result<core::DeviceInfo> read_info(int index) {
  int count = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&count); status != cudaSuccess) {
    cudaGetLastError();
    return error(StatusCode::kUnsupported, "Context::create: device cuda was asked for; ",
                 cudaGetErrorString(status));
  }
  if (index < 0 || index >= count) {
    return error(StatusCode::kUnsupported, "Context::create: device_index is ", index,
                 ", must be in [0, ", count, "), the CUDA devices at hand");
  }
  core::DeviceInfo info;
  info.index = index;
  int shared = 0;
  const auto read = [&](int& value, cudaDeviceAttr attribute) {
    return check(cudaDeviceGetAttribute(&value, attribute, index), "Context::create");
  };
  HYBRIDATTN_TRY(read(info.compute_major, cudaDevAttrComputeCapabilityMajor));
  HYBRIDATTN_TRY(read(info.compute_minor, cudaDevAttrComputeCapabilityMinor));
  HYBRIDATTN_TRY(read(info.num_sms, cudaDevAttrMultiProcessorCount));
  HYBRIDATTN_TRY(read(shared, cudaDevAttrMaxSharedMemoryPerBlockOptin));
  info.max_shared_bytes = static_cast<std::size_t>(shared);
  return info;
}

}  // namespace

Result<std::unique_ptr<core::Device>> open_device(int index, void* stream) {
  HYBRIDATTN_ASSIGN(const core::DeviceInfo info, read_info(index));
  if (info.compute_major < 8) {
    return error(StatusCode::kUnsupported, "Context::create: CUDA device ", index,
                 " has compute capability ", info.compute_major, ".", info.compute_minor,
                 ", must be 8.0 or newer");
  }
  auto device = std::make_unique<CudaDevice>(info);
  HYBRIDATTN_TRY(device->open(stream));
  return std::unique_ptr<core::Device>(std::move(device));
}

}  // namespace hybridattn::cuda
