// The forced instruction set is the one that runs, for every op: the kernel itself reports it.
#include <cstdlib>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "src/core/env.h"
#include "tests/conformance/bounds.h"

namespace hybridattn::testing {
namespace {

struct NamedOp {
  const char* name;
  std::function<Status(Context&)> run;
};

/// One small legal call of every op over tensors of zeros.
class AllOps {
 public:
  AllOps() {
    for (Buffer* buffer : {&x3_, &x2_, &gates_, &weight_, &conv_weight_, &conv_state_, &state_,
                           &cache_, &lse_, &table_, &out3_, &out2_, &out_table_, &bytes_}) {
      buffer->fill(std::vector<double>(static_cast<std::size_t>(buffer->num_elements()), 0.0));
    }
    rows_.add(0, 1, 0, 1);
    kv_.add(0, 1, 1, {0});
  }

  std::vector<NamedOp> list() {
    const TensorView x = x3_.view();
    const TensorView out = out3_.view();
    const TensorView flat = x2_.view();
    const TensorView flat_out = out2_.view();
    const TensorView w = weight_.view();
    const TensorView g = gates_.view();
    const TensorView t = table_.view();
    const TensorView c = cache_.view();
    const GdnArgs gdn{rows_.view(), x, x, x, g, g, state_.view(), out, 1.0f, true};
    const AttentionOptions options{1.0f, true, 0.0f, -1};
    return {
        {"l2norm",
         [=](Context& k) {
           return l2norm(k, {x, out});
         }},
        {"rms_norm",
         [=](Context& k) {
           return rms_norm(k, {x, w, out});
         }},
        {"gated_rms_norm",
         [=](Context& k) {
           return gated_rms_norm(k, {x, x, w, out});
         }},
        {"sigmoid_gate",
         [=](Context& k) {
           return sigmoid_gate(k, {x, x, out});
         }},
        {"silu_mul",
         [=](Context& k) {
           return silu_mul(k, {flat, flat, flat_out});
         }},
        {"rotary",
         [=](Context& k) {
           return rotary(k, {x, t, t, out});
         }},
        {"rotary_table",
         [this](Context& k) {
           return rotary_table(k, {positions_, 1e4, 16, table_.view(), out_table_.view()});
         }},
        {"gdn_gates",
         [=, this](Context& k) {
           return gdn_gates(k, {g, g, head_view(), head_view(), g, lse_.view()});
         }},
        {"causal_conv",
         [=, this](Context& k) {
           return causal_conv(
               k, {rows_.view(), flat, conv_weight_.view(), conv_state_.view(), flat_out});
         }},
        {"gdn_step", [=](Context& k) { return gdn_step(k, gdn); }},
        {"gdn_prefill", [=](Context& k) { return gdn_prefill(k, gdn); }},
        {"store_kv",
         [=, this](Context& k) {
           return store_kv(k, {x, x, positions_, c, c});
         }},
        {"qk_norm_rope_store",
         [=, this](Context& k) {
           QkNormRopeStoreArgs args;
           args.q = args.k = args.v = x;
           args.q_norm = args.k_norm = w;
           args.cos = args.sin = t;
           args.q_out = out;
           args.token_slots = positions_;
           args.k_cache = args.v_cache = c;
           return qk_norm_rope_store(k, args);
         }},
        {"copy_kv",
         [=, this](Context& k) {
           return copy_kv(k, {c, c, positions_, positions_, 1});
         }},
        {"attention",
         [=, this](Context& k) {
           return attention(k, {kv_.view(true), x, c, c, out, {}, {}, options});
         }},
        {"merge_states",
         [=](Context& k) {
           return merge_states(k, {x, g, x, g, out, {}});
         }},
        {"copy_slots",
         [=, this](Context& k) {
           return copy_slots(k, {c, zero_, zero_ + 1, 1});
         }},
        {"copy_slots_of_pools",
         [=, this](Context& k) {
           const SlotPool pool{c, {}};
           return copy_slots_of_pools(k, {{&pool, 1}, zero_, zero_ + 1, 1});
         }},
        {"zero_slots",
         [=, this](Context& k) {
           return zero_slots(k, {c, zero_, 1});
         }},
        {"linear",
         [=](Context& k) {
           return linear(k, {flat, flat, square_out(flat_out)});
         }},
        {"linear_int8",
         [=, bytes = bytes_.view()](Context& k) {
           return linear_int8(k, {flat, bytes, t.at(0, {1}, {1}), square_out(flat_out)});
         }},
    };
  }

 private:
  static TensorView square_out(const TensorView& view) { return view.at(0, {1, 1}, {1, 1}); }
  ConstTensorView head_view() { return ConstTensorView(gates_.view()).at(0, {2}, {1}); }

  Rows rows_;
  KvRows kv_;
  const std::int64_t positions_[1] = {0};
  const std::int32_t zero_[2] = {0, 1};
  Buffer x3_{DType::kF32, {1, 2, 16}}, out3_{DType::kF32, {1, 2, 16}};
  Buffer x2_{DType::kF32, {1, 32}}, out2_{DType::kF32, {1, 32}};
  Buffer gates_{DType::kF32, {1, 2}}, lse_{DType::kF32, {1, 2}};
  Buffer weight_{DType::kF32, {16}}, conv_weight_{DType::kF32, {32, 4}};
  Buffer conv_state_{DType::kF32, {1, 32, 3}}, state_{DType::kF32, {1, 2, 16, 16}};
  Buffer cache_{DType::kF32, {2, 4, 2, 16}};
  Buffer bytes_{DType::kI8, {1, 32}};
  Buffer table_{DType::kF32, {1, 8}}, out_table_{DType::kF32, {1, 8}};
};

TEST(ForcedIsa, RunsForEveryOpByOption) {
  AllOps ops;
  for (const Isa isa : supported_isas()) {
    for (const NamedOp& op : ops.list()) {
      const auto context = make_context(isa);
      ASSERT_OK(op.run(*context));
      EXPECT_EQ(context->last_kernel_target(), target_name(isa)) << op.name;
    }
  }
}

TEST(ForcedIsa, RunsForEveryOpByEnvironment) {
  const std::optional<std::string> before = core::read_env(core::kEnvIsa);
  AllOps ops;
  for (const Isa isa : supported_isas()) {
    setenv(core::kEnvIsa, isa_name(isa).data(), 1);
    for (const NamedOp& op : ops.list()) {
      const auto context = std::move(*Context::create());
      ASSERT_OK(op.run(*context));
      EXPECT_EQ(context->last_kernel_target(), target_name(isa)) << op.name;
    }
  }
  unsetenv(core::kEnvIsa);
  if (before.has_value()) setenv(core::kEnvIsa, before->c_str(), 1);
}

}  // namespace
}  // namespace hybridattn::testing
