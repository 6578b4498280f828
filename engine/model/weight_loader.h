// WeightLoader: takes tensors out of a checkpoint by name and shape, each once.
#pragma once

#include <initializer_list>
#include <set>
#include <string>

#include "engine/model/weights.h"

namespace hybridattn::engine {

class WeightLoader {
 public:
  WeightLoader(ModelWeights& weights, const LoadProgress& progress);

  using Shape = std::initializer_list<std::int64_t>;

  bool has(const std::string& name) const { return checkpoint_.find(name) != nullptr; }
  /// A matrix in place. Errors: not_found, data_loss (shape), unsupported (dtype),
  /// failed_precondition for a name taken before.
  Result<ConstTensorView> matrix(const std::string& name, Shape shape);
  /// A float32 copy.
  Result<ConstTensorView> floats(const std::string& name, Shape shape);
  /// A copy of a matrix [sum of rows, columns] with its rows in another order: row i of the copy is
  /// row order[i] of the tensor. The mapped original is dropped from memory.
  Result<ConstTensorView> reordered(const std::string& name, const std::vector<std::int64_t>& order,
                                    std::int64_t columns);
  /// Errors: data_loss, naming a tensor that nobody took and nobody may skip.
  Status check_leftovers() const;

 private:
  Result<const StoredTensor*> take(const std::string& name, Shape shape);
  std::byte* make_copy(std::int64_t bytes);

  ModelWeights& weights_;
  const Checkpoint& checkpoint_;
  const LoadProgress& progress_;
  std::set<std::string> taken_;
  std::int64_t total_ = 0;
  std::int64_t done_ = 0;
};

}  // namespace hybridattn::engine
