// Every parameter is taken exactly once, by its name, shape and type, or loading fails.
#include <algorithm>

#include "tests/engine/model/checkpoint_rewriter.h"

namespace hybridattn::engine {
namespace {

void expect_names(const Status& status, const std::string& name, const std::string& what) {
  EXPECT_NE(status.message().find(name), std::string::npos)
      << what << " of " << name << ": " << (status.ok() ? "was accepted" : status.message());
  EXPECT_EQ(status.message().find('\n'), std::string::npos) << status.message();
}

bool skippable(const std::string& name) {
  return name.rfind("mtp.", 0) == 0 || name.rfind("model.visual.", 0) == 0;
}

class F45WeightSilentlySkipped : public ::testing::TestWithParam<const char*> {
 protected:
  Rewritten checkpoint_{GetParam()};

  template <class Change>
  void for_each_tensor(const std::string& what, const Change& change) {
    for (const auto& [name, tensor] : checkpoint_.tensors) {
      if (skippable(name)) continue;
      Tensors changed = checkpoint_.tensors;
      const std::string culprit = change(changed, name);
      if (culprit.empty()) continue;
      checkpoint_.write(changed);
      expect_names(checkpoint_.load(), culprit, what);
    }
  }
};

TEST_P(F45WeightSilentlySkipped, Untouched) {
  checkpoint_.write(checkpoint_.tensors);
  EXPECT_TRUE(checkpoint_.load().ok()) << checkpoint_.load().message();
}

TEST_P(F45WeightSilentlySkipped, Dropped) {
  for_each_tensor("dropping", [](Tensors& tensors, const std::string& name) {
    tensors.erase(name);
    // Without one half of stacked experts the split form is looked for; it names its own first
    // part.
    if (name.find("experts.gate_up_proj") == std::string::npos) return name;
    return name.substr(0, name.rfind("gate_up_proj")) + "0.gate_proj.weight";
  });
}

TEST_P(F45WeightSilentlySkipped, Renamed) {
  for_each_tensor("renaming", [](Tensors& tensors, const std::string& name) {
    tensors[name + "_renamed"] = tensors[name];
    tensors.erase(name);
    // The one or the other name, whichever is met first; both hold the old one.
    return name.find("experts.gate_up_proj") == std::string::npos ? name
                                                                  : std::string("mlp.experts.");
  });
}

TEST_P(F45WeightSilentlySkipped, UnderTwoPrefixes) {
  for_each_tensor("doubling", [](Tensors& tensors, const std::string& name) {
    const std::string twin = "model.extra." + name;
    tensors[twin] = tensors[name];
    return twin;
  });
}

TEST_P(F45WeightSilentlySkipped, OneRowMore) {
  for_each_tensor("a row more", [](Tensors& tensors, const std::string& name) {
    RawTensor& tensor = tensors[name];
    const std::size_t row = tensor.bytes.size() / static_cast<std::size_t>(tensor.shape[0]);
    tensor.bytes += tensor.bytes.substr(0, row);
    ++tensor.shape[0];
    return name;
  });
}

TEST_P(F45WeightSilentlySkipped, Transposed) {
  for_each_tensor("transposing", [](Tensors& tensors, const std::string& name) {
    RawTensor& tensor = tensors[name];
    const auto n = tensor.shape.size();
    if (n < 2 || tensor.shape[n - 1] == tensor.shape[n - 2]) return std::string();
    std::swap(tensor.shape[n - 1], tensor.shape[n - 2]);
    return name;
  });
}

TEST_P(F45WeightSilentlySkipped, OneDimensionMore) {
  for_each_tensor("a dimension more", [](Tensors& tensors, const std::string& name) {
    tensors[name].shape.push_back(1);
    return name;
  });
}

TEST_P(F45WeightSilentlySkipped, OfAnotherType) {
  for_each_tensor("type I16", [](Tensors& tensors, const std::string& name) {
    if (tensors[name].dtype == "F32") return std::string();
    tensors[name].dtype = "I16";
    return name;
  });
}

TEST_P(F45WeightSilentlySkipped, OtherPartsMayBeLeftOver) {
  Tensors more = checkpoint_.tensors;
  const RawTensor odd{"U8", {3}, "abc"};
  more["mtp.fc.weight"] = odd;
  more["model.visual.patch_embed.proj.weight"] = odd;
  checkpoint_.write(more);
  EXPECT_TRUE(checkpoint_.load().ok()) << checkpoint_.load().message();
  for (const char* name : {"visual.proj.weight", "model.mtp.fc.weight", "mtp", "model.visual_proj",
                           "model.layers.99.input_layernorm.weight", "lm_head.bias"}) {
    more = checkpoint_.tensors;
    more[name] = odd;
    checkpoint_.write(more);
    expect_names(checkpoint_.load(), name, "a leftover");
    EXPECT_EQ(checkpoint_.load().code(), StatusCode::kDataLoss);
  }
}

TEST_P(F45WeightSilentlySkipped, HeadMissingWhereItIsNotTied) {
  Tensors fewer = checkpoint_.tensors;
  fewer.erase("lm_head.weight");  // golden_moe_stacked has none
  checkpoint_.write(fewer);
  nlohmann::json config = read_json(checkpoint_.path() / "config.json");
  const auto load_with = [&] {
    checkpoint_.folder().write("config.json", config.dump());
    return checkpoint_.load();
  };
  config["tie_word_embeddings"] = false;
  expect_error(load_with(), StatusCode::kNotFound, {"lm_head.weight", "tie_word_embeddings false"});
  config.erase("tie_word_embeddings");
  expect_error(load_with(), StatusCode::kNotFound, {"lm_head.weight", "no tie_word_embeddings"});
  config["tie_word_embeddings"] = true;
  EXPECT_TRUE(load_with().ok());
}

TEST_P(F45WeightSilentlySkipped, CountsAllParameters) {
  checkpoint_.write(checkpoint_.tensors);
  const Result<ModelConfig> config = ModelConfig::load(checkpoint_.path());
  ASSERT_TRUE(config.ok());
  std::vector<double> shares;
  const auto weights = ModelWeights::load(checkpoint_.path(), *config,
                                          [&](double share) { shares.push_back(share); });
  ASSERT_TRUE(weights.ok()) << weights.status().message();
  std::int64_t parameters = 0;
  for (const auto& [name, tensor] : checkpoint_.tensors) {
    if (!skippable(name)) parameters += static_cast<std::int64_t>(tensor.count());
  }
  EXPECT_EQ((*weights)->num_parameters, parameters);
  EXPECT_TRUE(std::is_sorted(shares.begin(), shares.end()));
  ASSERT_FALSE(shares.empty());
  EXPECT_LE(shares.back(), 1.0);
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, F45WeightSilentlySkipped,
                         ::testing::Values("golden_a", "golden_c", "golden_moe_stacked",
                                           "golden_moe_split"),
                         [](const auto& tested) { return std::string(tested.param); });

// --- The same values in other places and types ---------------------------------------------------

class StoredForms : public ::testing::TestWithParam<const char*> {
 protected:
  Rewritten checkpoint_{GetParam()};
};

TEST_P(StoredForms, TensorsAtOddOffsets) {
  checkpoint_.write(checkpoint_.tensors);
  const std::vector<float> wanted = checkpoint_.logits();
  for (const std::size_t pad : {1, 2, 3}) {
    checkpoint_.write(checkpoint_.tensors, pad);
    EXPECT_EQ(checkpoint_.logits(), wanted) << pad;
    if (pad % 2 == 0) continue;
    // No processor must read an element across its alignment: all that is used is a copy.
    const Result<ModelConfig> config = ModelConfig::load(checkpoint_.path());
    ASSERT_TRUE(config.ok());
    const auto weights = ModelWeights::load(checkpoint_.path(), *config);
    ASSERT_TRUE(weights.ok()) << weights.status().message();
    EXPECT_EQ((*weights)->mapped_bytes, 0);
    EXPECT_GT((*weights)->copied_bytes, 0);
  }
}

// Values that all three types have: the storage then makes no difference.
TEST_P(StoredForms, TypesOfTheSameValues) {
  Tensors values = checkpoint_.tensors;
  for (auto& [name, tensor] : values) {
    // F16 has more digits than BF16, but less range: tiny values lose some, and then have fewer in
    // BF16 too.
    tensor = stored_as(stored_as(stored_as(tensor, "BF16"), "F16"), "BF16");
  }
  std::vector<float> wanted;
  for (const char* dtype : {"F32", "BF16", "F16"}) {
    Tensors stored;
    for (const auto& [name, tensor] : values) stored[name] = stored_as(tensor, dtype);
    checkpoint_.write(stored);
    if (wanted.empty()) wanted = checkpoint_.logits();
    EXPECT_LE(relative_l2(checkpoint_.logits(), wanted), 1e-6) << dtype;
  }
}

TEST_P(StoredForms, ShardsAreTheSingleFile) {
  checkpoint_.write(checkpoint_.tensors);
  const std::vector<float> wanted = checkpoint_.logits();
  std::filesystem::remove(checkpoint_.path() / "model.safetensors");
  std::map<std::string, Tensors> shards;
  nlohmann::json index = {{"weight_map", nlohmann::json::object()}};
  std::size_t count = 0;
  for (const auto& [name, tensor] : checkpoint_.tensors) {
    const std::string file = concat("part-", count++ % 3, ".safetensors");
    shards[file][name] = tensor;
    index["weight_map"][name] = file;
  }
  for (const auto& [file, tensors] : shards) write_tensors(checkpoint_.path() / file, tensors);
  checkpoint_.folder().write("model.safetensors.index.json", index.dump());
  EXPECT_EQ(checkpoint_.logits(), wanted);
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, StoredForms,
                         ::testing::Values("golden_a", "golden_c", "golden_moe_stacked",
                                           "golden_moe_split"),
                         [](const auto& tested) { return std::string(tested.param); });

// Stacked experts cut into single ones are the same model.
TEST(StoredExperts, SplitIsStacked) {
  const Rewritten checkpoint("golden_moe_stacked");
  checkpoint.write(checkpoint.tensors);
  const std::vector<float> wanted = checkpoint.logits();
  Tensors split;
  for (const auto& [name, tensor] : checkpoint.tensors) {
    const std::size_t at = name.find("gate_up_proj");
    const bool down = name.find("experts.down_proj") != std::string::npos;
    if (at == std::string::npos && !down) {
      split[name] = tensor;
      continue;
    }
    const std::string prefix = name.substr(0, name.rfind('.') + 1);
    const auto experts = static_cast<std::size_t>(tensor.shape[0]);
    const std::size_t bytes = tensor.bytes.size() / experts;
    for (std::size_t e = 0; e < experts; ++e) {
      const std::string expert = prefix + std::to_string(e) + ".";
      const std::string part = tensor.bytes.substr(e * bytes, bytes);
      if (down) {
        split[expert + "down_proj.weight"] = {
            tensor.dtype, {tensor.shape[1], tensor.shape[2]}, part};
        continue;
      }
      const std::vector<std::int64_t> half = {tensor.shape[1] / 2, tensor.shape[2]};
      split[expert + "gate_proj.weight"] = {tensor.dtype, half, part.substr(0, bytes / 2)};
      split[expert + "up_proj.weight"] = {tensor.dtype, half, part.substr(bytes / 2)};
    }
  }
  checkpoint.write(split);
  EXPECT_EQ(checkpoint.logits(), wanted);
}

}  // namespace
}  // namespace hybridattn::engine
