// Trace::write_chrome: what it writes is JSON in the form that trace viewers read.
#include <locale>
#include <sstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "hybridattn/trace.h"

namespace hybridattn::engine {
namespace {

using nlohmann::json;

std::string name_in(const TraceEvent& event) {
  auto trace = std::move(*Trace::create(1));
  trace->record(event);
  std::ostringstream out;
  trace->write_chrome(out);
  return json::parse(out.str()).at("traceEvents").at(0).at("name");
}

TraceEvent named(std::string_view name) {
  TraceEvent event;
  name.copy(event.name, TraceEvent::kMaxName);
  return event;
}

/// A locale that writes 1.234,5 and would spoil the JSON.
class Grouping final : public std::numpunct<char> {
 protected:
  char do_decimal_point() const override { return ','; }
  char do_thousands_sep() const override { return '.'; }
  std::string do_grouping() const override { return "\3"; }
};

TEST(TraceChrome, CompleteEventsInMicroseconds) {
  auto trace = std::move(*Trace::create(2));
  TraceEvent event = named("attention");
  trace->record(event);  // dropped
  event.start_ns = 1234567;
  event.duration_ns = 5;
  event.workers = 2;
  event.context = 1;
  trace->record(event);
  event.start_ns = 9'000'000'000'000'001;
  event.duration_ns = 1'000'000'050;
  trace->record(event);
  std::ostringstream out;
  out.imbue(std::locale(std::locale::classic(), new Grouping));
  trace->write_chrome(out);
  EXPECT_NE(out.str().find("\"ts\":1234.567,\"dur\":0.005,"), std::string::npos) << out.str();
  EXPECT_NE(out.str().find("\"ts\":9000000000000.001,\"dur\":1000000.050,"), std::string::npos);
  const json root = json::parse(out.str());
  EXPECT_EQ(root.at("otherData").at("dropped"), 1);
  ASSERT_EQ(root.at("traceEvents").size(), 2u);
  const json& first = root["traceEvents"][0];
  EXPECT_EQ(first.at("name"), "attention");
  EXPECT_EQ(first.at("ph"), "X");
  EXPECT_TRUE(first.at("pid").is_number_integer());
  EXPECT_EQ(first.at("tid"), 1);
  EXPECT_EQ(first.at("args").at("workers"), 2);
}

TEST(TraceChrome, AnyNameIsLegalJson) {
  EXPECT_EQ(name_in(named("a \"b\" \\ c")), "a \"b\" \\ c");
  EXPECT_EQ(name_in(named("tab\tnul\x01 \xc3\xa9 \xff~")), "tab?nul? ?? ?~");
  EXPECT_EQ(name_in(named("")), "");
  EXPECT_EQ(name_in(named(std::string(100, 'x'))), std::string(TraceEvent::kMaxName, 'x'));
}

TEST(TraceChrome, AnEmptyTraceIsATraceToo) {
  std::ostringstream out;
  (*Trace::create(3))->write_chrome(out);
  EXPECT_EQ(json::parse(out.str()).at("traceEvents"), json::array());
}

}  // namespace
}  // namespace hybridattn::engine
