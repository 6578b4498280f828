// The one descriptor of a ragged batch: it feeds convolution, gates and recurrence alike.
#pragma once

#include <cstdint>

namespace hybridattn {

/// Rows in the memory of a CUDA device, as DeviceRows and the ops make them.
struct DeviceRowTables {
  const std::int32_t* start = nullptr;     ///< [count], as in RaggedRows
  const std::int32_t* length = nullptr;    ///< [count]
  const std::int32_t* slot = nullptr;      ///< [count]
  const std::int32_t* computed = nullptr;  ///< [count]
  /// The rows cut into chunks of kGdnChunk tokens, row after row.
  const std::int32_t* first_chunk = nullptr;  ///< [count] index of the row's first chunk
  const std::int32_t* chunk_row = nullptr;  ///< [chunks] the chunk's row, -1 behind the last chunk
  /// [kGdnMaxSegments + 1] By number n: the least number of chunks in a segment with which all rows
  /// together make at most n segments, 0 where the rows that are not empty are more than n.
  /// Element 0: the chunks of the longest row.
  const std::int32_t* segment_chunks = nullptr;
  std::int32_t count = 0;   ///< rows
  std::int32_t chunks = 0;  ///< chunks, or the most there can be
};

/// Rows of a batch over a flat stream of tokens. All arrays are the caller's, int32, of `count`
/// elements, and live until the op returns. Tokens that no row names are neither read nor written.
/// No two rows may name one slot or one token: an op does not check that, ForwardBatch and the
/// backends do.
struct RaggedRows {
  std::int32_t count = 0;
  /// Index of the row's first token in the stream.
  const std::int32_t* start = nullptr;
  /// Number of tokens; 0 is legal and changes nothing.
  const std::int32_t* length = nullptr;
  /// State slot, or kPadIndex: the row reads no state, writes none, and its outputs are zeros.
  const std::int32_t* slot = nullptr;
  /// Tokens already in the state. 0 = the state is zero by definition, whatever the slot holds.
  const std::int32_t* computed = nullptr;
  /// CUDA: the same rows on the device, borrowed until the op returns. nullptr = each op uploads
  /// them for itself; DeviceRows does it once for all ops of a step.
  const DeviceRowTables* device = nullptr;
};

}  // namespace hybridattn
