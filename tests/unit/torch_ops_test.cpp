// The rules of operators and of the autograd engine, one small program each. A program is written
// down as its allocations and frees: "+0:4096" allocates buffer 0, "-0" frees it.
#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "sim/device/gpu_description.hpp"
#include "workloads/torch/checkpoint.hpp"
#include "workloads/torch/kernels.hpp"
#include "workloads/torch/module.hpp"
#include "workloads/torch/op_graph.hpp"
#include "workloads/torch/optim.hpp"

namespace peakcast::torch {
namespace {

/// A runtime with an empty trace, in scope.
class OnDevice : public ::testing::Test {
 protected:
  /// What happened since the last call.
  std::string events() {
    std::string text;
    for (; seen_ < trace_.ops.size(); ++seen_) {
      const Op& op = trace_.ops[seen_];
      if (op.kind == OpKind::allocate) {
        numbers_[op.id] = next_++;
        text += "+" + std::to_string(numbers_[op.id]) + ":" + std::to_string(op.value) + " ";
      } else if (op.kind == OpKind::free) {
        text += "-" + std::to_string(numbers_[op.id]) + " ";
      }
    }
    if (!text.empty()) {
      text.pop_back();
    }
    return text;
  }
  Tensor parameter(const Shape& sizes) {
    Tensor made = empty(sizes, Dtype::float32);
    made.set_requires_grad(true);
    return made;
  }
  ~OnDevice() override { runtime_.end(); }

  Trace trace_{};
  Runtime runtime_{trace_, {.gpu = traits_of(reference_gpu())}};
  RuntimeScope scope_{runtime_};

