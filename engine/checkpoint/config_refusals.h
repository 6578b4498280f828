// Fields of other models that would change the arithmetic: this engine takes them only where they
// are off. A new one is a row in the table of config_refusals.cc.
#pragma once

#include <cstdint>
#include <string>

#include "engine/checkpoint/config_fields.h"

namespace hybridattn::engine {

/// The value that leaves the arithmetic as it is. Null, or no field, always does.
enum class Off : std::uint8_t {
  kFalse,    ///< a switch
  kTrue,     ///< a switch for what this engine always does
  kZero,     ///< a cap or a count
  kOne,      ///< a factor
  kNull,     ///< no value but null or false
  kSoftmax,  ///< how experts are scored
  kGreedy,   ///< how experts are chosen
};

/// unsupported where the field has another value than `off`.
Status check_off(const ConfigFields& fields, const std::string& key, Off off);

/// check_off of every field that is known to change the arithmetic, at one level of a config.
Status check_refusals(const ConfigFields& fields);

}  // namespace hybridattn::engine
