// The verb `bench`.
#include "apps/hybridattn/commands.h"
#include "bench/cpu/suites.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::app {

Status run_benchmarks(const BenchOptions& options) {
  ContextOptions context_options;
  HYBRIDATTN_TRY(parse_device(options.device, context_options));
  if (context_options.device != DeviceType::kCpu) {
    return error(StatusCode::kUnsupported, "bench: --device is ", options.device,
                 ", must be cpu; hybridattn_bench_cuda measures GPUs");
  }
  if (options.suite == kModelSuite) return bench_model(options);
  context_options.threads = options.threads;
  HYBRIDATTN_ASSIGN(const std::unique_ptr<Context> context, Context::create(context_options));
  bench::Report report(options.json);
  const bench::Ceilings ceilings = bench::measure_ceilings(*context);
  bench::report_ceilings(*context, ceilings, report);
  for (const bench::Suite& suite : bench::kSuites) {
    if (options.suite == suite.name) suite.run(*context, ceilings, report);
  }
  return {};
}

}  // namespace hybridattn::app
