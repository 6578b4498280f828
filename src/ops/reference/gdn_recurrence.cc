#include <cmath>
#include <vector>

#include "src/core/formulas.h"
#include "src/ops/reference/element.h"
#include "src/ops/reference/reference.h"

namespace hybridattn::reference {

namespace {

/// A head of q or k as the recurrence takes it.
std::vector<double> head_of(const ConstTensorView& x, std::int64_t token, std::int64_t head,
                            bool normalize, double scale) {
  std::vector<double> out;
  double sum = 0;
  for (std::int64_t i = 0; i < x.dim(2); ++i) {
    out.push_back(load(x, token, head, i));
    sum += out.back() * out.back();
  }
  const double factor = normalize ? scale / std::sqrt(sum + 1e-6) : scale;
  for (double& value : out) value *= factor;
  return out;
}

/// The slot of the row's checkpoint after `tokens` tokens, or kPadIndex.
std::int32_t checkpoint_slot(const RowCheckpoints& checkpoints, std::int32_t row,
                             std::int64_t tokens) {
  for (std::int32_t i = 0; i < checkpoints.count; ++i) {
    if (checkpoints.row[i] == row && checkpoints.tokens[i] == tokens) return checkpoints.slot[i];
  }
  return kPadIndex;
}

void run_head(const GdnArgs& args, std::int32_t row, std::int64_t h) {
  const std::int64_t k_dim = args.k.dim(2);
  const std::int64_t v_dim = args.v.dim(2);
  const std::int64_t source = core::key_head(h, args.v.dim(1) / args.k.dim(1));
  const std::int32_t slot = args.rows.slot[row];
  std::vector<double> s(static_cast<std::size_t>(v_dim * k_dim), 0.0);
  const auto cell = [&](std::int64_t v, std::int64_t k) -> double& {
    return s[static_cast<std::size_t>(v * k_dim + k)];
  };
  for (std::int64_t v = 0; v < v_dim && args.rows.computed[row] > 0; ++v) {
    for (std::int64_t k = 0; k < k_dim; ++k) cell(v, k) = load(args.state, slot, h, v, k);
  }
  const auto store_state = [&](std::int32_t to) {
    for (std::int64_t v = 0; v < v_dim && to != kPadIndex; ++v) {
      for (std::int64_t k = 0; k < k_dim; ++k) store(args.state, cell(v, k), to, h, v, k);
    }
  };
  for (std::int64_t i = 0; i < args.rows.length[row]; ++i) {
    const std::int64_t t = args.rows.start[row] + i;
    const auto q = head_of(args.q, t, source, args.qk_l2norm, static_cast<double>(args.scale));
    const auto key = head_of(args.k, t, source, args.qk_l2norm, 1.0);
    const auto decay = [&](std::int64_t channel) {
      const std::int64_t c = args.log_decay.rank == 3 ? channel : 0;
      return std::exp(core::clamp_log_decay(load(args.log_decay, t, h, c)));
    };
    const double beta = load(args.beta, t, h);
    for (std::int64_t v = 0; v < v_dim; ++v) {
      double recalled = 0;
      for (std::int64_t k = 0; k < k_dim; ++k) {
        cell(v, k) *= decay(k);
        recalled += cell(v, k) * key[static_cast<std::size_t>(k)];
      }
      const double u = beta * (load(args.v, t, h, v) - recalled);
      double o = 0;
      for (std::int64_t k = 0; k < k_dim; ++k) {
        cell(v, k) += u * key[static_cast<std::size_t>(k)];
        o += cell(v, k) * q[static_cast<std::size_t>(k)];
      }
      store(args.out, o, t, h, v);
    }
    store_state(checkpoint_slot(args.checkpoints, row, i + 1));
  }
  store_state(slot);
}

}  // namespace

void gdn_recurrence(const GdnArgs& args) {
  for (std::int32_t row = 0; row < args.rows.count; ++row) {
    if (args.rows.length[row] == 0) continue;
    for (std::int64_t h = 0; h < args.v.dim(1); ++h) {
      if (args.rows.slot[row] != kPadIndex) {
        run_head(args, row, h);
        continue;
      }
      for (std::int32_t i = 0; i < args.rows.length[row]; ++i) {
        for (std::int64_t v = 0; v < args.v.dim(2); ++v) {
          store(args.out, 0, args.rows.start[row] + i, h, v);
        }
      }
    }
  }
}

}  // namespace hybridattn::reference
