// A random problem of the gated delta rule, for the fault tests: one call, one oracle.
#pragma once

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/alone_together.h"
#include "tests/support/canary.h"
#include "tests/support/contexts.h"
#include "tests/support/oracle.h"

namespace hybridattn::testing {

struct GdnCase {
  struct Dims {
    std::int64_t tokens = 1, slots = 1, hk = 2, hv = 4, k = 16, v = 32;
    DType dtype = DType::kF32;
    DType state_dtype = DType::kF32;
  };

  explicit GdnCase(const Dims& dims, std::uint64_t seed = 1) : d(dims) {
    Random random(seed);
    const auto make = [&](DType dtype, const Shape& shape, double low, double high) {
      std::int64_t count = 1;
      for (const std::int64_t dim : shape) count *= dim;
      return Operand(dtype, shape, Layout::kDense, random.values(count, low, high));
    };
    q = make(d.dtype, {d.tokens, d.hk, d.k}, -1, 1);
    k = make(d.dtype, {d.tokens, d.hk, d.k}, -1, 1);
    v = make(d.dtype, {d.tokens, d.hv, d.v}, -1, 1);
    decay = make(DType::kF32, {d.tokens, d.hv}, -0.02, 0);
    beta = make(DType::kF32, {d.tokens, d.hv}, 0, 1);
    state = make(d.state_dtype, {d.slots, d.hv, d.v, d.k}, -0.5, 0.5);
    out = Operand(d.dtype, {d.tokens, d.hv, d.v}, Layout::kDense);
    scale = 1.0f / std::sqrt(static_cast<float>(d.k));
  }

  GdnArgs args(Source s) {
    return {rows.view(), q(s), k(s), v(s), decay(s), beta(s), state(s), out(s), scale, l2norm};
  }
  void set_gates(const std::vector<double>& gates) {
    decay = Operand(DType::kF32, {d.tokens, d.hv}, Layout::kDense, gates);
  }
  /// The same gate for all heads of a token.
  void set_token_gates(const std::vector<double>& gates) {
    std::vector<double> all;
    for (const double g : gates) all.insert(all.end(), static_cast<std::size_t>(d.hv), g);
    set_gates(all);
  }
  void run_oracle() { reference::gdn_recurrence(args(Source::kRounded)); }
  /// Outputs of all tokens that a row names, and the states of the rows. The plain kernel of a GPU
  /// walks token by token in float32 where the CPU takes chunks, and adds up over lanes.
  void expect_as_oracle(double l2, double max) {
    if (test_device() != DeviceType::kCpu) l2 *= 4, max *= 4;
    const auto compare = [&](Operand& x, const std::vector<std::int64_t>& parts) {
      EXPECT_TRUE(near(x.kernel().gather(parts), x.of(Source::kRounded).gather(parts), {l2, max}));
    };
    compare(out, rows.tokens());
    compare(state, rows.slots());
  }

  Dims d;
  Rows rows;
  Operand q, k, v, decay, beta, state, out;
  float scale;
  bool l2norm = true;
};

}  // namespace hybridattn::testing
