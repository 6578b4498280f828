// The GPU benchmarks. Each checks its answers, then reports.
#pragma once

#include <cuda_runtime_api.h>

#include "bench/report.h"
#include "hybridattn/context.h"

namespace hybridattn::bench {

/// `copy_rate`: bytes a second of a large copy on the same card.
void run_gdn_decode(Context& context, cudaStream_t stream, double copy_rate, Report& report);
void run_gdn_prefill(Context& context, cudaStream_t stream, double copy_rate, Report& report);
void run_attn_prefill(Context& context, cudaStream_t stream, double copy_rate, Report& report);
void run_attn_extend(Context& context, cudaStream_t stream, double copy_rate, Report& report);
void run_attn_decode(Context& context, cudaStream_t stream, double copy_rate, Report& report);
void run_attn_shared(Context& context, cudaStream_t stream, double copy_rate, Report& report);
void run_attn_gate(Context& context, cudaStream_t stream, double copy_rate, Report& report);
void run_qk_norm_rope_store(Context& context, cudaStream_t stream, double copy_rate,
                            Report& report);

}  // namespace hybridattn::bench