 private:
  std::size_t seen_{};
  std::map<std::uint32_t, int> numbers_{};
  int next_{};
};

/// What happened to host memory, with its size in KiB, and to the device's address space.
std::string host_events(const Trace& trace, std::size_t from = 0) {
  std::string text;
  for (std::size_t i = from; i < trace.ops.size(); ++i) {
    const Op& op = trace.ops[i];
    if (op.kind == OpKind::host_allocate) {
      text += "+" + std::to_string(op.id) + ":" + std::to_string(op.value >> 10) + " ";
    } else if (op.kind == OpKind::host_free) {
      text += "-" + std::to_string(op.id) + " ";
    } else if (op.kind == OpKind::driver_memory) {
      text += "driver:" + std::to_string(op.value >> 10) + " ";
    } else if (op.kind == OpKind::local_memory) {
      text += "local:" + std::to_string(op.value) + " ";
    } else if (op.kind == OpKind::allocate) {
      text += "device ";
    }
  }
  return text;
}

TEST_F(OnDevice, AModelIsBuiltOnTheHostAndItsTensorsGoOneByOne) {
  struct Model : Module {
    Model()
        : Module{nullptr, ""},
          first{this, "first", 256, 256},  // 256 KiB; the bias is too small to be mapped
          second{this, "second", 256, 512, false} {}
    Linear first;
    Linear second;
  } model;
  EXPECT_EQ(host_events(trace_), "+0:256 +1:512 ");
  std::size_t seen = trace_.ops.size();
  model.second.weight = model.first.weight;  // tied: what it had is dropped
  model.second.own_parameters[0].tensor = model.first.weight;
  EXPECT_EQ(host_events(trace_, seen), "-1 ");
  seen = trace_.ops.size();
  model.to(Dtype::bfloat16);  // the copy is there before the original goes
  EXPECT_EQ(host_events(trace_, seen), "+1:128 -0 ");
  seen = trace_.ops.size();
  model.to(Dtype::bfloat16);
  EXPECT_EQ(host_events(trace_, seen), "");
  model.to_cuda();  // weight, bias
  EXPECT_EQ(host_events(trace_, seen), "device -1 device ");
}

TEST_F(OnDevice, FirstKernelsHaveTheDriverTakeMemory) {
  const Tensor x = empty({64, 64}, Dtype::float32);
  const Tensor a = x + x;
  const Tensor b = a + x;
  EXPECT_EQ(host_events(trace_), "device device local:1792 driver:2048 device ");
  const std::size_t seen = trace_.ops.size();
  const Tensor table = empty({8, 64}, Dtype::float32);
  const Tensor c = embedding(table, empty({4}, Dtype::int64));
  const Tensor d = embedding(table, empty({4}, Dtype::int64));
  EXPECT_EQ(host_events(trace_, seen), "device device device driver:10240 device device ");
}

TEST_F(OnDevice, ViewsShareTheStorageAndKeepItAlive) {
  Tensor whole = empty({4, 8}, Dtype::float32);
  Tensor row = whole.select(0, 1);
  EXPECT_EQ(events(), "+0:128");
  whole.reset();
  EXPECT_EQ(events(), "");
  row.reset();
  EXPECT_EQ(events(), "-0");
}

TEST_F(OnDevice, AnUnnamedArgumentDiesWhenTheOperatorReturns) {
  const Tensor x = empty({8}, Dtype::float32);
  const Tensor y = empty({8}, Dtype::float32);
  EXPECT_EQ(events(), "+0:32 +1:32");
  // The product is gone before the sum's caller goes on, but alive while the sum is made.
  const Tensor z = torch::tanh(x * y) + y;
  EXPECT_EQ(events(), "+2:32 +3:32 -2 +4:32 -3");
}

TEST_F(OnDevice, AFramesNamesGoInTheOrderInWhichTheyWereAdded) {
  {
    Locals locals;
    Tensor& first = locals.add();
    Tensor& second = locals.add();
    second = empty({1}, Dtype::float32);
    first = empty({1}, Dtype::float32);
  }
  EXPECT_EQ(events(), "+0:4 +1:4 -1 -0");
}

TEST_F(OnDevice, ReshapeCopiesOnlyWhatCannotBeViewed) {
  const Tensor x = empty({2, 3, 4}, Dtype::float32);
  EXPECT_EQ(events(), "+0:96");
  const Tensor flat = x.reshape({6, 4});
  EXPECT_EQ(events(), "");
  const Tensor folded = x.transpose(0, 1).reshape({6, 4});
  EXPECT_EQ(events(), "+1:96");
}

TEST_F(OnDevice, ElementwiseResultsFollowTheOperandsStrides) {
  const Tensor x = empty({2, 3, 4}, Dtype::float32).transpose(1, 2);
  const Tensor y = x * 2.0;
  EXPECT_EQ(y.strides(), (Shape{12, 1, 4}));
}

TEST_F(OnDevice, PromotionPutsNumbersAndScalarsBelowTensors) {
  const Tensor half = empty({2}, Dtype::bfloat16);
  const Tensor scalar = empty({}, Dtype::float32);
  const Tensor full = empty({2}, Dtype::float32);
  EXPECT_EQ(result_type(half, number(2.0)), Dtype::bfloat16);
  EXPECT_EQ(result_type(half, scalar), Dtype::bfloat16);
  EXPECT_EQ(result_type(half, full), Dtype::float32);
  EXPECT_EQ(result_type(empty({2}, Dtype::int64), number(1.5)), Dtype::float32);
}

// Workspaces: 32 MiB for cuBLAS on compute capability 9.0, after the first product's output.
TEST_F(OnDevice, TheFirstProductOfAThreadMakesItsWorkspaceAfterTheOutput) {
  const Tensor a = empty({8, 8}, Dtype::float32);
  const Tensor b = empty({8, 8}, Dtype::float32);
  events();
  const Tensor first = mm(a, b);
  EXPECT_EQ(events(), "+2:256 +3:33554432");
  const Tensor second = mm(a, b);
  EXPECT_EQ(events(), "+4:256");
}

TEST_F(OnDevice, ABiasedLinearAlsoMakesTheLtWorkspace) {
  const Tensor x = empty({2, 4, 8}, Dtype::float32);
  const Tensor weight = empty({16, 8}, Dtype::float32);
  const Tensor bias = empty({16}, Dtype::float32);
  events();
  const Tensor out = linear(x, weight, bias);
  EXPECT_EQ(events(), "+3:512 +4:33554432 +5:1048576");
}

// addmm's gradients come in the order mat1, mat2, bias; mm's in the order mat2, self.
TEST_F(OnDevice, GradientsComeInTheAlphabeticalOrderOfTheFormulas) {
  const Tensor x = parameter({4, 8});
  const Tensor weight = parameter({16, 8});
  Tensor out = linear(x, weight, Tensor{});
  events();
  Tensor grad = empty({4, 16}, Dtype::float32);
  backward(out, grad);
  // weight's [16, 8] with the backward thread's workspace, then x's [4, 8]; both are stolen
  EXPECT_EQ(events(), "+4:256 +5:512 +6:33554432 +7:128");
  EXPECT_TRUE(weight.grad().defined());
}

TEST_F(OnDevice, AGradientIsStolenWhenNobodyElseHoldsItAndAddedInPlaceLater) {
  const Tensor w = parameter({8});
  Tensor loss = w * 2.0;
  events();
  backward(loss);
  EXPECT_EQ(events(), "+2:32 +3:32 -2");  // ones, the gradient; ones go when backward returns
  loss = w * 2.0;
  backward(loss);
  EXPECT_EQ(events(), "+4:32 -1 +5:32 +6:32 -6 -5");
}

TEST_F(OnDevice, AGradientThatTheCallerHoldsIsCloned) {
  const Tensor w = parameter({8});
  Tensor loss = w + 1.0;  // hands its gradient through
  const Tensor grad = empty({8}, Dtype::float32);
  events();
  backward(loss, grad);
  EXPECT_EQ(events(), "+3:32");
  EXPECT_FALSE(w.grad().is_same(grad));
}

// Two uses of x, the later one first: its gradient is fresh, so the other is added in place.
TEST_F(OnDevice, AFreshGradientIsMergedInPlace) {
  const Tensor x = parameter({8}) * 1.0;
  const Tensor sum = torch::tanh(x) + torch::tanh(x);
  events();
  backward(sum);
  const std::string text = events();
  EXPECT_EQ(text.find("+5:32 "), 0U);                               // ones
  EXPECT_EQ(std::count(text.begin(), text.end(), '+'), 4) << text;  // ones, tanh twice, the product
}

// A gradient that came out of a view does not qualify: the sum is a third tensor.
TEST_F(OnDevice, AGradientFromAViewIsMergedIntoANewTensor) {
  const Tensor x = parameter({4, 8}) * 1.0;
  const Tensor first = torch::tanh(x.view({32}));
  const Tensor second = torch::tanh(x.view({32}));
  const Tensor sum = first + second;
  events();
  backward(sum);
  const std::string text = events();
  EXPECT_EQ(std::count(text.begin(), text.end(), '+'), 5) << text;
}

TEST_F(OnDevice, BroadcastGradientsAreReducedAfterTheNodeHasReturned) {
  const Tensor x = parameter({4, 8});
  const Tensor bias = parameter({8});
  const Tensor out = x + bias;
  events();
  backward(out);
  EXPECT_EQ(events(), "+3:128 +4:32 +5:128 -3");  // ones, the bias's sum, a clone for x
}

TEST_F(OnDevice, SavedTensorsGoAfterTheGradientsTheyMade) {
  const Tensor w = parameter({8});
  Tensor loss;
  {
    const Tensor hidden = w * 1.0;
    loss = torch::gelu(hidden);
  }
  EXPECT_EQ(events(), "+0:32 +1:32 +2:32");
  backward(loss);
  EXPECT_EQ(events(), "+3:32 +4:32 -1 +5:32 -4 -3");
}

TEST_F(OnDevice, DropoutMakesItsMaskFirst) {
  const Tensor x = empty({8}, Dtype::float32);
  events();
  const Tensor out = dropout(x, 0.1, true);
  EXPECT_EQ(events(), "+1:8 +2:32 -1");
  EXPECT_TRUE(dropout(x, 0.0, true).is_same(x));
}

TEST_F(OnDevice, EmbeddingGradientsOfManyIndicesAreSortedFirst) {
  const Tensor weight = parameter({2, 8});
  const Tensor few = empty({3072}, Dtype::int64);
  const Tensor many = empty({3073}, Dtype::int64);
  Tensor out = embedding(weight, few);
  events();
  backward(out, empty_like(out));
  std::string text = events();
  EXPECT_EQ(std::count(text.begin(), text.end(), '+'), 2) << text;
  out = embedding(weight, many);
  events();
  backward(out, empty_like(out));
  text = events();
  EXPECT_GT(std::count(text.begin(), text.end(), '+'), 10) << text;
}

TEST_F(OnDevice, AutocastCastsAWeightOnceAndAnActivationAtEveryUse) {
  const Tensor weight = parameter({8, 8});
  const Tensor x = parameter({4, 8}) * 1.0;
  events();
  Tensor first;
  Tensor second;
  {
    const AutocastScope autocast{true, Dtype::bfloat16};
    first = linear(x, weight, Tensor{});
    EXPECT_EQ(events(), "+3:128 +4:64 +5:64 +6:33554432");  // weight, then x: arguments backwards
    second = linear(x, weight, Tensor{});
    EXPECT_EQ(events(), "+7:64 +8:64");
  }
  EXPECT_EQ(events(), "");  // the products saved the weight's copy
}

TEST_F(OnDevice, CheckpointKeepsInputsAndMakesTheRestAgain) {
  const auto layer = [](const TensorList& inputs) { return torch::gelu(torch::tanh(inputs[0])); };
  for (const bool reentrant : {false, true}) {
    const Tensor x = parameter({8}) * 1.0;
    events();
    const Tensor out = checkpoint(layer, {x}, reentrant);
    std::string text = events();
    EXPECT_EQ(std::count(text.begin(), text.end(), '+'), 2) << text;  // tanh dies, gelu stays
    EXPECT_EQ(std::count(text.begin(), text.end(), '-'), 1) << text;
    backward(out);
    text = events();  // ones, tanh and (reentrant) gelu again, two gradients, and one for the leaf
    EXPECT_EQ(std::count(text.begin(), text.end(), '+'), reentrant ? 6 : 5) << text;
  }
}

TEST_F(OnDevice, AnOptimizersStateAppearsInTheFirstStep) {
  const Tensor w = parameter({8});
  w->grad = empty({8}, Dtype::float32).ref();
  auto optimizer = make_optimizer(OptimizerKind::adamw, {w});
  EXPECT_EQ(events(), "+0:32 +1:32");
  optimizer->step();
  EXPECT_EQ(events(), "+2:32 +3:32 +4:32 -4");  // two moments, the list of roots
  optimizer->step();
  EXPECT_EQ(events(), "+5:32 -5");
  optimizer->zero_grad();
  EXPECT_EQ(events(), "-1");
}

TEST_F(OnDevice, ParametersMoveChildrenFirstAndAreListedParentFirst) {
  struct Parent : Module {
    Parent() : Module{nullptr, ""}, child{this, "child", 4, 4, false} {
      own = add_parameter("own", {2});
    }
    Linear child;
    Tensor own;
  } parent;
  parent.to_cuda();
  EXPECT_EQ(events(), "+0:64 +1:8");
  const auto named = parent.named_parameters();
  ASSERT_EQ(named.size(), 2U);
  EXPECT_EQ(named[0].name, "own");
}

TEST_F(OnDevice, EventsSayWhichStreamABufferIsOn) {
  const StreamId side = runtime_.make_stream();
  Tensor buffer;
  {
    const StreamGuard on{side};
    buffer = empty({8}, Dtype::float32);
  }
  buffer.record_stream(StreamId{0});
  buffer.reset();
  ASSERT_EQ(trace_.ops.size(), 3U);
  EXPECT_EQ(trace_.ops[0].stream, side.value);
  EXPECT_EQ(trace_.ops[1].kind, OpKind::record_stream);
  EXPECT_EQ(trace_.ops[2].stream, side.value);
}

// -- scratch --------------------------------------------------------------------------------------

// A column sum of [4096, 1024] fp32 on 132 multiprocessors: 128 threads a block (32 by 4, four
// columns each), 8 blocks across, 64 down; every thread writes its four partial sums.
TEST(ReductionScratch, OfATallColumnSumIsOnePartialPerThread) {
  const ReductionScratch scratch =
      reduction_scratch({{4096, 1024}, {1024, 1}, {true, false}, 4, 4}, traits_of(reference_gpu()));
  EXPECT_EQ(scratch.partials, Bytes{std::int64_t{4} * 1024 * 64 * 32 * 4});
  EXPECT_EQ(scratch.semaphores, Bytes{std::int64_t{4} * 8});
}
TEST(ReductionScratch, IsNothingForShortSums) {
  EXPECT_EQ(
      reduction_scratch({{64, 1024}, {1024, 1}, {true, false}, 4, 4}, traits_of(reference_gpu()))
          .partials,
      Bytes{});
  EXPECT_EQ(reduction_scratch({{4096, 1024}, {1024, 1}, {false, true}, 4, 4}, {}).partials,
            Bytes{});
}
TEST(RadixSortScratch, IsOneByteForWhatOneBlockSorts) {
  EXPECT_EQ(radix_sort_scratch(2304, 8, 8), Bytes{1});
  // bins 16384, look-back 1024 a tile of 4608, both other halves, counters 256, alignment
  EXPECT_EQ(radix_sort_scratch(4096, 8, 8), Bytes{16384 + 1024 + 2 * 8 * 4096 + 256 + 255});
}

TEST(OpGraph, ShowsOpsBuffersAndWhatIsSaved) {
  Trace trace;
  Runtime runtime{trace, {.gpu = traits_of(reference_gpu()), .record_graph = true}};
  const RuntimeScope scope{runtime};
  Tensor x = empty({8}, Dtype::float32);
  x.set_requires_grad(true);
  const Tensor out = torch::gelu(x * 2.0);
  runtime.end();
  const auto graph = runtime.take_graph();
  std::size_t ops = 0;
  std::size_t saved = 0;
  for (std::size_t v = 0; v < boost::num_vertices(graph->graph()); ++v) {
    ops += graph->graph()[v].kind == OpGraph::Kind::op ? 1U : 0U;
    saved += graph->graph()[v].saved ? 1U : 0U;
  }
  EXPECT_EQ(ops, 2U);
  EXPECT_GE(saved, 1U);
}

}  // namespace
}  // namespace peakcast::torch
