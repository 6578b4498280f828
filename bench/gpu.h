// The GPU benchmarks, for programs: those of this build.
#pragma once

#include <string>
#include <vector>

#include "hybridattn/context.h"

namespace hybridattn::bench {

/// Their names; none in a build without CUDA.
std::vector<std::string> gpu_suites();

/// What a card can do at most.
struct GpuCeilings {
  std::string device;
  double copy = 0;           ///< bytes a second, read and written, of a large copy
  double bf16_products = 0;  ///< operations a second of a large matrix product
};
/// Errors: as Context::create; unsupported on the CPU.
Result<GpuCeilings> measure_gpu(const ContextOptions& options);

/// Runs suites, each of which checks its answers and then prints its rows, on the device of
/// `options`, whose invariances hold too. Errors: invalid_argument for a name that is not of
/// gpu_suites; unsupported without one; those of Context::create. Wrong answers throw
/// std::runtime_error.
Status run_gpu_suites(const std::vector<std::string>& names, const ContextOptions& options,
                      bool json);

}  // namespace hybridattn::bench
