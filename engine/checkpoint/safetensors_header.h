// The header of a safetensors file: pure parsing of bytes, so that it can be fuzzed alone.
//
// A file is: 8 bytes, little endian, the length N of the header; N bytes of JSON, one object that
// maps each name to {"dtype", "shape", "data_offsets": [begin, end]}; then the data, which the
// tensors cover without a hole or an overlap. Offsets count from the start of the data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "hybridattn/dtype.h"
#include "hybridattn/status.h"

namespace hybridattn::engine {

/// The limit of the format's own library.
inline constexpr std::int64_t kMaxSafetensorsHeader = 100'000'000;

/// What the header says of one tensor, checked.
struct TensorRecord {
  std::string dtype_text;     ///< as the file has it
  bool loadable = false;      ///< DType has a name for it
  DType dtype = DType::kF32;  ///< only when loadable
  std::vector<std::int64_t> shape;
  std::int64_t begin = 0;  ///< from the start of the data
  std::int64_t end = 0;
};

struct SafetensorsHeader {
  std::int64_t data_start = 0;  ///< offset of the data in the file
  std::map<std::string, TensorRecord> tensors;
  std::map<std::string, std::string> metadata;
};

/// `file_start`: the file from its first byte on, at least up to the end of the header; nothing
/// outside of it is read. `file_size`: the size of the whole file.
///
/// Errors: data_loss for every contradiction, unsupported for a dtype that the format does not
/// know, resource_exhausted when memory ends. Messages name the tensor, not the file. No throw.
Result<SafetensorsHeader> parse_safetensors_header(std::span<const std::byte> file_start,
                                                   std::int64_t file_size);

}  // namespace hybridattn::engine
