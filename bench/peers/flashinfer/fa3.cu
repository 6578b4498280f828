// The kernel of the FlashAttention-3 family.
#include <flashinfer/attention/hopper/prefill_sm90.cuh>
#include <flashinfer/attention/hopper/variants.cuh>
#include <flashinfer/attention/scheduler.cuh>

#include "bench/peers/flashinfer/paged.h"

namespace peer::fa3 {

/// Named as the kernel reads them.
struct Params {
  using DTypeQ = cutlass::bfloat16_t;
  using DTypeKV = DTypeQ;
  using DTypeO = DTypeQ;
  using IdType = std::int32_t;
  DTypeQ *q_ptr, *k_ptr, *v_ptr, *o_ptr;
  float* lse_ptr;
  std::int32_t *qo_tile_indices, *qo_indptr, *kv_indptr, *kv_indices, *qo_lens, *kv_lens;
  std::int32_t *head_indices, *work_indptr, *batch_indices;
  struct AdditionalParams {
    float logits_soft_cap, sm_scale;
  } additional_params;
  std::int64_t q_stride_n, k_stride_n, v_stride_n, o_stride_n;
  std::int64_t q_stride_h, k_stride_h, v_stride_h, o_stride_h;
  std::int64_t nnz_qo, k_page_stride, v_page_stride;
  int num_qo_heads, num_kv_heads, group_size, page_size, window_left;
  bool causal;
};

}  // namespace peer::fa3

namespace peer {

int plan_fa3(const Workspace& space, const Step& step, Plan& plan) try {
  flashinfer::PrefillPlanSM90Info info;
  const cudaError_t error = flashinfer::PrefillSM90Plan<std::int32_t>(
      space.floats, space.float_bytes, space.ints, space.pinned, space.int_bytes, info,
      const_cast<std::int32_t*>(step.q_starts.data()),
      const_cast<std::int32_t*>(step.page_starts.data()),
      const_cast<std::int32_t*>(step.keys.data()), step.tokens(), step.rows(), kHeads, kKvHeads,
      kDim, kDim, step.page_size, /*causal=*/true, /*cuda_graph=*/false, 2, nullptr);
  plan = info.ToVector();
  return error;
} catch (const std::exception&) {
  return -1;
}

int run_fa3(const Workspace& space, const Step& step, const Plan& plan, cudaStream_t stream) try {
  using Element = cutlass::bfloat16_t;
  flashinfer::PrefillPlanSM90Info info;
  info.FromVector(plan);
  if (info.same_schedule_for_all_heads) return -1;  // of more than 524,288 rows
  fa3::Params params{};
  params.q_ptr = static_cast<Element*>(step.q);
  params.k_ptr = static_cast<Element*>(step.k);
  params.v_ptr = static_cast<Element*>(step.v);
  params.o_ptr = static_cast<Element*>(step.out);
  params.q_stride_n = params.o_stride_n = kHeads * kDim;
  params.q_stride_h = params.o_stride_h = kDim;
  params.k_stride_n = params.v_stride_n = kKvHeads * kDim;
  params.k_stride_h = params.v_stride_h = kDim;
  params.k_page_stride = params.v_page_stride = std::int64_t{step.page_size} * kKvHeads * kDim;
  params.nnz_qo = step.tokens();
  params.num_qo_heads = kHeads;
  params.num_kv_heads = kKvHeads;
  params.group_size = kHeads / kKvHeads;
  params.page_size = step.page_size;
  params.window_left = -1;
  params.causal = true;
  params.additional_params = {0.0f, 1.0f / 16.0f};
  params.kv_indices = step.device_pages;
  const auto ints = [&](std::int64_t offset) {
    return flashinfer::GetPtrFromBaseOffset<std::int32_t>(space.ints, offset);
  };
  params.qo_tile_indices = ints(info.qo_tile_indices_offset);
  params.qo_indptr = ints(info.qo_indptr_offset);
  params.kv_indptr = ints(info.kv_indptr_offset);
  params.qo_lens = ints(info.qo_len_offset);
  params.kv_lens = ints(info.kv_len_offset);
  params.head_indices = ints(info.head_indices_offset);
  params.work_indptr = ints(info.work_indptr_offset);
  params.batch_indices = ints(info.batch_indices_offset);
  return flashinfer::BatchPrefillWithPagedKVCacheDispatched<
      kDim, kDim, flashinfer::MaskMode::kCausal, false, false, flashinfer::DefaultAttention<false>>(
      params, false, stream);
} catch (const std::exception&) {
  return -1;
}

}  // namespace peer
