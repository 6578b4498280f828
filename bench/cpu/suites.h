// The CPU benchmarks. Each checks its answers, then reports.
#pragma once

#include "bench/cpu/ceilings.h"
#include "bench/report.h"
#include "hybridattn/context.h"

namespace hybridattn::bench {

void run_linear(Context& context, const Ceilings& ceilings, Report& report);

struct Suite {
  const char* name;
  void (*run)(Context& context, const Ceilings& ceilings, Report& report);
};
inline constexpr Suite kSuites[] = {{"linear", run_linear}};

}  // namespace hybridattn::bench
