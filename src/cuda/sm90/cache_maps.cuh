// A cache of keys and values as the copy engine of sm_90 takes it.
#pragma once

#include <cuda.h>

#include "hybridattn/status.h"
#include "src/cuda/attention_rows.cuh"

namespace hybridattn::cuda {

struct CacheMaps {
  CUtensorMap k, v;
};

/// Whether blocks of 8 keys lie in one page each, where the copy engine finds them.
bool in_boxes(const AttentionCall& call);

/// Maps a cache of 16-bit elements for which in_boxes holds.
Status map_cache(const AttentionCall& call, int dim, CacheMaps* maps);

}  // namespace hybridattn::cuda
