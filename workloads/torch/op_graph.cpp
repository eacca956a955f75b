#include "workloads/torch/op_graph.hpp"

#include <ostream>
#include <utility>

#include <fmt/format.h>

namespace peakcast::torch {

std::uint32_t OpGraph::begin_op(const char* name) {
  const auto vertex = boost::add_vertex(Vertex{Kind::op, name, 0, 0, false}, graph_);
  return std::exchange(op_, static_cast<std::uint32_t>(vertex) + 1);
}

void OpGraph::end_op(std::uint32_t before) { op_ = before; }

std::uint32_t OpGraph::vertex_of(Storage& storage) {
  if (storage.graph_vertex == 0) {
    const auto vertex =
        boost::add_vertex(Vertex{Kind::buffer, "", storage.size().count(), 0, false}, graph_);
    storage.graph_vertex = static_cast<std::uint32_t>(vertex) + 1;
  }
  return storage.graph_vertex - 1;
}

void OpGraph::add_input(const Tensor& tensor) {
  const std::uint32_t buffer = vertex_of(*tensor.storage());
  if (graph_[buffer].name.empty()) {
    std::string text{to_string(tensor.dtype())};
    text += " [";
    for (std::size_t i = 0; i < tensor.sizes().size(); ++i) {
      text += fmt::format("{}{}", i == 0 ? "" : ", ", tensor.sizes()[i]);
    }
    graph_[buffer].name = text + "]";
  }
  boost::add_edge(buffer, op_ - 1, graph_);
}

void OpGraph::on_allocate(Storage& storage) {
  storage.graph_vertex = 0;
  const std::uint32_t buffer = vertex_of(storage);
  if (op_ != 0) {
    boost::add_edge(op_ - 1, buffer, graph_);
  }
}

void OpGraph::on_launch(std::int64_t flops, std::int64_t bytes) {
  if (op_ != 0) {
    graph_[op_ - 1].flops += flops;
    graph_[op_ - 1].bytes += bytes;
  }
}

void OpGraph::on_save(const Tensor& tensor) { graph_[vertex_of(*tensor.storage())].saved = true; }

void OpGraph::write_graphviz(std::ostream& out) const {
  out << "digraph forward {\n  rankdir=TB;\n";
  for (std::size_t v = 0; v < boost::num_vertices(graph_); ++v) {
    const Vertex& vertex = graph_[v];
    if (vertex.kind == Kind::op) {
      out << fmt::format("  n{} [shape=box, label=\"{}\\n{} FLOP, {} B moved\"];\n", v, vertex.name,
                         vertex.flops, vertex.bytes);
    } else {
      out << fmt::format("  n{} [shape=ellipse{}, label=\"{}\\n{} B\"];\n", v,
                         vertex.saved ? ", style=filled" : "", vertex.name, vertex.bytes);
    }
  }
  for (std::size_t v = 0; v < boost::num_vertices(graph_); ++v) {
    const auto [begin, end] = boost::adjacent_vertices(v, graph_);
    for (auto to = begin; to != end; ++to) {
      out << fmt::format("  n{} -> n{};\n", v, *to);
    }
  }
  out << "}\n";
}

}  // namespace peakcast::torch
