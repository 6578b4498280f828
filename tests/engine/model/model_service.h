// A model over poisoned memory with caches of its own, for tests of the model below the engine.
#pragma once

#include <memory>
#include <string>

#include "engine/model/weight_uploader.h"
#include "tests/engine/serve/engine_test_support.h"

namespace hybridattn::engine {

class ModelService {
 public:
  struct Setup {
    std::string checkpoint;
    DType dtype = DType::kF32;
    int threads = 2;
    std::int32_t rows = 1;           // requests at once
    std::int32_t pages_per_row = 8;  // of 16 tokens
    bool batch_invariant = false;
    bool moved = false;  // weights are joined and copied to the context's device
  };

 protected:
  explicit ModelService(const Setup& setup) {
    ContextOptions options;
    options.threads = setup.threads;
    options.allocator = &poison_;
    options.batch_invariant = setup.batch_invariant;
    context_ = or_throw(Context::create(options));
    ModelConfig config = or_throw(ModelConfig::load(checkpoint_path(setup.checkpoint)));
    auto weights = or_throw(ModelWeights::load(checkpoint_path(setup.checkpoint), config));
    if (setup.moved) or_throw(upload_weights(*context_, setup.dtype, *weights));
    model_ = std::make_unique<HybridModel>(*context_, std::move(config), std::move(weights),
                                           setup.dtype);
    kv_ = or_throw(PagedKvPool::create(*context_, model_->kv_shape(16, setup.dtype), 64));
    states_ =
        or_throw(GdnStatePool::create(*context_, model_->state_shape(DType::kF32), setup.rows));
    backend_ = or_throw(
        HybridAttnBackend::create(or_throw(PagedAttnBackend::create(*context_, kv_->view())),
                                  or_throw(GDNAttnBackend::create(*context_, states_->view())),
                                  model_->full_attention_layers()));
    table_ = std::make_unique<RequestTable>(kv_->pages(), &states_->slots(), 16, setup.rows,
                                            setup.pages_per_row);
  }

  PoisonAllocator poison_;
  std::unique_ptr<Context> context_;
  std::unique_ptr<HybridModel> model_;
  std::unique_ptr<PagedKvPool> kv_;
  std::unique_ptr<GdnStatePool> states_;
  std::unique_ptr<AttentionBackend> backend_;
  std::unique_ptr<RequestTable> table_;
};

}  // namespace hybridattn::engine
