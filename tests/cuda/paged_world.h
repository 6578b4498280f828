// A small stack of full-attention layers over paged caches, the same on both devices.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "hybridattn/hybridattn.h"
#include "tests/support/contexts.h"
#include "tests/support/tensor.h"

namespace hybridattn::testing {

/// Two layers' caches and a step's tensors, the same for both devices.
struct PagedWorld {
  static constexpr std::int64_t kPageSize = 16, kHq = 8, kHk = 2, kDim = 64, kRotated = 32;

  PagedWorld(std::unique_ptr<Context> owner, std::int64_t tokens, std::int64_t pages = 120,
             DType cache = DType::kBF16)
      : context(std::move(owner)) {
    Random random(3);
    for (auto* caches : {&k, &v}) {
      for (int i = 0; i < 2; ++i) {
        caches->emplace_back(cache, Shape{pages, kPageSize, kHk, kDim});
        caches->back().fill(random.values(caches->back().num_elements(), -1, 1));
      }
    }
    const auto make = [&](Buffer& x, const Shape& shape, DType dtype, double low = -1) {
      x = Buffer(dtype, shape);
      x.fill(random.values(x.num_elements(), low, 1));
    };
    make(q, {tokens, kHq, kDim}, DType::kBF16);
    make(new_k, {tokens, kHk, kDim}, DType::kBF16);
    make(new_v, {tokens, kHk, kDim}, DType::kBF16);
    make(gate, {tokens, kHq, kDim}, DType::kBF16);
    make(norm, {kDim}, DType::kBF16);
    make(cosine, {tokens, kRotated / 2}, DType::kF32);
    make(sine, {tokens, kRotated / 2}, DType::kF32);
    make(sinks, {kHq}, DType::kF32);
    make(scales, {kHk}, DType::kF32, 0.5);
    for (int i = 0; i < 2; ++i) {
      outs.emplace_back(DType::kBF16, q.shape());
      lses.emplace_back(DType::kF32, Shape{tokens, kHq});
    }
    auto made = PagedAttnBackend::create(*context,
                                         {{k[0].view(), k[1].view()}, {v[0].view(), v[1].view()}});
    EXPECT_OK(made.status());
    backend = std::move(made).value();
    described = layers();
  }

  std::vector<RadixAttention> layers() {
    std::vector<RadixAttention> out(2);
    for (int i = 0; i < 2; ++i) {
      RadixAttention& layer = out[static_cast<std::size_t>(i)];
      layer.layer_id = 4 * i + 3;
      layer.kv_index = i;
      layer.num_heads = kHq;
      layer.num_kv_heads = kHk;
      layer.head_dim = layer.v_head_dim = kDim;
      layer.scaling = 0.125f;
    }
    out[1].sliding_window = 40;
    out[1].sinks = sinks.view();
    return out;
  }

  /// Starts both layers, one after the other, into `outs`.
  Status launch(const Plan& plan) {
    for (std::size_t i = 0; i < 2; ++i) {
      AttentionRunArgs args;
      args.q = q.view();
      args.k = new_k.view();
      args.v = new_v.view();
      args.out = outs[i].view();
      args.lse = lses[i].view();
      args.q_norm = args.k_norm = norm.view();
      args.cos = cosine.view();
      args.sin = sine.view();
      args.gate = gate.view();
      if (const Status status = backend->run_attention(plan, described[i], args); !status.ok()) {
        return status;
      }
    }
    return {};
  }

  std::vector<std::vector<double>> results() {
    EXPECT_OK(context->synchronize());
    return {outs[0].values(), outs[1].values()};
  }
  std::vector<std::vector<double>> run(const Plan& plan) {
    for (Buffer& out : outs) std::fill(out.memory().begin(), out.memory().end(), Byte{0xff});
    EXPECT_OK(launch(plan));
    return results();
  }

  std::unique_ptr<Context> context;
  std::vector<Buffer> k, v, outs, lses;
  Buffer q, new_k, new_v, gate, norm, cosine, sine, sinks, scales;
  std::vector<RadixAttention> described;  // the layers, as run
  std::unique_ptr<PagedAttnBackend> backend;
};

}  // namespace hybridattn::testing
