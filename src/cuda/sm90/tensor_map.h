// Tensor maps for the copy engine of sm_90.
#pragma once

#include <cuda.h>

#include "hybridattn/status.h"
#include "src/cuda/element.cuh"

namespace hybridattn::cuda {

/// Boxes of 64 channels of one head of 64 tokens of `x` [tokens, heads, channels], in 128-byte
/// swizzle; zeros past the last token. `x` must be of 16-bit elements, its strides and address
/// multiples of 16 bytes.
Status encode_token_boxes(const View& x, std::int64_t tokens, int heads, int channels,
                          CUtensorMap* map);

/// Boxes of 64 columns of `box_rows` rows of `x` [rows, columns], in 128-byte swizzle; zeros past
/// the last row and column. `x` as for encode_token_boxes, its columns one element apart, its
/// stride positive where there is more than one row.
Status encode_row_boxes(const View& x, std::int64_t rows, std::int64_t columns, int box_rows,
                        CUtensorMap* map);
/// Whether that can have the stride of this matrix, which may be none.
inline bool has_boxes(const ConstTensorView& x) {
  return x.empty() || x.dim(0) <= 1 || x.stride(0) >= x.dim(1);
}

struct CacheShape {
  std::int64_t pages, page_size, heads, dim;
};

/// Boxes of 8 keys of one head in one page of `cache` [pages, page_size, heads, dim], in 128-byte
/// swizzle: 64 columns of all 8 keys, then the next 64. The map's dimensions are a column of 64,
/// the place in the page, the group of 64 columns, head and page; zeros where there is no such
/// page. `cache` as for encode_token_boxes, no stride of more than one element 0 or less.
Status encode_key_boxes(const View& cache, const CacheShape& shape, CUtensorMap* map);

}  // namespace hybridattn::cuda
