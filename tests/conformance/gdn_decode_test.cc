// Conformance of the fused step of a Gated DeltaNet layer.
#include "tests/conformance/bounds.h"
#include "tests/support/canary.h"

namespace hybridattn::testing {
namespace {

class ConformanceGdnDecode : public Conformance {};

INSTANTIATE_TEST_SUITE_P(Table, ConformanceGdnDecode, ::testing::ValuesIn(all_setups()),
                         setup_name);
INSTANTIATE_TEST_SUITE_P(Cuda, ConformanceGdnDecode, ::testing::ValuesIn(cuda_setups()),
                         setup_name);

struct Case {
  std::int64_t k_dim = 128, v_dim = 128, hk = 2, hv = 4, width = 4;
  DType state = DType::kF32;
  bool norm = true, channel_decay = false, negative = false;
  GateKind gate = GateKind::kSilu;
  Layout layout = Layout::kDense;
};

/// Rows out of order, a fresh one, an empty one, padding; tokens and slots that nobody names.
Rows some_rows() {
  Rows rows;
  rows.add(3, 1, 4, 9);
  rows.add(1, 1, 0, 1);
  rows.add(5, 0, 1, 4);
  rows.add(6, 1, kPadIndex, 0);
  rows.add(2, 1, 6, 0);
  rows.add(4, 1, 3, 100);
  return rows;
}

struct Problem {
  static constexpr std::int64_t kTokens = 8, kSlots = 8;

  Problem(Random& random, DType type, const Case& c, const Rows& the_rows) : rows(the_rows) {
    const std::int64_t channels = 2 * c.hk * c.k_dim + c.hv * c.v_dim;
    const auto make = [&](DType dtype, const Shape& shape, Layout layout, double low, double high) {
      std::int64_t count = 1;
      for (const std::int64_t d : shape) count *= d;
      return Operand(dtype, shape, layout, random.values(count, low, high));
    };
    const Layout rows_apart = c.layout == Layout::kDense ? Layout::kDense : Layout::kSliced;
    mixed = make(type, {kTokens, channels}, rows_apart, -2, 2);
    weight = make(type, {channels, c.width}, Layout::kDense, -1, 1);
    windows = make(type, {kSlots, channels, c.width - 1}, Layout::kDense, -2, 2);
    const Shape gates = c.channel_decay ? Shape{kTokens, c.hv, c.k_dim} : Shape{kTokens, c.hv};
    a = make(type, gates, rows_apart, -3, 3);
    b = make(type, {kTokens, c.hv}, rows_apart, -3, 3);
    a_log = make(DType::kF32, {c.hv}, Layout::kDense, -3, 1);
    dt_bias = make(DType::kF32, c.channel_decay ? Shape{c.hv, c.k_dim} : Shape{c.hv},
                   Layout::kDense, -1, 1);
    state = make(c.state, {kSlots, c.hv, c.v_dim, c.k_dim}, c.layout, -0.5, 0.5);
    z = make(type, {kTokens, c.hv, c.v_dim}, c.layout, -2, 2);
    norm_weight = make(DType::kF32, {c.v_dim}, Layout::kDense, 0.5, 1.5);
    out = Operand(type, {kTokens, c.hv, c.v_dim}, c.layout);
    for (Operand* x : {&mixed, &a, &b, &z}) x->poison({0, 5, 6, 7});
    windows.poison({1, 2, 5, 6, 7});  // 6: the fresh row's
    state.poison({1, 2, 5, 6, 7});
  }

  GdnDecodeArgs args(Source s, const Case& c) {
    GdnDecodeArgs args;
    args.rows = rows.view();
    args.num_k_heads = static_cast<std::int32_t>(c.hk);
    args.mixed_qkv = mixed(s);
    args.conv_weight = weight(s);
    args.conv_state = windows(s);
    args.a = a(s);
    args.b = b(s);
    args.a_log = a_log(s);
    args.dt_bias = dt_bias(s);
    args.state = state(s);
    args.out = out(s);
    args.allow_neg_eigval = c.negative;
    args.gate = c.gate;
    if (c.norm) {
      args.z = z(s);
      args.norm_weight = norm_weight(s);
    }
    return args;
  }

  Rows rows;
  Operand mixed, weight, windows, a, b, a_log, dt_bias, state, z, norm_weight, out;
};

std::vector<Case> cases() {
  std::vector<Case> out(11);
  out[1].norm = false;
  out[2].state = DType::kBF16;
  out[3].channel_decay = true;
  out[4].gate = GateKind::kSigmoid;
  out[4].negative = true;
  out[5].layout = Layout::kTransposed;
  out[6].k_dim = 64;
  out[6].width = 3;
  out[7].k_dim = 48;
  out[7].v_dim = 80;
  out[8].hk = out[8].hv = 3;
  out[8].width = 2;
  out[8].layout = Layout::kSliced;
  out[9].layout = Layout::kAlignedSliced;
  out[10].layout = Layout::kAlignedTransposed;
  return out;
}

TEST_P(ConformanceGdnDecode, IsTheOpsInOne) {
  for (const Case& c : cases()) {
    const Rows rows = some_rows();
    Problem problem(random, dtype(), c, rows);
    Canary states(problem.state.kernel()), windows(problem.windows.kernel());
    states.allow_each(rows.slots());
    windows.allow_each(rows.slots());
    run(gdn_decode, reference::gdn_decode, [&](Source s) { return problem.args(s, c); });
    const DType least = c.state == DType::kBF16 ? c.state : dtype();
    expect_conforms(problem.out, rows.tokens(), kGdnDecodeBound, least);
    expect_conforms(problem.state, rows.slots(), kGdnDecodeBound, least);
    expect_conforms(problem.windows, rows.slots(), kStoreKvBound, dtype());
    EXPECT_TRUE(states.intact());
    EXPECT_TRUE(windows.intact());
    for (const double zero : problem.out.kernel().gather(rows.tokens(true))) EXPECT_EQ(zero, 0.0);
    for (const std::int64_t t : {0, 5, 7}) EXPECT_TRUE(problem.out.kernel().is_poison({t}));
  }
}

}  // namespace
}  // namespace hybridattn::testing
