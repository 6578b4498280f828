// Drafted tokens, one after the other: the state of the token before is copied, then one plain
// step.
#include "src/ops/reference/element.h"
#include "src/ops/reference/reference.h"

namespace hybridattn::reference {

namespace {

/// Calls step(rows of one token, kept slot) for each drafted token, after its kept slot was given
/// the state that the token starts from.
template <class Copy, class Step>
void for_drafts(const RaggedRows& rows, const VerifyRows& verify, const Copy& copy,
                const Step& step) {
  const std::int32_t one = 1, some = 1, none = 0;
  for (std::int32_t row = 0; row < rows.count; ++row) {
    for (std::int32_t i = 0; i < rows.length[row]; ++i) {
      const std::int32_t token = rows.start[row] + i;
      if (rows.slot[row] == kPadIndex) {
        step(RaggedRows{1, &token, &one, &rows.slot[row], &none});
        continue;
      }
      const std::int32_t kept = verify.kept[row] + i;
      const std::int64_t parent = parent_of(verify.parents, rows.start[row], i);
      const bool fresh = parent < 0 && rows.computed[row] == 0;
      if (!fresh) copy(parent >= 0, parent >= 0 ? verify.kept[row] + parent : rows.slot[row], kept);
      step(RaggedRows{1, &token, &one, &kept, fresh ? &none : &some});
    }
  }
}

}  // namespace

void gdn_verify(const GdnVerifyArgs& args) {
  const auto copy = [&](bool from_kept, std::int64_t from, std::int64_t to) {
    for (std::int64_t h = 0; h < args.kept.dim(1); ++h) {
      for (std::int64_t v = 0; v < args.kept.dim(2); ++v) {
        for (std::int64_t k = 0; k < args.kept.dim(3); ++k) {
          store(args.kept, load(from_kept ? args.kept : args.gdn.state, from, h, v, k), to, h, v,
                k);
        }
      }
    }
  };
  for_drafts(args.gdn.rows, args.verify, copy, [&](const RaggedRows& row) {
    GdnArgs one = args.gdn;
    one.rows = row;
    one.state = args.kept;
    gdn_recurrence(one);
  });
}

void causal_conv_verify(const CausalConvVerifyArgs& args) {
  const auto copy = [&](bool from_kept, std::int64_t from, std::int64_t to) {
    for (std::int64_t c = 0; c < args.kept.dim(1); ++c) {
      for (std::int64_t i = 0; i < args.kept.dim(2); ++i) {
        store(args.kept, load(from_kept ? args.kept : args.conv.state, from, c, i), to, c, i);
      }
    }
  };
  for_drafts(args.conv.rows, args.verify, copy, [&](const RaggedRows& row) {
    CausalConvArgs one = args.conv;
    one.rows = row;
    one.state = args.kept;
    causal_conv(one);
  });
}

}  // namespace hybridattn::reference
