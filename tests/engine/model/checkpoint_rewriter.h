// A checkpoint as a list of tensors that a test changes and writes to a folder again.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "hybridattn/dtype.h"
#include "tests/engine/checkpoint/checkpoint_test_support.h"
#include "tests/engine/serve/engine_test_support.h"

namespace hybridattn::engine {

struct RawTensor {
  std::string dtype;  ///< "F32", "BF16", "F16"
  std::vector<std::int64_t> shape;
  std::string bytes;

  std::size_t width() const { return dtype == "F32" ? 4 : 2; }
  std::size_t count() const { return bytes.size() / width(); }
  float at(std::size_t i) const {
    if (dtype == "F32") {
      float value;
      std::memcpy(&value, bytes.data() + 4 * i, 4);
      return value;
    }
    std::uint16_t bits;
    std::memcpy(&bits, bytes.data() + 2 * i, 2);
    return dtype == "BF16" ? to_float(BF16{bits}) : to_float(F16{bits});
  }
};

using Tensors = std::map<std::string, RawTensor>;

inline Tensors read_tensors(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::uint64_t length;
  std::memcpy(&length, text.data(), 8);
  Tensors tensors;
  const nlohmann::json header = nlohmann::json::parse(text.substr(8, length));
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    const std::size_t begin = entry["data_offsets"][0];
    const std::size_t end = entry["data_offsets"][1];
    tensors[name] = {entry["dtype"], entry["shape"], text.substr(8 + length + begin, end - begin)};
  }
  return tensors;
}

/// `pad_header`: spaces behind the header, which move all tensors by as many bytes.
inline void write_tensors(const std::filesystem::path& path, const Tensors& tensors,
                          std::size_t pad_header = 0) {
  nlohmann::json header = nlohmann::json::object();
  std::size_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    header[name] = {{"dtype", tensor.dtype},
                    {"shape", tensor.shape},
                    {"data_offsets", {offset, offset + tensor.bytes.size()}}};
    offset += tensor.bytes.size();
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8 + pad_header, ' ');
  std::ofstream file(path, std::ios::binary);
  for (int i = 0; i < 8; ++i) file.put(static_cast<char>(std::uint64_t{text.size()} >> (8 * i)));
  file << text;
  for (const auto& [name, tensor] : tensors) file << tensor.bytes;
}

/// The same values in another type. Only where every value is representable in it.
inline RawTensor stored_as(const RawTensor& tensor, const std::string& dtype) {
  RawTensor out{dtype, tensor.shape, {}};
  out.bytes.resize(tensor.count() * out.width());
  for (std::size_t i = 0; i < tensor.count(); ++i) {
    const float value = tensor.at(i);
    if (dtype == "F32") {
      std::memcpy(out.bytes.data() + 4 * i, &value, 4);
      continue;
    }
    const std::uint16_t bits = dtype == "BF16" ? to_bf16(value).bits : to_f16(value).bits;
    std::memcpy(out.bytes.data() + 2 * i, &bits, 2);
  }
  return out;
}

/// A folder with the configuration of a small checkpoint and tensors that a test writes.
class Rewritten {
 public:
  explicit Rewritten(const std::string& checkpoint) {
    std::filesystem::copy(checkpoint_path(checkpoint) / "config.json", path() / "config.json");
    tensors = read_tensors(checkpoint_path(checkpoint) / "model.safetensors");
  }

  Tensors tensors;

  const std::filesystem::path& path() const { return folder_.path(); }
  const TempFolder& folder() const { return folder_; }
  void write(const Tensors& changed, std::size_t pad_header = 0) const {
    write_tensors(path() / "model.safetensors", changed, pad_header);
  }
  Status load() const {
    const Result<ModelConfig> config = ModelConfig::load(path());
    if (!config.ok()) return config.status();
    return ModelWeights::load(path(), *config).status();
  }
  /// Logits at the last of some ids, in f32.
  std::vector<float> logits() const {
    EngineOptions options;
    options.context.threads = 1;
    options.dtype = DType::kF32;
    Result<std::unique_ptr<Engine>> engine = Engine::load(path(), options);
    if (!engine.ok()) throw std::runtime_error(engine.status().message());
    if (!(*engine)->allocate_caches({128, 0}).ok()) throw std::runtime_error("no caches");
    const Result<ScoreResult> score = (*engine)->score(random_ids(90, 384, 3), 64);
    if (!score.ok()) throw std::runtime_error(score.status().message());
    return score->last_logits;
  }

 private:
  TempFolder folder_;
};

}  // namespace hybridattn::engine
