#include "tests/cuda/device_watch.h"

#include <atomic>

#include <cuda_runtime_api.h>

namespace {

std::atomic<bool> watching{false};
std::atomic<int> allocations{0}, synchronisations{0};

void count(std::atomic<int>& calls) {
  if (watching.load(std::memory_order_relaxed)) calls.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace

// The linker sends calls of `name` to __wrap_name, and those of __real_name to the runtime.
#define HYBRIDATTN_WATCHED(name, counter, parameters, arguments) \
  extern "C" cudaError_t __real_##name parameters;               \
  extern "C" cudaError_t __wrap_##name parameters {              \
    count(counter);                                              \
    return __real_##name arguments;                              \
  }

HYBRIDATTN_WATCHED(cudaMalloc, allocations, (void** data, size_t bytes), (data, bytes))
HYBRIDATTN_WATCHED(cudaMallocAsync, allocations, (void** data, size_t bytes, cudaStream_t stream),
                   (data, bytes, stream))
HYBRIDATTN_WATCHED(cudaMallocHost, allocations, (void** data, size_t bytes), (data, bytes))
HYBRIDATTN_WATCHED(cudaHostAlloc, allocations, (void** data, size_t bytes, unsigned flags),
                   (data, bytes, flags))
HYBRIDATTN_WATCHED(cudaFree, allocations, (void* data), (data))
HYBRIDATTN_WATCHED(cudaFreeAsync, allocations, (void* data, cudaStream_t stream), (data, stream))
HYBRIDATTN_WATCHED(cudaFreeHost, allocations, (void* data), (data))
HYBRIDATTN_WATCHED(cudaStreamSynchronize, synchronisations, (cudaStream_t stream), (stream))
HYBRIDATTN_WATCHED(cudaEventSynchronize, synchronisations, (cudaEvent_t event), (event))
HYBRIDATTN_WATCHED(cudaDeviceSynchronize, synchronisations, (), ())
HYBRIDATTN_WATCHED(cudaMemcpy, synchronisations,
                   (void* to, const void* from, size_t bytes, cudaMemcpyKind kind),
                   (to, from, bytes, kind))
HYBRIDATTN_WATCHED(cudaMemset, synchronisations, (void* data, int value, size_t bytes),
                   (data, value, bytes))

namespace hybridattn::testing {

DeviceWatch::DeviceWatch() {
  allocations = 0;
  synchronisations = 0;
  watching = true;
}
DeviceWatch::~DeviceWatch() { watching = false; }
DeviceCalls DeviceWatch::calls() const { return {allocations.load(), synchronisations.load()}; }

}  // namespace hybridattn::testing
