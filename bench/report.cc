#include "bench/report.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace hybridattn::bench {
namespace {

constexpr int kLeastWidth = 6;

std::string formatted(const char* format, int digits, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, digits, value);
  return text;
}

/// Of a column, by its name alone: rows come one by one.
int width_of(const Field& field) {
  return std::max(kLeastWidth, static_cast<int>(std::strlen(field.name))) + 2;
}

}  // namespace

Field::Field(const char* field, const std::string& word)
    : name(field), table(word), json("\"" + word + "\"") {}
Field::Field(const char* field, std::int64_t count)
    : name(field), table(std::to_string(count)), json(table) {}
Field::Field(const char* field, double value, int digits)
    : name(field), table(formatted("%.*f", digits, value)), json(formatted("%.*g", 6, value)) {}

void Report::row(std::initializer_list<Field> fields) {
  std::string names, line;
  for (const Field& field : fields) {
    const int width = width_of(field);
    char cell[128];
    std::snprintf(cell, sizeof cell, " %*s", width - 1, field.name);
    names += cell;
    if (json_) {
      line += std::string(line.empty() ? "{" : ", ") + "\"" + field.name + "\": " + field.json;
    } else {
      std::snprintf(cell, sizeof cell, " %*s", width - 1, field.table.c_str());
      line += cell;
    }
  }
  if (!json_ && names != names_) std::printf("%s\n", names.c_str());
  names_ = names;
  std::printf("%s%s\n", line.c_str(), json_ ? "}" : "");
  std::fflush(stdout);
}

}  // namespace hybridattn::bench
