// The checks of attention that do not depend on one call.
#pragma once

#include "hybridattn/context.h"
#include "hybridattn/device_attention_rows.h"

namespace hybridattn::ops {

/// What lies behind the last token and the last page, of dense keys the last key, that rows name.
struct AttentionEnds {
  std::int64_t token = 0, page = 0;
};

/// Every row lies in the stream of `tokens` queries and reads pages below `pages` (of dense keys:
/// keys) that it lists. Errors: invalid_argument, out_of_range, unsupported.
Status check_attention_rows(const char* op, const AttentionRows& rows, const AttentionHeads& heads,
                            std::int64_t tokens, std::int64_t pages, AttentionEnds& ends);

/// Whether rows of the context may share what they read. Errors: unsupported.
Status check_shared_prefixes(const char* op, const Context& context, bool shared);

/// What kernels of an accelerator count with 32 bits. Errors: unsupported.
Status check_attention_lengths(const char* op, const AttentionRows& rows,
                               const AttentionHeads& heads);

}  // namespace hybridattn::ops
