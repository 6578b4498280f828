// The CPU benchmarks. Each checks its answers, then reports.
#pragma once

#include "bench/cpu/ceilings.h"
#include "bench/report.h"
#include "hybridattn/context.h"

namespace hybridattn::bench {

void run_linear(Context& context, const Ceilings& ceilings, Report& report);
void run_gdn_prefill(Context& context, const Ceilings& ceilings, Report& report);
void run_gdn_decode(Context& context, const Ceilings& ceilings, Report& report);
void run_attention(Context& context, const Ceilings& ceilings, Report& report);
void run_conv(Context& context, const Ceilings& ceilings, Report& report);

struct Suite {
  const char* name;
  void (*run)(Context& context, const Ceilings& ceilings, Report& report);
};
inline constexpr Suite kSuites[] = {{"linear", run_linear},
                                    {"gdn-prefill", run_gdn_prefill},
                                    {"gdn-decode", run_gdn_decode},
                                    {"attention", run_attention},
                                    {"conv", run_conv}};

}  // namespace hybridattn::bench
