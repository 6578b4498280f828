// The one table of environment variables that the library reads.
#pragma once

#include <optional>
#include <string>

namespace hybridattn::core {

/// HYBRIDATTN_ISA: force an instruction set ("baseline", "avx2", "avx512", "avx512_bf16", "amx").
inline constexpr const char* kEnvIsa = "HYBRIDATTN_ISA";
/// HYBRIDATTN_THREADS: threads of a context whose options say 0.
inline constexpr const char* kEnvThreads = "HYBRIDATTN_THREADS";
/// HYBRIDATTN_CUDA_FAMILY: force a family of CUDA kernels ("sm90", "sm80", "smxx").
inline constexpr const char* kEnvCudaFamily = "HYBRIDATTN_CUDA_FAMILY";

/// The value of a variable of the table above; unset and empty are the same.
std::optional<std::string> read_env(const char* name);

}  // namespace hybridattn::core
