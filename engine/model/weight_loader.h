// WeightLoader: takes tensors out of a checkpoint by name and shape, each once.
#pragma once

#include <initializer_list>
#include <set>
#include <string>

#include "engine/model/weights.h"

namespace hybridattn::engine {

class WeightLoader {
 public:
  /// `executor` may be null.
  WeightLoader(ModelWeights& weights, const LoadProgress& progress, Executor* executor);

  using Shape = std::initializer_list<std::int64_t>;

  bool has(const std::string& name) const { return checkpoint_.find(name) != nullptr; }
  /// A matrix in place. Errors: not_found, data_loss (shape), unsupported (dtype),
  /// failed_precondition for a name taken before.
  Result<ConstTensorView> stored(const std::string& name, Shape shape);
  /// A matrix of products, in place or in eight bits: then the mapped original is dropped from
  /// memory. `parts`: how many matrices of products its rows are. Errors: the same.
  Result<WeightMatrix> matrix(const std::string& name, Shape shape, std::int64_t parts = 1);
  /// What products are to read of a matrix that is taken as `name` and stays: itself, or a copy.
  WeightMatrix product_form(const std::string& name, const ConstTensorView& matrix);
  /// A float32 copy.
  Result<ConstTensorView> floats(const std::string& name, Shape shape);
  /// A copy of a matrix [sum of rows, columns] with its rows in another order: row i of the copy is
  /// row order[i] of the tensor; in eight bits where it is one `of_products`. The mapped original
  /// is dropped from memory.
  Result<WeightMatrix> reordered(const std::string& name, const std::vector<std::int64_t>& order,
                                 std::int64_t columns, bool of_products);
  /// Errors: data_loss, naming a tensor that nobody took and nobody may skip.
  Status check_leftovers() const;

 private:
  Result<const StoredTensor*> take(const std::string& name, Shape shape);
  bool rounds(const ConstTensorView& matrix, std::int64_t parts = 1) const;
  WeightMatrix make_int8(const ConstTensorView& matrix);
  std::byte* make_copy(std::int64_t bytes);

  ModelWeights& weights_;
  const Checkpoint& checkpoint_;
  const LoadProgress& progress_;
  Executor* executor_;
  std::set<std::string> taken_;
  std::int64_t total_ = 0;
  std::int64_t done_ = 0;
};

}  // namespace hybridattn::engine
