// What the processor can do at most, measured beside what it does.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "bench/cpu/memory.h"
#include "bench/cpu/timing.h"
#include "bench/median.h"
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

/// The fastest of these for products with weights of `weight_size` bytes.
inline double product_rate(const Ceilings& c, std::int64_t weight_size) {
  if (weight_size == 1 && c.tiles > 0) return 2 * c.tiles;  // of bytes
  if (weight_size == 1 && c.int8_dot > 0) return c.int8_dot;
  if (weight_size == 2 && c.tiles > 0) return c.tiles;
  if (weight_size == 2 && c.bf16_dot > 0) return c.bf16_dot;
  return c.fma;
}

/// Bytes a second, read plus written, of memory changed in place, for a block of this size that is
/// gone through again and again by all threads.
double update_in_place(Context& context, std::int64_t bytes);

/// The processor, the instruction set and the rates as a row.
void report_ceilings(Context& context, const Ceilings& ceilings, Report& report);

/// Measures the ceilings, again and again. Holds 512 MiB; a measurement takes half a second.
class CeilingProbe {
 public:
  /// `context` is borrowed.
  explicit CeilingProbe(Context& context) : context_(context), from_(kBytes), to_(kBytes) {}
  Ceilings measure();
  /// Ceilings::read alone, in a sixth of the time.
  double read();

 private:
  static constexpr std::int64_t kBytes = std::int64_t{256} << 20;

  Context& context_;
  BigBlock from_, to_;
};

inline Ceilings measure_ceilings(Context& context) { return CeilingProbe(context).measure(); }

/// A call that is timed in turn with the ceilings, as all of them move with the machine's
/// neighbours from second to second: a share is the median of those of the rounds.
class BesideCeilings {
 public:
  /// Calls body(i) as time_calls does, for about `seconds` in all.
  template <class Body>
  BesideCeilings(CeilingProbe& probe, double seconds, const Body& body) {
    for (int round = 0; round < kRounds; ++round) {
      times_.push_back(time_calls(seconds / kRounds, body));
      ceilings_.push_back(probe.measure());
    }
  }

  double median() const {
    return middle([&](std::size_t i) { return times_[i].median; });
  }
  double best() const {
    double best = times_[0].best;
    for (const Times& t : times_) best = std::min(best, t.best);
    return best;
  }
  /// Of a call that does so much work, of a rate(ceilings); 0 where there is no such rate.
  template <class Rate>
  double share(double work, const Rate& rate) const {
    return middle([&](std::size_t i) {
      const double most = rate(ceilings_[i]);
      return most > 0 ? work / times_[i].median / most : 0;
    });
  }

 private:
  static constexpr int kRounds = 5;

  template <class Value>
  static double middle(const Value& value) {
    std::vector<double> values;
    for (std::size_t i = 0; i < kRounds; ++i) values.push_back(value(i));
    return bench::median(std::move(values));
  }

  std::vector<Times> times_;
  std::vector<Ceilings> ceilings_;
};

}  // namespace hybridattn::bench
