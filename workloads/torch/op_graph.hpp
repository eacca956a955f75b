#pragma once

#include <cstdint>
#include <iosfwd>
#include <string>

#include <boost/graph/adjacency_list.hpp>

#include "workloads/torch/tensor.hpp"

namespace peakcast::torch {

/// The ops of a forward pass and the buffers between them, as they ran. Vertices are numbered in
/// the order in which ops began and buffers appeared, so every walk has one order. The backward
/// pass is not in it: the autograd engine derives that.
class OpGraph {
 public:
  enum class Kind : std::uint8_t { op, buffer };
  struct Vertex {
    Kind kind{};
    std::string name{};    ///< an op's name; of a buffer, sizes and type of the tensor seen first
    std::int64_t bytes{};  ///< a buffer's size, or what an op's kernels read and write
    std::int64_t flops{};  ///< ops only; an element of an elementwise op counts one
    bool saved{};          ///< buffers only: kept by autograd for the backward pass
  };
  using Graph = boost::adjacency_list<boost::vecS, boost::vecS, boost::directedS, Vertex>;

  [[nodiscard]] const Graph& graph() const { return graph_; }
  /// In dot's language; ops are boxes with their work, buffers ellipses, saved buffers filled.
  void write_graphviz(std::ostream& out) const;

  /// Called while the forward runs. begin_op returns what end_op puts back.
  std::uint32_t begin_op(const char* name);
  void end_op(std::uint32_t before);
  void add_input(const Tensor& tensor);
  void on_allocate(Storage& storage);
  void on_launch(std::int64_t flops, std::int64_t bytes);
  void on_save(const Tensor& tensor);

 private:
  std::uint32_t vertex_of(Storage& storage);
  Graph graph_{};
  std::uint32_t op_{};  ///< the op that runs, plus one; 0: none
};

}  // namespace peakcast::torch
