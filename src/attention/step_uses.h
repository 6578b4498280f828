// Which row of a step uses which page or slot.
#pragma once

#include <cstdint>
#include <vector>

namespace hybridattn::backend {

/// Made once for all ids there are; a new step costs nothing and allocates nothing.
class StepUses {
 public:
  struct Use {
    std::uint64_t step = 0;
    std::int32_t row = 0;
    bool written = false;
  };

  void begin(std::int64_t num_ids) {
    if (uses_.size() < static_cast<std::size_t>(num_ids)) {
      uses_.resize(static_cast<std::size_t>(num_ids));
    }
    ++step_;
  }
  /// The first use of `id` in this step, or nullptr when this is the first.
  const Use* add(std::int32_t id, std::int32_t row, bool written) {
    Use& use = uses_[static_cast<std::size_t>(id)];
    if (use.step == step_) return &use;
    use = {step_, row, written};
    return nullptr;
  }

 private:
  std::vector<Use> uses_;
  std::uint64_t step_ = 0;
};

}  // namespace hybridattn::backend
