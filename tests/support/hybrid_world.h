// A whole hybrid model's worth of attention: layers of both kinds, caches, a backend, and the
// inputs of a step in buffers that never move. Every input is a function of the request, the
// position and the layer, so that a request can be run again alone.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "hybridattn/hybridattn.h"
#include "tests/support/contexts.h"
#include "tests/support/tensor.h"

namespace hybridattn::testing {

struct WorldOptions {
  DeviceType device = test_device();
  std::int32_t slots = 8;
  std::int32_t pages = 64;
  std::int32_t page_size = 4;
  std::int32_t max_tokens = 64;
  std::int32_t kept = 0;  ///< slots for the states of verify rows
  int threads = 1;
  Isa isa = best_isa();
  Allocator* allocator = nullptr;
  Executor* executor = nullptr;
  bool chunk_invariant = false;
  DType dtype = DType::kF32;  ///< of all inputs and outputs, and of the convolution's states
  DType kv_dtype = DType::kF32;
  DType state_dtype = DType::kF32;
  // Options of the layers.
  float logit_cap = 0.0f;
  std::int32_t window = -1;
  bool sinks = false;
  AttentionType attn_type = AttentionType::kDecoder;
  float k_scale = 1.0f, v_scale = 1.0f;
  bool head_scales = false;  ///< one for each key head, in place of those
  bool allow_neg_eigval = false;
  bool channel_decay = false;
  std::int32_t dim = 16, v_dim = 32;            ///< of attention heads
  std::int32_t gdn_k_dim = 16, gdn_v_dim = 32;  ///< of Gated DeltaNet heads
  Trace* trace = nullptr;
};

class HybridWorld {
 public:
  static constexpr std::int32_t kHq = 4, kHk = 2;                    // attention
  static constexpr std::int32_t kGdnHk = 2, kGdnHv = 4, kWidth = 4;  // GDN

  explicit HybridWorld(const WorldOptions& options = {});

  /// Writes the inputs of one token; `token` is its place in the stream.
  void feed(std::uint64_t request, std::int64_t position, std::int32_t token);
  /// Poisons the inputs and outputs of all tokens; those that nobody has touched are so from birth.
  void poison_tokens();
  /// Waits for what was started. All that reads or writes the world's memory does so first.
  void settle() const;
  /// Runs every layer of the plan.
  Status run(const Plan& plan);
  /// All layers' outputs of one token, one after the other.
  std::vector<double> output(std::int32_t token) const;
  /// The log-sum-exps of all attention layers.
  std::vector<double> lse(std::int32_t token) const;
  /// Bytes of everything that belongs to a slot, and to a page.
  std::vector<Byte> slot_bytes(std::int32_t slot) const;
  std::vector<Byte> page_bytes(std::int32_t page) const;
  /// The memory of one layer's states, or keys or values: `count` slots or pages of equal size.
  struct CacheBuffer {
    std::span<const Byte> memory;
    std::int32_t count;
    bool of_slots;
  };
  std::vector<CacheBuffer> cache_buffers() const;
  void poison_slot(std::int32_t slot);
  void copy_slot(std::int32_t from, std::int32_t to);
  void poison_page(std::int32_t page);

  WorldOptions options;
  std::unique_ptr<Context> context;
  std::unique_ptr<HybridAttnBackend> backend;

 private:
  struct GdnLayer {
    RadixLinearAttention layer;
    Buffer weight, a_log, bias, norm, recurrent, conv;  // parameters, states
    Buffer kept_recurrent, kept_conv;
    Buffer mixed, a, b, z, out;
  };
  struct AttentionLayer {
    RadixAttention layer;
    Buffer k_cache, v_cache, sinks, k_scales, v_scales;
    Buffer q, k, v, gate, out, lse;
  };
  std::int32_t channels() const {
    return 2 * kGdnHk * options.gdn_k_dim + kGdnHv * options.gdn_v_dim;
  }
  void make_gdn_layer(std::int32_t id, Random& random);
  void make_attention_layer(std::int32_t id, Random& random);
  TensorView head(Buffer& buffer, std::int32_t tokens);

  std::vector<GdnLayer> gdn_;
  std::vector<AttentionLayer> attention_;
  std::int32_t touched_ = 0;  // tokens that were ever fed or run; a replay runs what was recorded
};

/// One request that lives in a world of its own: what its outputs and state are without any
/// company.
class AloneRequest {
 public:
  AloneRequest(std::uint64_t id, const WorldOptions& like, std::int64_t max_tokens);
  /// The next tokens as one row; returns their outputs, token after token.
  std::vector<std::vector<double>> advance(RowKind kind, std::int32_t tokens);
  std::vector<Byte> state() const { return world_.slot_bytes(0); }

 private:
  std::uint64_t id_;
  HybridWorld world_;
  std::vector<std::int32_t> pages_;
  std::int64_t computed_ = 0;
};

}  // namespace hybridattn::testing
