// The kernel of the FlashAttention-2 family, which is FlashInfer's fastest for decode steps too.
// KV_F8: keys and values in f8_e4m3.
#include <flashinfer/attention/prefill.cuh>
#include <flashinfer/attention/scheduler.cuh>
#include <flashinfer/attention/variants.cuh>

#include "bench/peers/flashinfer/paged.h"

#ifdef KV_F8
#define PEER_NAME(name) name##_f8
#else
#define PEER_NAME(name) name
#endif

namespace peer::PEER_NAME(fa2) {

#ifdef KV_F8
  using Cached = __nv_fp8_e4m3;
#else
  using Cached = __nv_bfloat16;
#endif

  /// Named as the kernel reads them.
  struct Params {
    using DTypeQ = __nv_bfloat16;
    using DTypeKV = Cached;
    using DTypeO = __nv_bfloat16;
    using IdType = std::int32_t;
    DTypeQ* q;
    flashinfer::paged_kv_t<Cached, std::int32_t> paged_kv;
    std::int32_t* q_indptr;
    DTypeO* o;
    float* lse;
    flashinfer::uint_fastdiv group_size;
    std::uint32_t num_qo_heads;
    std::int32_t q_stride_n, q_stride_h;
    std::uint32_t k_sf_stride_page, k_sf_stride_n, k_sf_stride_h;
    std::uint32_t v_sf_stride_page, v_sf_stride_n, v_sf_stride_h;
    std::int32_t window_left;
    float sm_scale, logits_soft_cap;
    std::int32_t *request_indices, *qo_tile_indices, *kv_tile_indices, *merge_indptr, *o_indptr;
    bool* block_valid_mask;
    std::int32_t* kv_chunk_size_ptr;
    std::uint32_t max_total_num_rows;
    std::uint32_t* total_num_rows;
    std::uint32_t padded_batch_size;
    bool partition_kv;
    __host__ __device__ std::uint32_t get_qo_len(std::uint32_t row) const {
      return q_indptr[row + 1] - q_indptr[row];
    }
    __host__ __device__ std::uint32_t get_kv_len(std::uint32_t row) const {
      return paged_kv.get_length(row);
    }
  };

  using Variant = flashinfer::DefaultAttention<false, false, false, false>;

  template <std::uint32_t TileRows>
  cudaError_t run(Params & params, void* values, float* sums, cudaStream_t stream) {
    return flashinfer::BatchPrefillWithPagedKVCacheDispatched<
        true, TileRows, kDim, kDim, flashinfer::PosEncodingMode::kNone, false,
        flashinfer::MaskMode::kCausal, Variant, Params>(params, static_cast<__nv_bfloat16*>(values),
                                                        sums, false, stream);
  }

}  // namespace peer::PEER_NAME(fa2)

namespace peer {

int PEER_NAME(plan_fa2)(const Workspace& space, const Step& step, Plan& plan) try {
  using namespace PEER_NAME(fa2);
  flashinfer::PrefillPlanInfo info;
  auto* q_starts = const_cast<std::int32_t*>(step.q_starts.data());
  auto* page_starts = const_cast<std::int32_t*>(step.page_starts.data());
  const cudaError_t error = flashinfer::PrefillPlan<std::int32_t>(
      space.floats, space.float_bytes, space.ints, space.pinned, space.int_bytes, info, q_starts,
      page_starts, step.tokens(), step.rows(), kHeads, kKvHeads, kDim, kDim, step.page_size,
      /*cuda_graph=*/false, sizeof(__nv_bfloat16), /*window_left=*/-1, -1, false, 0, 0, nullptr,
      sizeof(Cached));
  plan = info.ToVector();
  return error;
} catch (const std::exception&) {
  return -1;
}

int PEER_NAME(run_fa2)(const Workspace& space, const Step& step, const Plan& plan,
                       cudaStream_t stream) try {
  using namespace PEER_NAME(fa2);
  flashinfer::PrefillPlanInfo info;
  info.FromVector(plan);
  const std::int64_t token = kKvHeads * kDim;
  const std::int64_t strides[3] = {step.page_size * token, token, kDim};
  Params params{};
  params.q = static_cast<__nv_bfloat16*>(step.q);
  params.o = static_cast<__nv_bfloat16*>(step.out);
  params.q_indptr = step.device_q_starts;
  params.paged_kv = flashinfer::paged_kv_t<Cached, std::int32_t>(
      kKvHeads, step.page_size, kDim, step.rows(), flashinfer::QKVLayout::kNHD,
      static_cast<Cached*>(step.k), static_cast<Cached*>(step.v), strides, step.device_pages,
      step.device_page_starts, step.device_last_page);
  params.group_size = flashinfer::uint_fastdiv(kHeads / kKvHeads);
  params.num_qo_heads = kHeads;
  params.q_stride_n = kHeads * kDim;
  params.q_stride_h = kDim;
  params.window_left = -1;
  params.sm_scale = 1.0f / 16.0f;
  const auto ints = [&](std::int64_t offset) {
    return flashinfer::GetPtrFromBaseOffset<std::int32_t>(space.ints, offset);
  };
  params.request_indices = ints(info.request_indices_offset);
  params.qo_tile_indices = ints(info.qo_tile_indices_offset);
  params.kv_tile_indices = ints(info.kv_tile_indices_offset);
  params.o_indptr = ints(info.o_indptr_offset);
  params.kv_chunk_size_ptr = ints(info.kv_chunk_size_ptr_offset);
  void* values = nullptr;
  float* sums = nullptr;
  if (info.split_kv) {
    params.merge_indptr = ints(info.merge_indptr_offset);
    values = flashinfer::GetPtrFromBaseOffset<std::byte>(space.floats, info.v_offset);
    sums = flashinfer::GetPtrFromBaseOffset<float>(space.floats, info.s_offset);
  }
  params.padded_batch_size = info.padded_batch_size;
  params.max_total_num_rows = info.total_num_rows;
  return info.cta_tile_q == 16 ? run<16>(params, values, sums, stream)
                               : run<64>(params, values, sums, stream);
} catch (const std::exception&) {
  return -1;
}

}  // namespace peer
