#include "workloads/torch/kernels.hpp"

#include <algorithm>
#include <utility>

namespace peakcast::torch {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

std::int64_t last_power_of_two(std::int64_t n) {
  std::int64_t power = 1;
  while (power * 2 <= n) {
    power *= 2;
  }
  return power;
}

/// Dimensions of a reduction as the kernel sees them: reordered and merged, fastest first.
struct Merged {
  std::vector<std::int64_t> sizes{};
  std::vector<std::int64_t> input{};   ///< strides in elements
  std::vector<std::int64_t> output{};  ///< strides in elements, 0 where reduced
};

struct Counts {
  std::size_t reduced_dims{};
  std::int64_t inputs{1};  ///< per output
  std::int64_t outputs{1};
};

Counts counts_of(const Merged& dims) {
  Counts counts;
  for (std::size_t i = 0; i < dims.sizes.size(); ++i) {
    if (dims.output[i] == 0) {
      ++counts.reduced_dims;
      counts.inputs *= dims.sizes[i];
    } else {
      counts.outputs *= dims.sizes[i];
    }
  }
  return counts;
}

Merged merge(const ReductionShape& shape) {
  const std::size_t n = shape.sizes.size();
  // Strides of the (contiguous, kept-dimensions) output: 0 in the reduced ones.
  Shape output = shape.sizes;
  std::int64_t stride = 1;
  for (std::size_t i = n; i-- > 0;) {
    if (shape.reduced[i]) {
      output[i] = 0;
    } else {
      output[i] = stride;
      stride *= shape.sizes[i];
    }
  }
  std::vector<std::size_t> order(n);
  for (std::size_t i = 0; i < n; ++i) {
    order[i] = n - 1 - i;
  }
  const auto should_swap = [&](std::size_t a, std::size_t b) {
    if ((output[a] == 0) != (output[b] == 0)) {
      return output[b] == 0 ? 1 : -1;
    }
    for (const Shape* strides : {&std::as_const(output), &shape.strides}) {
      const std::int64_t sa = (*strides)[a];
      const std::int64_t sb = (*strides)[b];
      if (sa == 0 || sb == 0) {
        continue;
      }
      if (sa != sb) {
        return sa < sb ? -1 : 1;
      }
      if (shape.sizes[a] > shape.sizes[b]) {
        return 1;
      }
    }
    return 0;
  };
  for (std::size_t i = 1; i < n; ++i) {
    std::size_t moving = i;
    for (std::size_t before = i; before-- > 0;) {
      const int comparison = should_swap(order[before], order[moving]);
      if (comparison > 0) {
        std::swap(order[before], order[moving]);
        moving = before;
      } else if (comparison < 0) {
        break;
      }
    }
  }
  Merged merged;
  for (const std::size_t d : order) {
    if (!merged.sizes.empty()) {
      const std::size_t last = merged.sizes.size() - 1;
      const bool joins = merged.sizes[last] == 1 || shape.sizes[d] == 1 ||
                         (merged.sizes[last] * merged.input[last] == shape.strides[d] &&
                          merged.sizes[last] * merged.output[last] == output[d]);
      if (joins) {
        if (merged.sizes[last] == 1) {
          merged.input[last] = shape.strides[d];
          merged.output[last] = output[d];
        }
        merged.sizes[last] *= shape.sizes[d];
        continue;
      }
    }
    merged.sizes.push_back(shape.sizes[d]);
    merged.input.push_back(shape.strides[d]);
    merged.output.push_back(output[d]);
  }
  return merged;
}

}  // namespace

std::vector<std::size_t> iteration_order(const Shape& sizes, std::span<const Shape> strides) {
  const std::size_t n = sizes.size();
  std::vector<std::size_t> order(n);
  for (std::size_t i = 0; i < n; ++i) {
    order[i] = n - 1 - i;
  }
  const auto should_swap = [&](std::size_t a, std::size_t b) {
    for (const Shape& operand : strides) {
      const std::int64_t sa = operand[a];
      const std::int64_t sb = operand[b];
      if (sa == 0 || sb == 0) {
        continue;
      }
      if (sa != sb) {
        return sa < sb ? -1 : 1;
      }
      if (sizes[a] > sizes[b]) {
        return 1;
      }
    }
    return 0;
  };
  for (std::size_t i = 1; i < n; ++i) {
    std::size_t moving = i;
    for (std::size_t before = i; before-- > 0;) {
      const int comparison = should_swap(order[before], order[moving]);
      if (comparison > 0) {
        std::swap(order[before], order[moving]);
        moving = before;
      } else if (comparison < 0) {
        break;
      }
    }
  }
  return order;
}

