// Numbers below the normal range of float32 as zeros, for a while.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace hybridattn::cpu {

/// From here to the end of the scope this thread's arithmetic reads and writes denormal numbers as
/// zeros. Decays and softmax weights run through that range on their way to 0, where each operation
/// costs an x86 processor more than a hundred cycles; nothing below 1e-38 shows in a result.
class FlushDenormals {
#if defined(__x86_64__)
 public:
  FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | kFlushResults | kZeroInputs); }
  ~FlushDenormals() { _mm_setcsr(before_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  static constexpr unsigned kFlushResults = 1u << 15, kZeroInputs = 1u << 6;
  unsigned before_;
#else
 public:
  FlushDenormals() {}  // not trivial, so that an unused one is no warning
#endif
};

}  // namespace hybridattn::cpu
