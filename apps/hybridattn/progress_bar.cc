#include "apps/hybridattn/progress_bar.h"

#include <unistd.h>

#include <cstdio>

namespace hybridattn::app {

ProgressBar::ProgressBar(std::string label) : label_(std::move(label)), shown_(isatty(2) == 1) {}

ProgressBar::~ProgressBar() {
  if (drawn_ >= 0) std::fprintf(stderr, "\r\033[K");
}

void ProgressBar::update(double share) {
  constexpr int kWidth = 30;
  const int percent = static_cast<int>(share * 100);
  if (!shown_ || percent == drawn_) return;
  drawn_ = percent;
  const int full = percent * kWidth / 100;
  const std::string bar = std::string(static_cast<std::size_t>(full), '#') +
                          std::string(static_cast<std::size_t>(kWidth - full), '.');
  std::fprintf(stderr, "\r%s [%s] %3d %%", label_.c_str(), bar.c_str(), percent);
  std::fflush(stderr);
}

}  // namespace hybridattn::app
