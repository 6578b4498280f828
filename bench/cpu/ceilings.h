// What the processor can do at most, measured beside what it does.
#pragma once

#include "bench/report.h"
#include "hybridattn/context.h"

namespace hybridattn::bench {

/// Rates of all threads of a context together. 0 where the processor has no such instruction or the
/// context's instruction set none.
struct Ceilings {
  double read = 0;      ///< bytes a second, from memory
  double copy = 0;      ///< bytes a second read plus written, from memory to memory
  double fma = 0;       ///< float32 FLOP a second
  double bf16_dot = 0;  ///< FLOP a second of bf16 dot products in vectors
  double int8_dot = 0;  ///< operations a second of products of bytes in vectors
  double tiles = 0;     ///< FLOP a second of bf16 products in AMX tiles, one operand from L2
};

/// Bytes a second, read plus written, of memory changed in place, for a block of this size that is
/// gone through again and again by all threads.
double update_in_place(Context& context, std::int64_t bytes);

/// The processor, the instruction set and the rates as a row.
void report_ceilings(Context& context, const Ceilings& ceilings, Report& report);

/// Takes about a second and 512 MiB.
Ceilings measure_ceilings(Context& context);

}  // namespace hybridattn::bench
