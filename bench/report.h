// What a benchmark prints: a table to read, or a line of JSON for each row.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

namespace hybridattn::bench {

/// One figure of a row.
struct Field {
  Field(const char* field, const std::string& word);
  Field(const char* field, std::int64_t count);
  /// `digits` behind the point in the table; JSON has six significant ones.
  Field(const char* field, double value, int digits);

  const char* name;
  std::string table, json;
};

class Report {
 public:
  explicit Report(bool as_json) : json_(as_json) {}
  /// Prints a row, above it the names of its fields where the row before had others.
  void row(std::initializer_list<Field> fields);

 private:
  bool json_;
  std::string names_;
};

}  // namespace hybridattn::bench
