// WeightLoader: takes tensors out of a checkpoint by name and shape, each once.
#pragma once

#include <initializer_list>
#include <set>
#include <string>

#include "engine/model/model_shard.h"
#include "engine/model/weights.h"

namespace hybridattn::engine {

/// Shapes are those of the file; what is given back is the shard's part of it, where there is a
/// cut.
class WeightLoader {
 public:
  /// `executor` may be null.
  WeightLoader(ModelWeights& weights, const LoadProgress& progress, Executor* executor,
               const ModelShard& shard = {});

  using Shape = std::initializer_list<std::int64_t>;

  bool has(const std::string& name) const { return checkpoint_.find(name) != nullptr; }
  /// A matrix in place; a copy where a part of it is not one piece. Errors: not_found, data_loss
  /// (shape), unsupported (dtype), failed_precondition for a name taken before; invalid_argument
  /// for parts that the ranks cannot share out.
  Result<ConstTensorView> stored(const std::string& name, Shape shape, const WeightCut& cut = {});
  /// A matrix of products, in place or in eight bits: then the mapped original is dropped from
  /// memory. `parts`: how many matrices of products its rows are. Errors: the same.
  Result<WeightMatrix> matrix(const std::string& name, Shape shape, const WeightCut& cut = {},
                              std::int64_t parts = 1);
  /// What products are to read of a matrix that is taken as `name` and stays: rows of it, or a
  /// copy.
  Result<WeightMatrix> product_form(const std::string& name, const ConstTensorView& matrix,
                                    const WeightCut& cut);
  /// A float32 copy.
  Result<ConstTensorView> floats(const std::string& name, Shape shape, const WeightCut& cut = {});
  /// A copy of a matrix [sum of rows, columns] with its rows in another order: row i of the copy is
  /// row order[i] of the tensor, cut by rows of the copy; in eight bits where it is one
  /// `of_products`. The mapped original is dropped from memory.
  Result<WeightMatrix> reordered(const std::string& name, const std::vector<std::int64_t>& order,
                                 std::int64_t columns, bool of_products, const WeightCut& cut = {});
  /// Errors: data_loss, naming a tensor that nobody took and nobody may skip.
  Status check_leftovers() const;

 private:
  Result<const StoredTensor*> take(const std::string& name, Shape shape);
  bool rounds(const ConstTensorView& matrix, std::int64_t parts = 1) const;
  WeightMatrix make_int8(const ConstTensorView& matrix);
  /// The shard's part of what make_int8 gives for the whole matrix: a row keeps its scale on all
  /// ranks that have some of it.
  Result<WeightMatrix> make_int8_part(const ConstTensorView& matrix, const WeightCut& cut);
  std::byte* make_copy(std::int64_t bytes);
  bool is_whole(const WeightCut& cut) const { return shard_.whole() || cut.parts.empty(); }
  /// The shard's part of a dense tensor: a view where it is one piece, else a copy.
  Result<ConstTensorView> part_of(const ConstTensorView& whole, const WeightCut& cut);
  Result<ConstTensorView> copy_part(const ConstTensorView& whole, const WeightCut& cut);
  Result<std::vector<std::int64_t>> part_of_order(const std::vector<std::int64_t>& order,
                                                  const WeightCut& cut) const;

  ModelWeights& weights_;
  const Checkpoint& checkpoint_;
  const LoadProgress& progress_;
  Executor* executor_;
  ModelShard shard_;
  std::set<std::string> taken_;
  std::int64_t total_ = 0;
  std::int64_t done_ = 0;
};

}  // namespace hybridattn::engine
