#include "engine/checkpoint/config_rope.h"

#include <algorithm>
#include <iterator>
#include <vector>

#include "engine/checkpoint/config_refusals.h"
#include "engine/checkpoint/json_document.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::engine {
namespace {

using nlohmann::json;
using Sections = std::vector<ConfigFields>;

/// Keys of a section that are read, and the two of multimodal models: of text, each token has one
/// position, so whichever of the equal angles they choose is right.
constexpr std::string_view kKnownKeys[] = {"rope_type",     "type",
                                           "rope_theta",    "partial_rotary_factor",
                                           "mrope_section", "mrope_interleaved"};
constexpr const char* kFactors[] = {"factor", "attention_factor"};

/// What is not known may be a scaling's parameter, which a `default` beside it doesn't explain
/// away.
Status check_key(const ConfigFields& section, const std::string& key, const json& value) {
  const auto is = [&](std::string_view known) { return known == key; };
  // Settings for each kind of layer: no model of these families has them.
  if (value.is_object()) return section.unsupported(key, "no nested settings");
  if (std::any_of(std::begin(kKnownKeys), std::end(kKnownKeys), is)) return {};
  if (std::any_of(std::begin(kFactors), std::end(kFactors), is)) {
    return check_off(section, key, Off::kOne);
  }
  return check_off(section, key, Off::kNull);
}

Status check_section(const ConfigFields& section, const json& object) {
  HYBRIDATTN_TRY(section.require_choice("rope_type", {"default"}));
  HYBRIDATTN_TRY(section.require_choice("type", {"default"}));
  for (const auto& [key, value] : object.items()) HYBRIDATTN_TRY(check_key(section, key, value));
  return {};
}

Result<Sections> read_sections(const ConfigFields& text) {
  Sections sections;
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    if (!text.has(key)) continue;
    if (!text.at(key).is_object()) return text.wrong(key, "an object or null");
    sections.emplace_back(text.at(key), concat(text.place(), ": ", key));
    HYBRIDATTN_TRY(check_section(sections.back(), text.at(key)));
  }
  // The older form was written for scaled models alone: without a type it means some scaling.
  const json& scaling = text.at("rope_scaling");
  if (!scaling.is_null() && !scaling.contains("rope_type") && !scaling.contains("type")) {
    return text.unsupported("rope_scaling", "null, or one of type default");
  }
  sections.push_back(text);
  return sections;
}

const ConfigFields& first_having(const Sections& sections, const std::string& key) {
  for (const ConfigFields& section : sections) {
    if (section.has(key)) return section;
  }
  return sections.front();
}

/// The number that all sections agree on which have it. Readers differ in which of two they take.
Result<double> agreed_number(const Sections& sections, const std::string& key, double fallback) {
  const ConfigFields& first = first_having(sections, key);
  HYBRIDATTN_ASSIGN(const double value, first.number_or(key, fallback));
  for (const ConfigFields& section : sections) {
    HYBRIDATTN_ASSIGN(const double other, section.number_or(key, value));
    if (other == value) continue;
    return section.wrong(key, concat("the ", json_brief(first.at(key)), " of ", first.place()));
  }
  return value;
}

}  // namespace

Status read_rope(const ConfigFields& text, ModelConfig& config) {
  HYBRIDATTN_ASSIGN(const Sections sections, read_sections(text));
  HYBRIDATTN_ASSIGN(config.rope_theta, agreed_number(sections, "rope_theta", 10000.0));
  if (!(config.rope_theta > 0)) {
    return first_having(sections, "rope_theta").wrong("rope_theta", "a number above 0");
  }
  constexpr const char* kFactor = "partial_rotary_factor";
  HYBRIDATTN_ASSIGN(const double part, agreed_number(sections, kFactor, 0.25));
  const ConfigFields& factor = first_having(sections, kFactor);
  if (!(part > 0 && part <= 1)) return factor.wrong(kFactor, "a number above 0 and at most 1");
  config.rotary_dim = static_cast<std::int32_t>(config.head_dim * part);
  if (config.rotary_dim < 2 || config.rotary_dim % 2 != 0) {
    return factor.wrong(kFactor, concat("a part of head_dim = ", config.head_dim,
                                        " that is even and at least 2, not ", config.rotary_dim));
  }
  return {};
}

}  // namespace hybridattn::engine
