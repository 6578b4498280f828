// Launch shapes of kernels over one flat range.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>

#include "hybridattn/ops/ragged_rows.h"
#include "hybridattn/status_macros.h"
#include "src/core/kernel.h"
#include "src/cuda/check.h"

namespace hybridattn::cuda {

/// This thread's indices of [0, count): first, first + step, ... The grid may be smaller than the
/// range.
__device__ inline std::int64_t flat_index() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ inline std::int64_t flat_step() {
  return static_cast<std::int64_t>(gridDim.x) * blockDim.x;
}

/// Blocks for `count` units of which a block does `each`: enough to fill the card some times over.
inline unsigned grid_for(std::int64_t count, std::int64_t each, const core::DeviceInfo& info) {
  const std::int64_t blocks = (count + each - 1) / each;
  return static_cast<unsigned>(
      std::clamp<std::int64_t>(blocks, 1, std::int64_t{info.num_sms} * 64));
}

/// Launches over all rows where each takes `blocks_of_row` blocks: in slices, as a grid has at most
/// 2^31 - 1 blocks. `launch(slice, first, blocks)` gets the rows from `first` on.
template <class Launch>
Status for_row_slices(const DeviceRowTables& rows, std::int64_t blocks_of_row,
                      const Launch& launch) {
  const std::int64_t at_once = ((std::int64_t{1} << 31) - 1) / blocks_of_row;
  for (std::int64_t first = 0; first < rows.count; first += at_once) {
    DeviceRowTables slice = rows;
    slice.count = static_cast<std::int32_t>(std::min(rows.count - first, at_once));
    for (const std::int32_t** array :
         {&slice.start, &slice.length, &slice.slot, &slice.computed, &slice.first_chunk}) {
      *array += first;
    }
    HYBRIDATTN_TRY(launch(slice, first, static_cast<unsigned>(slice.count * blocks_of_row)));
  }
  return {};
}

/// Kernels that were allowed their shared memory, by device. Of any thread.
class AllowedKernels {
 public:
  /// Keys are not 0.
  bool holds(std::uintptr_t key) const {
    for (const std::atomic<std::uintptr_t>& place : places_) {
      const std::uintptr_t held = place.load(std::memory_order_acquire);
      if (held == key) return true;
      if (held == 0) return false;
    }
    return false;
  }
  void add(std::uintptr_t key) {
    for (std::atomic<std::uintptr_t>& place : places_) {
      std::uintptr_t held = 0;
      if (place.compare_exchange_strong(held, key) || held == key) return;
    }
  }

 private:
  std::array<std::atomic<std::uintptr_t>, 256> places_{};
};

/// Lets the blocks of a kernel, always alike, have more shared memory than the 48 KB that all may
/// have. The runtime takes from the heap for each such call: once a kernel and device.
template <class Kernel>
Status allow_shared_memory(const char* op, Kernel* kernel, int bytes) {
  static AllowedKernels allowed;
  int device = 0;
  HYBRIDATTN_TRY(check(cudaGetDevice(&device), op));
  const auto* address = reinterpret_cast<const void*>(kernel);
  // Kernels lie further apart than there are devices.
  const std::uintptr_t key =
      reinterpret_cast<std::uintptr_t>(address) + static_cast<unsigned>(device);
  if (allowed.holds(key)) return {};
  HYBRIDATTN_TRY(
      check(cudaFuncSetAttribute(address, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), op));
  allowed.add(key);
  return {};
}

/// In every kernel that launch_early starts, before it reads what others write or writes anything:
/// returns when all that came before it on the stream is written.
__device__ inline void wait_for_writers() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/// The blocks of the next kernel may take their places as soon as all of this one have theirs:
/// first thing in a kernel, as the weights of the next product come meanwhile. After
/// wait_for_writers only where the next one relies on what this one has waited for.
__device__ inline void let_next_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// Whether the code for devices of a compute capability has those two: what a device compiles for
/// itself from the code of an older one has not, and must not begin early.
constexpr bool can_begin_early(int compute_major) {
  constexpr int kFirst = 9;
  for (const int architecture : {__CUDA_ARCH_LIST__}) {
    if (compute_major >= kFirst && architecture / 100 == compute_major) return true;
  }
  return false;
}

inline cudaStream_t stream_of(const core::DeviceLaunch& launch) {
  return static_cast<cudaStream_t>(launch.stream);
}

/// How a kernel with wait_for_writers in it is launched.
struct EarlyLaunch {
  dim3 grid;
  int threads = 0;
  int shared_bytes = 0;
  int cluster = 1;  // blocks that follow each other and make a cluster, from sm_90 on
  // A multiprocessor divides its fast memory into shared memory and first-level cache anew only
  // when it has no block. Where all kernels ask for as much shared memory as there is, blocks of
  // the next ones find room beside those of this one. Less is for kernels of more blocks than have
  // their places at once, whose own loads need the cache.
  bool most_shared = true;
};

/// Launches it: from sm_90 on its blocks are in place when the kernel before ends, which saves a
/// part of the time between two.
template <class... Params>
Status launch_early(const char* op, const core::DeviceLaunch& launch, void (*kernel)(Params...),
                    const EarlyLaunch& shape, const Params&... params) {
  cudaLaunchAttribute attributes[3]{};
  unsigned count = 0;
  const auto add = [&](cudaLaunchAttributeID id) -> cudaLaunchAttributeValue& {
    attributes[count].id = id;
    return attributes[count++].val;
  };
  if (can_begin_early(launch.info->compute_major)) {
    add(cudaLaunchAttributeProgrammaticStreamSerialization).programmaticStreamSerializationAllowed =
        1;
    if (shape.most_shared) {
      add(cudaLaunchAttributePreferredSharedMemoryCarveout).sharedMemCarveout =
          cudaSharedmemCarveoutMaxShared;
    }
    if (shape.cluster > 1) {
      auto& dim = add(cudaLaunchAttributeClusterDimension).clusterDim;
      dim.x = static_cast<unsigned>(shape.cluster);
      dim.y = dim.z = 1;
    }
  }
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(shape.shared_bytes);
  config.stream = stream_of(launch);
  config.attrs = attributes;
  config.numAttrs = count;
  return check(cudaLaunchKernelEx(&config, kernel, params...), op);
}
template <class... Params>
Status launch_early(const char* op, const core::DeviceLaunch& launch, void (*kernel)(Params...),
                    dim3 grid, int threads, int shared_bytes, const Params&... params) {
  return launch_early(op, launch, kernel, EarlyLaunch{grid, threads, shared_bytes}, params...);
}

}  // namespace hybridattn::cuda
