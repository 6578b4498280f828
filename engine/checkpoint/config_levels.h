// The two levels of a config: the file's own fields, and those of the text model below text_config.
#pragma once

#include "engine/checkpoint/config_fields.h"

namespace hybridattn::engine {

/// The same object twice when the file is flat.
struct Levels {
  ConfigFields top;
  ConfigFields text;
  bool nested = false;
};

/// data_loss where a nested file describes the text model at its top: with another value than
/// text_config has, or with one that only stands there, which no reader of text_config would see.
Status check_levels(const Levels& levels);

}  // namespace hybridattn::engine
