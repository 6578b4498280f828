// Rope settings of a config, wherever they stand.
#pragma once

#include "engine/checkpoint/config_fields.h"
#include "engine/checkpoint/model_config.h"

namespace hybridattn::engine {

/// Sets rope_theta and rotary_dim; head_dim must be set. Each may stand in `rope_parameters`, in
/// `rope_scaling` (its older form) and flat (older still), and must be the same wherever it does.
/// Errors: data_loss; unsupported for a scaled rope.
Status read_rope(const ConfigFields& text, ModelConfig& config);

}  // namespace hybridattn::engine
