// Contexts for every instruction set of this processor.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "hybridattn/context.h"
#include "hybridattn/dtype.h"
#include "tests/support/poison.h"
#include "tests/support/shared_memory.h"

namespace hybridattn::testing {

inline std::vector<Isa> supported_isas() {
  std::vector<Isa> out;
  for (const Isa isa : {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16, Isa::kAmx}) {
    if (isa_supported(isa)) out.push_back(isa);
  }
  return out;
}

/// What kernels compiled for `isa` report.
inline std::string target_name(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::kBaseline: return "SSE2";
    case Isa::kAvx2: return "AVX2";
    case Isa::kAvx512: return "AVX3";
    case Isa::kAvx512Bf16:
    case Isa::kAmx: return "AVX3_ZEN4";  // "AMX" where tiles were used
  }
#elif defined(__aarch64__)
  if (isa == Isa::kBaseline) return "NEON_WITHOUT_AES";
#endif
  return "no kernel for " + std::string(isa_name(isa));
}

inline std::unique_ptr<Context> make_context(const ContextOptions& options) {
  auto context = Context::create(options);
  EXPECT_TRUE(context.ok()) << context.status().message();
  if (!context.ok()) return nullptr;
  // No kernel may count on what its scratch holds.
  EXPECT_TRUE((*context)->reserve_workspace(1 << 16, 1 << 18).ok());
  poison_workspace(**context);
  return std::move(context).value();
}

inline std::unique_ptr<Context> make_context(Isa isa, int threads = 1,
                                             Allocator* allocator = nullptr,
                                             Trace* trace = nullptr) {
  ContextOptions options;
  options.isa = isa;
  options.threads = threads;
  options.allocator = allocator;
  options.trace = trace;
  return make_context(options);
}

/// A context on the GPU whose memory the host reads too, and whose ops have run when they return.
/// `family`: forced where it is neither empty nor "auto".
inline std::unique_ptr<Context> make_cuda_context(const std::string& family = "",
                                                  bool batch_invariant = false) {
  ContextOptions options;
  options.device = DeviceType::kCuda;
  options.allocator = &shared_memory();
  options.synchronous = true;
  options.batch_invariant = batch_invariant;
  if (!family.empty() && family != "auto") options.kernel_family = family;
  return make_context(options);
}

/// Where tests that can run on either run: on the CPU, or with HYBRIDATTN_TEST_DEVICE=cuda in the
/// environment on the GPU.
inline DeviceType test_device() {
  const char* given = std::getenv("HYBRIDATTN_TEST_DEVICE");
  return given != nullptr && std::string_view(given) == "cuda" ? DeviceType::kCuda
                                                               : DeviceType::kCpu;
}

inline std::unique_ptr<Context> make_context() { return make_context(best_isa()); }

/// One context for each instruction set, and one of two threads.
inline std::vector<std::unique_ptr<Context>> all_contexts() {
  std::vector<std::unique_ptr<Context>> out;
  for (const Isa isa : supported_isas()) out.push_back(make_context(isa));
  out.push_back(make_context(best_isa(), 2));
  return out;
}

/// The same of the test device: for tests whose tensors lie in Buffers, which both read. On the GPU
/// as the library chooses, and plain CUDA C++.
inline std::vector<std::unique_ptr<Context>> test_contexts() {
  if (test_device() == DeviceType::kCpu) return all_contexts();
  std::vector<std::unique_ptr<Context>> out;
  for (const char* family : {"auto", "smxx"}) out.push_back(make_cuda_context(family));
  return out;
}
inline std::unique_ptr<Context> make_test_context() {
  return test_device() == DeviceType::kCpu ? make_context() : make_cuda_context();
}

/// A case of the conformance table.
struct Setup {
  Isa isa;
  int threads;
  DType dtype;
  std::string cuda_family = "";  // empty: on the CPU
};

inline std::ostream& operator<<(std::ostream& out, const Setup& setup) {
  if (!setup.cuda_family.empty()) {
    return out << "cuda_" << setup.cuda_family << "_" << dtype_name(setup.dtype);
  }
  return out << isa_name(setup.isa) << "_" << dtype_name(setup.dtype) << "_threads"
             << setup.threads;
}

inline std::vector<Setup> all_setups() {
  std::vector<Setup> out;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const Isa isa : supported_isas()) out.push_back({isa, 1, dtype});
    out.push_back({best_isa(), 2, dtype});
  }
  return out;
}

/// The same on the GPU: as the library chooses, and plain CUDA C++; nothing where the build has no
/// CUDA.
inline std::vector<Setup> cuda_setups() {
  std::vector<Setup> out;
  if (!built_with_cuda()) return out;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const char* family : {"auto", "smxx"}) {
      out.push_back({Isa::kBaseline, 1, dtype, family});
    }
  }
  return out;
}

inline std::string setup_name(const ::testing::TestParamInfo<Setup>& info) {
  return ::testing::PrintToString(info.param);
}

/// Counts what is held, and gives nothing on request.
class CountingAllocator final : public Allocator {
 public:
  void* allocate(std::size_t bytes) noexcept override {
    if (fail) return nullptr;
    held += bytes;
    ++calls;
    return shared_memory().allocate(bytes);
  }
  void deallocate(void* pointer, std::size_t bytes) noexcept override {
    held -= bytes;
    shared_memory().deallocate(pointer, bytes);
  }

  std::size_t held = 0;
  int calls = 0;
  bool fail = false;
};

}  // namespace hybridattn::testing

/// A status that must be ok, with its message when it is not.
#define EXPECT_OK(expression)                            \
  do {                                                   \
    const ::hybridattn::Status expect_ok = (expression); \
    EXPECT_TRUE(expect_ok.ok()) << expect_ok.message();  \
  } while (false)
#define ASSERT_OK(expression)                            \
  do {                                                   \
    const ::hybridattn::Status assert_ok = (expression); \
    ASSERT_TRUE(assert_ok.ok()) << assert_ok.message();  \
  } while (false)
/// A status with a code and with each of the given texts in its message, which is one line.
#define EXPECT_ERROR(expression, expected, ...)                                                   \
  do {                                                                                            \
    const ::hybridattn::Status expect_error = (expression);                                       \
    EXPECT_EQ(expect_error.code(), ::hybridattn::StatusCode::expected) << expect_error.message(); \
    for (const std::string& text : std::vector<std::string>{__VA_ARGS__}) {                       \
      EXPECT_NE(expect_error.message().find(text), std::string::npos)                             \
          << "\"" << text << "\" is not in: " << expect_error.message();                          \
    }                                                                                             \
    EXPECT_EQ(expect_error.message().find('\n'), std::string::npos);                              \
  } while (false)
