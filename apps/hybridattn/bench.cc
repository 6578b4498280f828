// The verb `bench`.
#include <algorithm>
#include <iterator>

#include "apps/hybridattn/commands.h"
#include "bench/cpu/suites.h"
#include "bench/gpu.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::app {

namespace {

Status run_on_cpu(const BenchOptions& options, ContextOptions context_options) {
  const auto* suite =
      std::find_if(std::begin(bench::kSuites), std::end(bench::kSuites),
                   [&](const bench::Suite& some) { return options.suite == some.name; });
  if (suite == std::end(bench::kSuites)) {
    return invalid_argument("bench: suite is ", options.suite, ", which needs --device cuda");
  }
  context_options.threads = options.threads;
  HYBRIDATTN_ASSIGN(const std::unique_ptr<Context> context, Context::create(context_options));
  bench::Report report(options.json);
  const bench::Ceilings ceilings = bench::measure_ceilings(*context);
  bench::report_ceilings(*context, ceilings, report);
  suite->run(*context, ceilings, report);
  return {};
}

}  // namespace

Status run_benchmarks(const BenchOptions& options) {
  HYBRIDATTN_ASSIGN(const Devices devices, parse_devices(options.device));
  if (devices.indices.size() > 1) {
    return invalid_argument("bench: --device is ", options.device,
                            ", must be one: what is measured stands beside what one can do");
  }
  ContextOptions context_options;
  context_options.device = devices.type;
  context_options.device_index = devices.indices[0];
  if (options.suite == kStepSuite) return bench_step(options, context_options);
  if (options.suite != kModelSuite && context_options.device != DeviceType::kCpu) {
    return bench::run_gpu_suites({options.suite}, context_options, options.json);
  }
  if (options.suite == kModelSuite) return bench_model(options);
  return run_on_cpu(options, context_options);
}

}  // namespace hybridattn::app
