// The CUDA runtime behind core::Device.
#include "src/cuda/device.h"

#include <utility>

#include <cuda_runtime_api.h>

#include "hybridattn/status_macros.h"
#include "src/cuda/check.h"
#include "src/cuda/upload.h"

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

/// A device's stream, and the small copies that wait to be ordered on it together.
class Stream {
 public:
  explicit Stream(int device) : device_(device) {}
  ~Stream() {
    const Current current(device_);
    if (stream_ != nullptr) cudaStreamSynchronize(stream_);
    if (own_) cudaStreamDestroy(stream_);
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  /// `stream`: the caller's, or nullptr for one of its own.
  Status open(void* stream) {
    const Current current(device_);
    stream_ = static_cast<cudaStream_t>(stream);
    if (stream != nullptr) return {};
    HYBRIDATTN_TRY(check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking),
                         "Context::create: a stream"));
    own_ = true;
    return {};
  }
  int device() const { return device_; }
  cudaStream_t get() const { return stream_; }

  bool holds() const { return holders_ > 0; }
  void hold() { ++holders_; }
  void release() { --holders_; }
  Status add(void* to, const void* pinned, std::size_t bytes) {
    auto* const place = static_cast<std::byte*>(to);
    if (!waiting_.can_take(place, bytes)) HYBRIDATTN_TRY(flush());
    waiting_.all[waiting_.count++] = {place, static_cast<const std::byte*>(pinned),
                                      static_cast<std::uint32_t>(bytes)};
    return {};
  }
  /// Orders what waits. Errors: those of a flush before that had nobody to hear them, too.
  Status flush() {
    if (waiting_.count > 0) {
      const Current current(device_);
      const Status done = launch_copies(waiting_, stream_);
      waiting_.count = 0;
      if (!done.ok()) return done;
    }
    return std::exchange(unheard_, Status());
  }
  void flush_unheard() noexcept {
    if (Status done = flush(); !done.ok()) unheard_ = std::move(done);
  }

 private:
  int device_;
  cudaStream_t stream_ = nullptr;
  bool own_ = false;
  int holders_ = 0;  // who wants uploads to wait
  SmallCopies waiting_;
  Status unheard_;
};

/// Ends what a capture made, whichever step of that fails.
class CudaGraph final : public core::DeviceGraph {
 public:
  explicit CudaGraph(Stream& stream) : stream_(stream) {}
  ~CudaGraph() override {
    const Current current(stream_.device());
    if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
    if (graph_ != nullptr) cudaGraphDestroy(graph_);
  }

  Status end_capture() {
    if (const cudaError_t status = cudaStreamEndCapture(stream_.get(), &graph_);
        status != cudaSuccess) {
      cudaGetLastError();  // said by the result; not to be taken for a later call's
      return check(status, "Graph::record: the capture");
    }
    HYBRIDATTN_TRY(check(cudaGraphGetNodes(graph_, nullptr, &num_nodes_), "Graph::record"));
    return check(cudaGraphInstantiate(&executable_, graph_, 0), "Graph::record: the graph");
  }
  Status launch() override {
    HYBRIDATTN_TRY(stream_.flush());
    const Current current(stream_.device());
    return check(cudaGraphLaunch(executable_, stream_.get()), "Graph::replay");
  }
  std::size_t num_nodes() const noexcept override { return num_nodes_; }

 private:
  Stream& stream_;
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
  std::size_t num_nodes_ = 0;
};

class CudaEvent final : public core::DeviceEvent {
 public:
  explicit CudaEvent(Stream& stream) : stream_(stream) {}
  ~CudaEvent() override {
    const Current current(stream_.device());
    if (event_ != nullptr) cudaEventDestroy(event_);
  }

  Status open() {
    const Current current(stream_.device());
    return check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "event");
  }
  Status mark() override {
    HYBRIDATTN_TRY(stream_.flush());
    const Current current(stream_.device());
    return check(cudaEventRecord(event_, stream_.get()), "event");
  }
  Status wait() override { return check(cudaEventSynchronize(event_), "event"); }

 private:
  Stream& stream_;
  cudaEvent_t event_ = nullptr;
};

class CudaDevice final : public core::Device {
 public:
  explicit CudaDevice(const core::DeviceInfo& info)
      : info_(info), memory_(info.index), pinned_(info.index), stream_(info.index) {}

  Status open(void* stream) { return stream_.open(stream); }

  const core::DeviceInfo& info() const noexcept override { return info_; }
  void* stream() noexcept override {
    stream_.flush_unheard();
    return stream_.get();
  }
  int enter() noexcept override { return make_current(info_.index); }
  void leave(int before) noexcept override { make_current_again(before); }
  Allocator& memory() noexcept override { return memory_; }
  Allocator& pinned() noexcept override { return pinned_; }

  Status copy(void* to, const void* from, std::size_t bytes) override {
    HYBRIDATTN_TRY(stream_.flush());
    const Current current(info_.index);
    return check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_.get()), "copy");
  }
  Status upload(void* to, const void* pinned, std::size_t bytes) override {
    // The copy engine is faster with what is not small.
    constexpr std::size_t kSmall = std::size_t{64} << 10;
    if (bytes == 0) return {};
    return stream_.holds() && bytes <= kSmall ? stream_.add(to, pinned, bytes)
                                              : copy(to, pinned, bytes);
  }
  void hold_uploads() noexcept override { stream_.hold(); }
  Status send_uploads() override {
    stream_.release();
    return stream_.holds() ? Status() : stream_.flush();
  }
  void send_uploads_unheard() noexcept override {
    stream_.release();
    if (!stream_.holds()) stream_.flush_unheard();
  }
  Status zero(void* data, std::size_t bytes) override {
    HYBRIDATTN_TRY(stream_.flush());
    const Current current(info_.index);
    return check(cudaMemsetAsync(data, 0, bytes, stream_.get()), "zero");
  }
  Status synchronize(std::string_view after) override {
    HYBRIDATTN_TRY(stream_.flush());
    const Current current(info_.index);
    return check(cudaStreamSynchronize(stream_.get()), after);
  }
  bool capturing() const noexcept override {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    return cudaStreamIsCapturing(stream_.get(), &status) == cudaSuccess &&
           status == cudaStreamCaptureStatusActive;
  }
  Status begin_capture() override {
    HYBRIDATTN_TRY(stream_.flush());
    const Current current(info_.index);
    return check(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal),
                 "Graph::record: the stream");
  }
  Result<std::unique_ptr<core::DeviceGraph>> end_capture() override {
    const Current current(info_.index);
    auto graph = std::make_unique<CudaGraph>(stream_);
    HYBRIDATTN_TRY(graph->end_capture());
    return std::unique_ptr<core::DeviceGraph>(std::move(graph));
  }
  Result<std::unique_ptr<core::DeviceEvent>> make_event() override {
    auto event = std::make_unique<CudaEvent>(stream_);
    HYBRIDATTN_TRY(event->open());
    return std::unique_ptr<core::DeviceEvent>(std::move(event));
  }

 private:
  core::DeviceInfo info_;
  DeviceMemory memory_;
  PinnedMemory pinned_;
  Stream stream_;
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
