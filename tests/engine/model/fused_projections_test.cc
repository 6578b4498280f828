// The grouped projections of Qwen3-Next against the same rows stored apart, as Qwen3.5 stores them.
#include "tests/engine/model/checkpoint_rewriter.h"

namespace hybridattn::engine {
namespace {

// golden_c: 2 key heads of 32, each with 2 of the 4 value heads of 64.
constexpr std::size_t kKeyHeads = 2;
constexpr std::size_t kKey = 32;
constexpr std::size_t kValues = 2 * 64;  // of one key head
constexpr std::size_t kRatio = 2;

/// The rows [first, first + count) of each group of `group` rows, group after group.
std::string rows_of_groups(const RawTensor& tensor, std::size_t group, std::size_t first,
                           std::size_t count) {
  const std::size_t row = tensor.bytes.size() / static_cast<std::size_t>(tensor.shape[0]);
  std::string rows;
  for (std::size_t head = 0; head < kKeyHeads; ++head) {
    rows += tensor.bytes.substr((head * group + first) * row, count * row);
  }
  return rows;
}

void add(Tensors& tensors, const std::string& name, const RawTensor& like,
         const std::string& bytes) {
  const std::size_t row = like.bytes.size() / static_cast<std::size_t>(like.shape[0]);
  tensors[name] = {
      like.dtype, {static_cast<std::int64_t>(bytes.size() / row), like.shape[1]}, bytes};
}

Tensors split(const Tensors& fused) {
  Tensors out;
  for (const auto& [name, tensor] : fused) {
    const std::size_t at = name.find("in_proj_");
    if (at == std::string::npos) {
      out[name] = tensor;
      continue;
    }
    const std::string prefix = name.substr(0, at);
    if (name.find("in_proj_ba") != std::string::npos) {
      add(out, prefix + "in_proj_b.weight", tensor, rows_of_groups(tensor, 2 * kRatio, 0, kRatio));
      add(out, prefix + "in_proj_a.weight", tensor,
          rows_of_groups(tensor, 2 * kRatio, kRatio, kRatio));
      continue;
    }
    const std::size_t group = 2 * kKey + 2 * kValues;
    const std::string q = rows_of_groups(tensor, group, 0, kKey);
    const std::string k = rows_of_groups(tensor, group, kKey, kKey);
    const std::string v = rows_of_groups(tensor, group, 2 * kKey, kValues);
    add(out, prefix + "in_proj_qkv.weight", tensor, q + k + v);
    add(out, prefix + "in_proj_z.weight", tensor,
        rows_of_groups(tensor, group, 2 * kKey + kValues, kValues));
  }
  return out;
}

TEST(FusedProjections, AreTheSplitOnes) {
  const Rewritten checkpoint("golden_c");
  checkpoint.write(checkpoint.tensors);
  const std::vector<float> wanted = checkpoint.logits();
  nlohmann::json config = read_json(checkpoint.path() / "config.json");
  config["model_type"] = "qwen3_5_moe_text";
  config["architectures"] = {"Qwen3_5MoeForCausalLM"};
  checkpoint.folder().write("config.json", config.dump());
  expect_error(checkpoint.load(), StatusCode::kNotFound, {"in_proj_qkv.weight"});
  checkpoint.write(split(checkpoint.tensors));
  EXPECT_EQ(checkpoint.logits(), wanted);
}

}  // namespace
}  // namespace hybridattn::engine