ReductionScratch reduction_scratch(const ReductionShape& shape, const GpuTraits& gpu) {
  constexpr std::int64_t kMaxThreads = 512;
  constexpr std::int64_t kWarp = 32;
  constexpr std::int64_t kMinValuesPerThread = 16;
  constexpr std::int64_t kMaxValuesPerThread = 256;
  constexpr std::int64_t kInputVector = 4;
  if (shape.sizes.numel() == 0) {
    return {};
  }
  const Merged dims = merge(shape);
  const std::size_t n = dims.sizes.size();
  const auto [reduced_dims, inputs, outputs] = counts_of(dims);
  const bool along_fastest = reduced_dims == n || dims.input[0] < dims.input[reduced_dims];
  std::int64_t dim0 = n == 0 ? 1 : (along_fastest ? inputs : outputs);
  const std::int64_t dim1 = n == 0 ? 1 : (along_fastest ? outputs : inputs);
  const std::int64_t fastest_stride =
      n == 0 ? 1 : (along_fastest ? dims.input[0] : dims.input[reduced_dims]);
  std::int64_t output_vector = 1;
  if (n > 0 && fastest_stride == 1) {
    if (along_fastest && dim0 > 128 && n == 1) {
      dim0 /= kInputVector;
    } else if (!along_fastest) {
      output_vector = 4;
      const auto fit = [&](std::int64_t value) {
        while (value % output_vector != 0) {
          output_vector /= 2;
        }
      };
      fit(dims.sizes[reduced_dims]);
      for (std::size_t i = 0; i < n; ++i) {
        if (i != reduced_dims) {
          fit(dims.input[i]);
        }
      }
      dim0 /= output_vector;
    }
  }
  const std::int64_t max_threads = kMaxThreads / output_vector;
  const std::int64_t dim0_power = dim0 < max_threads ? last_power_of_two(dim0) : max_threads;
  const std::int64_t dim1_power = dim1 < max_threads ? last_power_of_two(dim1) : max_threads;
  std::int64_t width = std::min(dim0_power, kWarp);
  const std::int64_t height = std::min(dim1_power, max_threads / width);
  width = std::min(dim0_power, max_threads / height);

  std::int64_t step_input = 1;
  std::int64_t step_output = 1;
  const bool block_x_reduces = n == 0 || along_fastest;
  (block_x_reduces ? step_input : step_output) *= width;
  const auto values_per_thread = [&step_input, in = inputs] { return ceil_div(in, step_input); };
  const bool block_y_reduces =
      values_per_thread() >= height * 16 || values_per_thread() >= kMaxValuesPerThread;
  (block_y_reduces ? step_input : step_output) *= height;

  const std::int64_t blocks_per_multiprocessor = gpu.threads_per_multiprocessor / (width * height);
  const std::int64_t target_grid = gpu.multiprocessors * blocks_per_multiprocessor;
  const std::int64_t grid = ceil_div(outputs / output_vector, step_output);
  if (!block_y_reduces || values_per_thread() < kMaxValuesPerThread || grid > target_grid) {
    return {};
  }
  const std::int64_t by_grid = ceil_div(target_grid, grid);
  const std::int64_t by_least = ceil_div(values_per_thread(), kMinValuesPerThread);
  const std::int64_t by_most = ceil_div(values_per_thread(), kMaxValuesPerThread);
  const std::int64_t blocks_per_output = std::max(std::min(by_grid, by_least), by_most);
  if (blocks_per_output <= 1) {
    return {};
  }
  std::int64_t partials = shape.accumulator_bytes * outputs * blocks_per_output;
  if (!block_x_reduces) {
    partials *= width * output_vector;
  }
  return {Bytes{partials}, Bytes{4 * grid}};
}

Bytes radix_sort_scratch(std::int64_t count, std::int64_t key_bytes, std::int64_t value_bytes,
                         std::int64_t key_bits) {
  constexpr std::int64_t kAlignment = 256;
  constexpr std::int64_t kDigits = 256;
  constexpr std::int64_t kTile = 4608;        // 384 threads, 12 items each: pairs of 8 and 8 bytes
  constexpr std::int64_t kSingleTile = 2304;  // 256 threads, 9 items each: one block, no storage
  if (count <= kSingleTile) {
    return Bytes{1};
  }
  const auto aligned = [](std::int64_t bytes) { return ceil_div(bytes, kAlignment) * kAlignment; };
  constexpr std::int64_t kPassBits = 8;
  const std::int64_t passes = key_bits > 0 ? ceil_div(key_bits, kPassBits) : key_bytes;
  const std::int64_t bins = passes * kDigits * 8;
  const std::int64_t lookback = ceil_div(count, kTile) * kDigits * 4;
  const std::int64_t counters = passes * 4;
  return Bytes{aligned(bins) + aligned(lookback) + aligned(count * key_bytes) +
               aligned(count * value_bytes) + aligned(counters) + kAlignment - 1};
}

Bytes unique_scratch(std::int64_t count) {
  constexpr std::int64_t kAlignment = 256;
  constexpr std::int64_t kTile = 4608;
  constexpr std::int64_t kPadding = 32;
  const std::int64_t descriptors = (ceil_div(count, kTile) + kPadding) * 16;
  return Bytes{ceil_div(descriptors, kAlignment) * kAlignment + kAlignment + kAlignment - 1};
}

Bytes cumsum_scratch(std::int64_t count, std::int64_t element_bytes) {
  constexpr std::int64_t kAlignment = 256;
  constexpr std::int64_t kThreads = 128;
  constexpr std::int64_t kBytesPerThread = 60;
  constexpr std::int64_t kPadding = 32;
  const std::int64_t tile = kThreads * std::max<std::int64_t>(1, kBytesPerThread / element_bytes);
  const std::int64_t descriptors = (ceil_div(count, tile) + kPadding) * 2 * element_bytes;
  const std::int64_t aligned = ceil_div(descriptors, kAlignment) * kAlignment;
  return Bytes{aligned + kAlignment + kAlignment - 1};
}

}  // namespace peakcast::torch
