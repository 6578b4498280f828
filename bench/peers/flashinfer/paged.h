// FlashInfer's paged kernels for D = 256, causal, as plain functions: one unit for each kernel
// family, since they define the same names in different ways.
#pragma once

#include <cstdint>
#include <vector>

#include <cuda_runtime.h>

namespace peer {

constexpr int kDim = 256, kHeads = 16, kKvHeads = 2;

/// A step of rows over pages [pages, page_size, kKvHeads, kDim].
struct Step {
  int page_size;
  std::vector<std::int32_t> q_starts{0}, page_starts{0}, keys;  // on the host
  std::int32_t *device_q_starts, *device_page_starts, *device_pages, *device_last_page;
  void *q, *k, *v, *out;
  int rows() const { return static_cast<int>(keys.size()); }
  int tokens() const { return q_starts.back(); }
};

/// Memory that a plan may use.
struct Workspace {
  void *floats, *ints, *pinned;
  std::size_t float_bytes, int_bytes;
};

using Plan = std::vector<std::int64_t>;

/// Each returns a cudaError_t, or -1 for what FlashInfer throws.
int plan_fa2(const Workspace& space, const Step& step, Plan& plan);
int run_fa2(const Workspace& space, const Step& step, const Plan& plan, cudaStream_t stream);
int plan_fa2_f8(const Workspace& space, const Step& step, Plan& plan);
int run_fa2_f8(const Workspace& space, const Step& step, const Plan& plan, cudaStream_t stream);
int plan_fa3(const Workspace& space, const Step& step, Plan& plan);
int run_fa3(const Workspace& space, const Step& step, const Plan& plan, cudaStream_t stream);

}  // namespace peer
