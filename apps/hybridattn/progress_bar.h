// A bar on standard error, shown only when that is a terminal.
#pragma once

#include <string>

namespace hybridattn::app {

class ProgressBar {
 public:
  explicit ProgressBar(std::string label);
  /// Removes the bar.
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  /// `share` in [0, 1]; draws only when the picture changes.
  void update(double share);

 private:
  std::string label_;
  bool shown_;
  int drawn_ = -1;
};

}  // namespace hybridattn::app
