#include <algorithm>
#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "engine/ops/cuda/kernels.h"
#include "engine/ops/cuda/launch.cuh"

namespace hybridattn::engine::cuda {
namespace {

constexpr int kThreads = 256;

/// Rows of a matrix by their ids, a block for each; strides count elements.
struct RowsById {
  const void* from;
  void* to;
  const std::int32_t* ids;
  const NextToken* chosen;  // what negative ids name: see chosen_id
  std::int64_t from_stride, to_stride;
  std::int64_t width;
};

template <class From, class To>
__global__ void __launch_bounds__(kThreads) rows_kernel(const __grid_constant__ RowsById p) {
  begin_kernel();
  std::int32_t id = p.ids[blockIdx.x];
  if (id < 0) id = p.chosen[-1 - id].id;
  const From* from = static_cast<const From*>(p.from) + id * p.from_stride;
  To* to = static_cast<To*>(p.to) + std::int64_t{blockIdx.x} * p.to_stride;
  for (std::int64_t i = threadIdx.x; i < p.width; i += kThreads) to[i] = static_cast<To>(from[i]);
}

template <class From, class To>
Status launch_rows(Context& context, const char* op, const RowsById& p, std::int64_t rows) {
  if (rows * p.width == 0) return {};
  return launch(context, op, rows_kernel<From, To>, dim3(static_cast<unsigned>(rows)), kThreads, p);
}

}  // namespace

Status embed(Context& context, const EmbedArgs& args) {
  const ConstTensorView& table = args.table;
  const TensorView& out = args.out;
  const RowsById p{table.data,      out.data,      args.device_ids, args.chosen.data(),
                   table.stride(0), out.stride(0), table.dim(1)};
  switch (table.dtype) {
    case DType::kBF16:
      return launch_rows<__nv_bfloat16, float>(context, "embed", p, out.dim(0));
    case DType::kF16: return launch_rows<__half, float>(context, "embed", p, out.dim(0));
    default: return launch_rows<float, float>(context, "embed", p, out.dim(0));
  }
}

Status gather_rows(Context& context, const ConstTensorView& x, const std::int32_t* rows,
                   const TensorView& out) {
  const RowsById p{x.data, out.data, rows, nullptr, x.stride(0), out.stride(0), x.dim(1)};
  if (dtype_size(x.dtype) == sizeof(float)) {
    return launch_rows<std::uint32_t, std::uint32_t>(context, "gather_rows", p, out.dim(0));
  }
  return launch_rows<std::uint16_t, std::uint16_t>(context, "gather_rows", p, out.dim(0));
}

}  // namespace hybridattn::engine::cuda
