#include "tests/support/hybrid_world.h"

#include <algorithm>

namespace hybridattn::testing {
namespace {

Buffer filled(const Shape& shape, Random& random, double low, double high) {
  Buffer buffer(DType::kF32, shape);
  buffer.fill(random.values(buffer.num_elements(), low, high));
  return buffer;
}

void append(std::vector<Byte>& to, const std::vector<Byte>& more) {
  to.insert(to.end(), more.begin(), more.end());
}

}  // namespace

HybridWorld::HybridWorld(const WorldOptions& o) : options(o) {
  ContextOptions made;
  made.device = o.device;
  made.isa = o.isa;
  made.threads = o.threads;
  made.allocator = o.allocator;
  if (o.device != DeviceType::kCpu) {
    if (o.allocator == nullptr) made.allocator = &shared_memory();
    made.batch_invariant = true;  // on the CPU results are so anyway
  }
  made.executor = o.executor;
  made.trace = o.trace;
  made.chunk_invariant = o.chunk_invariant;
  context = make_context(made);
  Random random(7);
  for (const std::int32_t id : {0, 1, 3}) make_gdn_layer(id, random);
  for (const std::int32_t id : {2, 4}) make_attention_layer(id, random);
  PagedKvView kv;
  GdnStateView states, kept;
  for (AttentionLayer& l : attention_) {
    kv.k.push_back(l.k_cache.view());
    kv.v.push_back(l.v_cache.view());
  }
  for (GdnLayer& l : gdn_) {
    states.recurrent.push_back(l.recurrent.view());
    states.conv.push_back(l.conv.view());
    if (o.kept > 0) {
      kept.recurrent.push_back(l.kept_recurrent.view());
      kept.conv.push_back(l.kept_conv.view());
    }
    l.layer.conv_weight = l.weight.view();
    l.layer.a_log = l.a_log.view();
    l.layer.dt_bias = l.bias.view();
  }
  auto full = PagedAttnBackend::create(*context, kv);
  EXPECT_TRUE(full.ok()) << full.status().message();
  std::vector<RadixAttention> attention_layers;
  for (AttentionLayer& l : attention_) {
    if (o.sinks) l.layer.sinks = l.sinks.view();
    if (o.head_scales) {
      l.layer.k_scales = l.k_scales.view();
      l.layer.v_scales = l.v_scales.view();
    }
    attention_layers.push_back(l.layer);
  }
  EXPECT_OK((*full)->set_layers(attention_layers));
  auto gdn = GDNAttnBackend::create(*context, states, kept);
  EXPECT_TRUE(gdn.ok()) << gdn.status().message();
  std::vector<RadixLinearAttention> gdn_layers;
  for (const GdnLayer& l : gdn_) gdn_layers.push_back(l.layer);
  EXPECT_OK((*gdn)->set_layers(gdn_layers));
  auto hybrid = HybridAttnBackend::create(std::move(*full), std::move(*gdn), {2, 4});
  EXPECT_TRUE(hybrid.ok()) << hybrid.status().message();
  backend = std::move(*hybrid);
}

void HybridWorld::make_gdn_layer(std::int32_t id, Random& random) {
  GdnLayer l;
  l.layer.layer_id = id;
  l.layer.gdn_index = static_cast<std::int32_t>(gdn_.size());
  l.layer.num_k_heads = kGdnHk;
  l.layer.num_v_heads = kGdnHv;
  l.layer.head_k_dim = options.gdn_k_dim;
  l.layer.head_v_dim = options.gdn_v_dim;
  l.layer.allow_neg_eigval = options.allow_neg_eigval;
  l.layer.channel_decay = options.channel_decay;
  l.weight = filled({channels(), kWidth}, random, -1, 1);
  l.a_log = filled({kGdnHv}, random, -3, 1);
  const Shape decays = options.channel_decay ? Shape{kGdnHv, options.gdn_k_dim} : Shape{kGdnHv};
  l.bias = filled(decays, random, -2, 2);
  l.norm = filled({options.gdn_v_dim}, random, 0.5, 1.5);
  l.recurrent =
      Buffer(options.state_dtype, {options.slots, kGdnHv, options.gdn_v_dim, options.gdn_k_dim});
  l.conv = Buffer(options.dtype, {options.slots, channels(), kWidth - 1});
  l.kept_recurrent =
      Buffer(options.state_dtype, {options.kept, kGdnHv, options.gdn_v_dim, options.gdn_k_dim});
  l.kept_conv = Buffer(options.dtype, {options.kept, channels(), kWidth - 1});
  const std::int64_t t = options.max_tokens;
  l.mixed = Buffer(options.dtype, {t, channels()});
  l.a = Buffer(options.dtype,
               options.channel_decay ? Shape{t, kGdnHv, options.gdn_k_dim} : Shape{t, kGdnHv});
  l.b = Buffer(options.dtype, {t, kGdnHv});
  l.z = Buffer(options.dtype, {t, kGdnHv, options.gdn_v_dim});
  l.out = Buffer(options.dtype, {t, kGdnHv, options.gdn_v_dim});
  gdn_.push_back(std::move(l));
}

void HybridWorld::make_attention_layer(std::int32_t id, Random& random) {
  AttentionLayer l;
  l.layer.layer_id = id;
  l.layer.kv_index = static_cast<std::int32_t>(attention_.size());
  l.layer.num_heads = kHq;
  l.layer.num_kv_heads = kHk;
  l.layer.head_dim = options.dim;
  l.layer.v_head_dim = options.v_dim;
  l.layer.scaling = static_cast<float>(random.uniform(0.2, 0.3));
  l.layer.logit_cap = options.logit_cap;
  l.layer.sliding_window = options.window;
  l.layer.attn_type = options.attn_type;
  l.layer.k_scale = options.k_scale;
  l.layer.v_scale = options.v_scale;
  l.sinks = filled({kHq}, random, -1, 2);
  for (Buffer* scales : {&l.k_scales, &l.v_scales}) {
    *scales = Buffer(DType::kF32, {kHk});
    scales->fill({0.25, 2.0});
  }
  l.k_cache = Buffer(options.kv_dtype, {options.pages, options.page_size, kHk, options.dim});
  l.v_cache = Buffer(options.kv_dtype, {options.pages, options.page_size, kHk, options.v_dim});
  const std::int64_t t = options.max_tokens;
  l.q = Buffer(options.dtype, {t, kHq, options.dim});
  l.k = Buffer(options.dtype, {t, kHk, options.dim});
  l.v = Buffer(options.dtype, {t, kHk, options.v_dim});
  l.gate = Buffer(options.dtype, {t, kHq, options.v_dim});
  l.out = Buffer(options.dtype, {t, kHq, options.v_dim});
  l.lse = Buffer(DType::kF32, {t, kHq});
  attention_.push_back(std::move(l));
}

void HybridWorld::settle() const {
  if (options.device != DeviceType::kCpu) EXPECT_OK(context->synchronize());
}

void HybridWorld::feed(std::uint64_t request, std::int64_t position, std::int32_t token) {
  settle();
  Random random(request * 1000003 + static_cast<std::uint64_t>(position));
  touched_ = std::max(touched_, token + 1);
  for (GdnLayer& l : gdn_) {
    l.mixed.fill_part(token, random, -1.5, 1.5);
    l.a.fill_part(token, random, -3, 3);
    l.b.fill_part(token, random, -3, 3);
    l.z.fill_part(token, random, -3, 3);
  }
  for (AttentionLayer& l : attention_) {
    l.q.fill_part(token, random, -1.5, 1.5);
    l.k.fill_part(token, random, -1.5, 1.5);
    l.v.fill_part(token, random, -1.5, 1.5);
    l.gate.fill_part(token, random, -3, 3);
  }
}

void HybridWorld::poison_tokens() {
  settle();
  for (std::int32_t t = 0; t < touched_; ++t) {
    for (GdnLayer& l : gdn_) {
      for (Buffer* b : {&l.mixed, &l.a, &l.b, &l.z, &l.out}) b->poison({t});
    }
    for (AttentionLayer& l : attention_) {
      for (Buffer* b : {&l.q, &l.k, &l.v, &l.gate, &l.out, &l.lse}) b->poison({t});
    }
  }
}

TensorView HybridWorld::head(Buffer& buffer, std::int32_t tokens) {
  TensorView view = buffer.view();
  view.shape[0] = tokens;
  return view;
}

Status HybridWorld::run(const Plan& plan) {
  const std::int32_t tokens = plan.num_tokens();
  touched_ = std::max(touched_, tokens);
  const auto run_gdn = [&](GdnLayer& l) {
    return backend->run_gdn(plan, l.layer,
                            {head(l.mixed, tokens), head(l.a, tokens), head(l.b, tokens),
                             head(l.out, tokens), head(l.z, tokens), l.norm.view()});
  };
  const auto run_attention = [&](AttentionLayer& l) {
    AttentionRunArgs args;
    args.q = head(l.q, tokens);
    args.k = head(l.k, tokens);
    args.v = head(l.v, tokens);
    args.gate = head(l.gate, tokens);
    args.out = head(l.out, tokens);
    args.lse = head(l.lse, tokens);
    return backend->run_attention(plan, l.layer, args);
  };
  Status status = run_gdn(gdn_[0]);
  if (status.ok()) status = run_gdn(gdn_[1]);
  if (status.ok()) status = run_attention(attention_[0]);
  if (status.ok()) status = run_gdn(gdn_[2]);
  if (status.ok()) status = run_attention(attention_[1]);
  return status;
}

std::vector<double> HybridWorld::output(std::int32_t token) const {
  settle();
  std::vector<double> all;
  const auto take = [&](const Buffer& buffer) {
    const std::vector<double> values = buffer.gather({token});
    all.insert(all.end(), values.begin(), values.end());
  };
  for (const GdnLayer& l : gdn_) take(l.out);
  for (const AttentionLayer& l : attention_) take(l.out);
  return all;
}

std::vector<double> HybridWorld::lse(std::int32_t token) const {
  settle();
  std::vector<double> all;
  for (const AttentionLayer& l : attention_) {
    const std::vector<double> values = l.lse.gather({token});
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

std::vector<Byte> HybridWorld::slot_bytes(std::int32_t slot) const {
  settle();
  std::vector<Byte> all;
  for (const GdnLayer& l : gdn_) {
    append(all, l.recurrent.bytes(slot));
    append(all, l.conv.bytes(slot));
  }
  return all;
}

std::vector<Byte> HybridWorld::page_bytes(std::int32_t page) const {
  settle();
  std::vector<Byte> all;
  for (const AttentionLayer& l : attention_) {
    append(all, l.k_cache.bytes(page));
    append(all, l.v_cache.bytes(page));
  }
  return all;
}

std::vector<HybridWorld::CacheBuffer> HybridWorld::cache_buffers() const {
  settle();
  std::vector<CacheBuffer> all;
  for (const GdnLayer& l : gdn_) {
    all.push_back({l.recurrent.memory(), options.slots, true});
    all.push_back({l.conv.memory(), options.slots, true});
  }
  for (const AttentionLayer& l : attention_) {
    all.push_back({l.k_cache.memory(), options.pages, false});
    all.push_back({l.v_cache.memory(), options.pages, false});
  }
  return all;
}

void HybridWorld::poison_slot(std::int32_t slot) {
  settle();
  for (GdnLayer& l : gdn_) {
    l.recurrent.poison({slot});
    l.conv.poison({slot});
  }
}

void HybridWorld::copy_slot(std::int32_t from, std::int32_t to) {
  for (GdnLayer& l : gdn_) {
    for (Buffer* states : {&l.recurrent, &l.conv}) {
      EXPECT_OK(copy_slots(*context, {states->view(), &from, &to, 1}));
    }
  }
}

void HybridWorld::poison_page(std::int32_t page) {
  settle();
  for (AttentionLayer& l : attention_) {
    l.k_cache.poison({page});
    l.v_cache.poison({page});
  }
}

namespace {

WorldOptions world_of_one(const WorldOptions& like, std::int64_t max_tokens) {
  WorldOptions o = like;
  o.slots = 1;
  o.pages = static_cast<std::int32_t>((max_tokens + like.page_size - 1) / like.page_size);
  o.allocator = nullptr;
  o.executor = nullptr;
  o.trace = nullptr;
  return o;
}

}  // namespace

AloneRequest::AloneRequest(std::uint64_t id, const WorldOptions& like, std::int64_t max_tokens)
    : id_(id), world_(world_of_one(like, max_tokens)) {
  for (std::int32_t p = 0; p < world_.options.pages; ++p) pages_.push_back(p);
}

std::vector<std::vector<double>> AloneRequest::advance(RowKind kind, std::int32_t tokens) {
  world_.poison_tokens();
  for (std::int32_t i = 0; i < tokens; ++i) world_.feed(id_, computed_ + i, i);
  auto batch = ForwardBatch::create({{kind, 0, pages_, computed_, tokens}});
  EXPECT_TRUE(batch.ok()) << batch.status().message();
  auto plan = world_.backend->plan(*batch);
  EXPECT_TRUE(plan.ok()) << plan.status().message();
  EXPECT_OK(world_.run(**plan));
  computed_ += tokens;
  std::vector<std::vector<double>> outputs;
  for (std::int32_t i = 0; i < tokens; ++i) outputs.push_back(world_.output(i));
  return outputs;
}

}  // namespace hybridattn::testing
