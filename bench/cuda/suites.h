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
void run_attn_step(Context& context, cudaStream_t stream, double copy_rate, Report& report);
void run_linear(Context& context, cudaStream_t stream, double copy_rate, Report& report);
void run_qk_norm_rope_store(Context& context, cudaStream_t stream, double copy_rate,
                            Report& report);

struct GpuSuite {
  const char* name;
  void (*run)(Context& context, cudaStream_t stream, double copy_rate, Report& report);
};
inline constexpr GpuSuite kGpuSuites[] = {{"gdn-decode", run_gdn_decode},
                                          {"gdn-prefill", run_gdn_prefill},
                                          {"attn-prefill", run_attn_prefill},
                                          {"attn-extend", run_attn_extend},
                                          {"attn-decode", run_attn_decode},
                                          {"attn-shared", run_attn_shared},
                                          {"attn-gate", run_attn_gate},
                                          {"attn-step", run_attn_step},
                                          {"linear", run_linear},
                                          {"qk-norm-rope-store", run_qk_norm_rope_store}};

}  // namespace hybridattn::bench
