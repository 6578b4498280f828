// A safetensors file, memory-mapped, its header checked before any tensor is touched.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "hybridattn/status.h"
#include "hybridattn/tensor.h"

namespace hybridattn::engine {

/// One tensor of a file. The memory is the mapping's. `data` need not be aligned to the element: a
/// reader copies bytes. It is not null, not even when `bytes` is 0.
struct StoredTensor {
  const std::byte* data = nullptr;
  std::int64_t bytes = 0;
  DType dtype = DType::kF32;        ///< only when loadable
  std::vector<std::int64_t> shape;  ///< of any rank; empty for a scalar
  std::string dtype_text;           ///< as the file has it, e.g. "BF16", "F8_E4M3"
  bool loadable = true;             ///< false: a dtype of the format that DType has no name for
};

/// An open file: the mapping lives as long as the object, and so does every tensor of it.
/// The checks hold for the file as it was when opened: whoever cuts it short later takes the pages
/// from under the mapping.
class SafetensorsFile {
 public:
  /// Errors: not_found when it cannot be opened or is no regular file; data_loss when the header
  /// lies (length, JSON, offsets past the end, overlaps, holes, shape x dtype, duplicate names);
  /// unsupported for a dtype that the format does not know (tensors of known dtypes that DType has
  /// no name for are an error only when asked for); resource_exhausted when it cannot be mapped.
  static Result<std::unique_ptr<SafetensorsFile>> open(const std::filesystem::path& path);
  virtual ~SafetensorsFile() = default;

  virtual const std::filesystem::path& path() const = 0;
  virtual const std::map<std::string, StoredTensor>& tensors() const = 0;
  virtual const std::map<std::string, std::string>& metadata() const = 0;
  /// Tells the system that the bytes of a tensor will not be read again soon: a copy was made.
  virtual void forget(const StoredTensor& tensor) const = 0;
};

/// All tensors of a checkpoint folder: model.safetensors, or the shards that
/// model.safetensors.index.json names. Where both are there the single file wins, as elsewhere.
class Checkpoint {
 public:
  /// Errors: as SafetensorsFile::open; not_found when neither file is there; also data_loss for an
  /// index that names a file that is not there, a tensor that its file has not, a tensor in two
  /// files, or a tensor in no entry of the index; file names of the index may not leave the folder.
  static Result<Checkpoint> open(const std::filesystem::path& directory);

  /// nullptr when there is none of that name. Look at `loadable` before you read it.
  const StoredTensor* find(const std::string& name) const;
  /// The tensor, ready to be read. Errors: not_found; unsupported when it is not loadable.
  Result<const StoredTensor*> require(const std::string& name) const;
  /// All names, sorted.
  std::vector<std::string> names() const;
  void forget(const std::string& name) const;
  /// Bytes of all tensors.
  std::int64_t total_bytes() const;

 private:
  struct Entry {
    const SafetensorsFile* file;
    const StoredTensor* tensor;
  };
  Status add_file(const std::filesystem::path& path);
  Status add_shards(const std::filesystem::path& index);

  std::string place_;  // the folder, for messages
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, Entry> tensors_;
};

}  // namespace hybridattn::engine
