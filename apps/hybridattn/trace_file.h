// The option --trace: records a run and writes it when the run has ended.
#pragma once

#include <fstream>
#include <memory>
#include <string>

#include "hybridattn/trace.h"

namespace hybridattn::app {

class TraceFile {
 public:
  /// Opens the file at once, so that a path that cannot be written costs no run; "" = no trace.
  /// Errors: data_loss with the system's reason; resource_exhausted.
  static Result<TraceFile> open(const std::string& path);

  /// What the engine's context gets; nullptr without the option. It must outlive the engine.
  Trace* trace() const { return trace_.get(); }

  /// Writes the file, and a table of the ops on standard error. Errors: data_loss.
  Status finish();

 private:
  std::string path_;
  std::ofstream file_;
  std::unique_ptr<Trace> trace_;
};

}  // namespace hybridattn::app
