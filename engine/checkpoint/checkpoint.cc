// The files of a checkpoint folder, as one set of tensors.
#include <exception>
#include <set>
#include <system_error>
#include <utility>

#include "engine/checkpoint/json_document.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/text/quote.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::engine {
namespace {

using nlohmann::json;

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr std::uintmax_t kMaxIndexBytes = std::uintmax_t{256} << 20;

/// Tensor name to file name.
using WeightMap = std::map<std::string, std::string>;

/// A plain name of a safetensors file: with a separator it could leave the folder.
bool is_plain_name(const std::string& name) {
  for (const char c : name) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F || c == '/' || c == '\\') return false;
  }
  return name.ends_with(".safetensors") && !name.starts_with('.');
}

Result<WeightMap> read_weight_map(const json& root) {
  const json& section = json_at(root, "weight_map");
  if (!section.is_object() || section.empty()) {
    return data_loss("weight_map: found ", json_brief(section),
                     "; wanted an object of tensor and file names");
  }
  WeightMap map;
  for (const auto& [tensor, file] : section.items()) {
    if (!file.is_string() || !is_plain_name(file.get_ref<const std::string&>())) {
      return data_loss("weight_map: ", in_quotes(tensor), ": found ", json_brief(file),
                       "; wanted the name of a .safetensors file of the same folder");
    }
    map[tensor] = file.get<std::string>();
  }
  return map;
}

Result<WeightMap> read_index(const std::filesystem::path& index) {
  HYBRIDATTN_ASSIGN(const std::string text, read_text_file(index, kMaxIndexBytes));
  Result<json> root = parse_json(text);
  if (!root.ok()) return with_place(path_text(index), root.status());
  Result<WeightMap> map = read_weight_map(*root);
  if (!map.ok()) return with_place(path_text(index), map.status());
  return map;
}

bool is_there(const std::filesystem::path& path) {
  std::error_code code;
  return std::filesystem::exists(path, code);
}

}  // namespace

Status Checkpoint::add_file(const std::filesystem::path& path) {
  HYBRIDATTN_ASSIGN(std::unique_ptr<SafetensorsFile> file, SafetensorsFile::open(path));
  for (const auto& [name, tensor] : file->tensors()) {
    const auto [entry, added] = tensors_.try_emplace(name, Entry{file.get(), &tensor});
    if (!added) {
      return data_loss(path_text(path), ": tensor ", in_quotes(name), ": found in ",
                       in_quotes(entry->second.file->path().filename().string()),
                       " too; wanted in one file");
    }
  }
  files_.push_back(std::move(file));
  return {};
}

Status Checkpoint::add_shards(const std::filesystem::path& index) {
  HYBRIDATTN_ASSIGN(const WeightMap map, read_index(index));
  const std::string place = path_text(index);
  std::set<std::string> shards;
  for (const auto& [tensor, file] : map) shards.insert(file);
  for (const std::string& shard : shards) {
    if (!is_there(index.parent_path() / shard)) {
      return data_loss(place, ": weight_map: found the file ", in_quotes(shard),
                       ", which is not there; wanted all files of the index");
    }
    HYBRIDATTN_TRY(add_file(index.parent_path() / shard));
  }
  for (const auto& [name, shard] : map) {
    const auto found = tensors_.find(name);
    if (found == tensors_.end() || found->second.file->path().filename() != shard) {
      return data_loss(place, ": weight_map: ", in_quotes(name), ": found ", in_quotes(shard),
                       ", which has no such tensor; wanted the file that has it");
    }
  }
  for (const auto& [name, entry] : tensors_) {
    if (map.contains(name)) continue;
    return data_loss(place, ": weight_map: found no entry for ", in_quotes(name), " of ",
                     in_quotes(entry.file->path().filename().string()), "; wanted one");
  }
  return {};
}

Result<Checkpoint> Checkpoint::open(const std::filesystem::path& directory) {
  try {
    Checkpoint checkpoint;
    checkpoint.place_ = path_text(directory);
    if (is_there(directory / kSingleFile)) {
      HYBRIDATTN_TRY(checkpoint.add_file(directory / kSingleFile));
      return checkpoint;
    }
    if (!is_there(directory / kIndexFile)) {
      return error(StatusCode::kNotFound, checkpoint.place_, ": found neither ", kSingleFile,
                   " nor ", kIndexFile, "; wanted one of them");
    }
    HYBRIDATTN_TRY(checkpoint.add_shards(directory / kIndexFile));
    return checkpoint;
  } catch (const std::exception& problem) {
    return error(StatusCode::kResourceExhausted, path_text(directory),
                 ": opening it failed: ", in_quotes(problem.what()));
  }
}

const StoredTensor* Checkpoint::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : found->second.tensor;
}

Result<const StoredTensor*> Checkpoint::require(const std::string& name) const {
  const StoredTensor* tensor = find(name);
  if (tensor == nullptr) {
    return error(StatusCode::kNotFound, place_, ": tensor ", in_quotes(name),
                 ": found none; wanted one");
  }
  if (!tensor->loadable) {
    return error(StatusCode::kUnsupported, place_, ": tensor ", in_quotes(name), ": dtype: found ",
                 in_quotes(tensor->dtype_text), "; supported: F64, F32, F16, BF16, I64, I32");
  }
  return tensor;
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : tensors_) names.push_back(name);
  return names;
}

void Checkpoint::forget(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found != tensors_.end()) found->second.file->forget(*found->second.tensor);
}

std::int64_t Checkpoint::total_bytes() const {
  std::int64_t bytes = 0;
  for (const auto& [name, entry] : tensors_) bytes += entry.tensor->bytes;
  return bytes;
}

}  // namespace hybridattn::engine
