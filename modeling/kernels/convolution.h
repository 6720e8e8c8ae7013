// Depthwise convolutions over token grids.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sum.h>

#include <type_traits>

#include "products.h"

namespace e2evit {

// Depthwise convolution of 32 channels of a zero-padded grid, (.., padded, 32); a kernel's elements are `stride` apart.
// `write(row, column, Row)` receives the sums.
constexpr int64_t RUN = 7;  // columns whose sums stay in registers
template <int64_t side, typename Write>
void convolve_side(const float* grid, int64_t height, int64_t width, int64_t padded, const float* kernel,
                   int64_t stride, const Write& write) {
  for (int64_t row = 0; row < height; ++row)
    for (int64_t column = 0; column < width; column += RUN) {
      __m512 sums[2][RUN] = {};
      for (int64_t half = 0; half < 2; ++half)
        for (int64_t r = 0; r < side; ++r) {
          const float* pixel = grid + ((row + r) * padded + column) * SIDE + 16 * half;
          __m512 weights[side];
#pragma GCC unroll 16
          for (int64_t c = 0; c < side; ++c) weights[c] = _mm512_loadu_ps(kernel + (r * side + c) * stride + 16 * half);
#pragma GCC unroll 16
          for (int64_t i = 0; i < RUN + side - 1; ++i) {
            const __m512 value = _mm512_loadu_ps(pixel + i * SIDE);
#pragma GCC unroll 16
            for (int64_t c = 0; c < side; ++c)
              if (c <= i && i < c + RUN) sums[half][i - c] = _mm512_fmadd_ps(value, weights[c], sums[half][i - c]);
          }
        }
      for (int64_t i = 0; i < std::min(RUN, width - column); ++i) write(row, column + i, Row{sums[0][i], sums[1][i]});
    }
}

// calls `work(side)` with a compile-time side
template <typename Work>
void for_side(int64_t side, const Work& work) {
  if (side == 3) return work(std::integral_constant<int64_t, 3>());
  if (side == 5) return work(std::integral_constant<int64_t, 5>());
  TORCH_CHECK(side == 7, "Sides of depthwise convolutions are 3, 5 or 7, got ", side, ".");
  work(std::integral_constant<int64_t, 7>());
}

template <typename Write>
void convolve(const float* grid, int64_t height, int64_t width, int64_t padded, int64_t side, const float* kernel,
              int64_t stride, const Write& write) {
  for_side(side, [&](auto constant) { convolve_side<constant()>(grid, height, width, padded, kernel, stride, write); });
}

// Adds the kernel's gradient to `sums` (side * side, 32, `stride` apart): for each element, the pixels of `grid` that
// it multiplied times the gradients of its outputs; `gradients` (height, ceiled, 32) end with zeros.
template <int64_t side>
void correlate_side(const float* grid, const float* gradients, int64_t height, int64_t padded, int64_t ceiled,
                    float* sums, int64_t stride) {
  for (int64_t r = 0; r < side; ++r) {
    Row products[side];
    for (int64_t c = 0; c < side; ++c) products[c] = all(0);
    for (int64_t row = 0; row < height; ++row)
      for (int64_t column = 0; column < ceiled; column += RUN) {
        const float* pixel = grid + ((row + r) * padded + column) * SIDE;
        Row run[RUN];
#pragma GCC unroll 16
        for (int64_t i = 0; i < RUN; ++i) run[i] = load(gradients + (row * ceiled + column + i) * SIDE);
#pragma GCC unroll 16
        for (int64_t i = 0; i < RUN + side - 1; ++i) {
          const Row value = load(pixel + i * SIDE);
#pragma GCC unroll 16
          for (int64_t c = 0; c < side; ++c)
            if (c <= i && i < c + RUN) products[c] = multiply_add(value, run[i - c], products[c]);
        }
      }
    for (int64_t c = 0; c < side; ++c) store(sums + (r * side + c) * stride, products[c]);
  }
}

// x * kernel + b, kernel (side * side, D)
Tensor depthwise(const Tensor& x, const Tensor& kernel, const Tensor& bias, int64_t side) {
  const int64_t height = x.size(1), width = x.size(2), depth = x.size(3), margin = side / 2, num_groups = depth / SIDE;
  const int64_t padded = round_up(width, RUN) + 2 * margin;
  const float *weights = floats_of(kernel), *b = floats_of(bias);
  Tensor result = at::empty_like(x);
  const BFloat16* tokens = halves_of(x);
  BFloat16* written = written_to(result);
  at::parallel_for(0, x.size(0) * num_groups, 1, [&](int64_t begin, int64_t end) {
    Buffer<float> grid((height + 2 * margin) * padded * SIDE);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t channel = unit % num_groups * SIDE, start = unit / num_groups * height * width * depth + channel;
      for (int64_t i = 0; i < height; ++i)
        for (int64_t j = 0; j < width; ++j)
          store(&grid[((i + margin) * padded + j + margin) * SIDE], load(tokens + start + (i * width + j) * depth));
      convolve(grid.data(), height, width, padded, side, weights + channel, depth,
               [&](int64_t i, int64_t j, const Row& sum) {
                 store(written + start + (i * width + j) * depth, sum + load(b + channel));
               });
    }
  });
  return result;
}

// Gradients of kernel and bias of a depthwise convolution of x, (side * side + 1, D), the bias's last.
Tensor depthwise_gradient(const Tensor& gradient, const Tensor& x, int64_t side) {
  const int64_t height = x.size(1), width = x.size(2), depth = x.size(3), margin = side / 2, num_groups = depth / SIDE;
  const int64_t ceiled = round_up(width, RUN), padded = ceiled + 2 * margin, area = side * side;
  Tensor sums = at::empty({x.size(0), area + 1, depth}, x.options().dtype(at::kFloat));
  const BFloat16 *tokens = halves_of(x), *gradients = halves_of(gradient);
  float* written = sums.mutable_data_ptr<float>();
  at::parallel_for(0, x.size(0) * num_groups, 1, [&](int64_t begin, int64_t end) {
    Buffer<float> grid((height + 2 * margin) * padded * SIDE), gradient_grid(height * ceiled * SIDE);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t channel = unit % num_groups * SIDE, image = unit / num_groups;
      float* to = written + image * (area + 1) * depth + channel;
      Row bias = all(0);
      for (int64_t i = 0; i < height; ++i)
        for (int64_t j = 0; j < width; ++j) {
          const int64_t place = ((image * height + i) * width + j) * depth + channel;
          const Row loaded = load(gradients + place);
          store(&grid[((i + margin) * padded + j + margin) * SIDE], load(tokens + place));
          store(&gradient_grid[(i * ceiled + j) * SIDE], loaded);
          bias = bias + loaded;
        }
      store(to + area * depth, bias);
      for_side(side, [&](auto constant) {
        correlate_side<constant()>(grid.data(), gradient_grid.data(), height, padded, ceiled, to, depth);
      });
    }
  });
  return sums.sum(0);
}

// x + gamma * ((GELU(norm(x) * kernel1 + b1) scale + shift) * kernel2 + b2): scale and shift are a BatchNorm's
Tensor local_interaction(const Tensor& x, const Tensor& norm_weight, const Tensor& norm_bias, double eps,
                         const Tensor& kernel1, const Tensor& bias1, const Tensor& scale, const Tensor& shift,
                         const Tensor& kernel2, const Tensor& bias2, const Tensor& gamma, int64_t side) {
  const int64_t height = x.size(1), width = x.size(2), depth = x.size(3), margin = side / 2, num_groups = depth / SIDE;
  const int64_t padded = round_up(width, RUN) + 2 * margin, num_tokens = x.numel() / depth;
  const Norm norm{floats_of(norm_weight), floats_of(norm_bias), float(eps), depth};
  Tensor result = at::empty_like(x);
  const BFloat16* read = halves_of(x);
  BFloat16* to = written_to(result);
  std::vector<std::pair<float, float>> measured(num_tokens);
  at::parallel_for(0, num_tokens, 256, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) measured[i] = norm.measure(read + i * depth);
  });
  at::parallel_for(0, x.size(0) * num_groups, 1, [&](int64_t begin, int64_t end) {
    Buffer<float> normed((height + 2 * margin) * padded * SIDE), hidden(normed.size());
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t channel = unit % num_groups * SIDE, first = unit / num_groups * height * width;
      const BFloat16* tokens = read + first * depth + channel;
      BFloat16* written = to + first * depth + channel;
      const Row b1 = load(floats_of(bias1) + channel), b2 = load(floats_of(bias2) + channel);
      const Row factor = load(floats_of(scale) + channel), offset = load(floats_of(shift) + channel);
      const Row layer_scale = load(floats_of(gamma) + channel);
      for (int64_t i = 0; i < height; ++i)
        for (int64_t j = 0; j < width; ++j) {
          const int64_t token = i * width + j;
          store(&normed[((i + margin) * padded + j + margin) * SIDE],
                norm.apply(load(tokens + token * depth), channel, measured[first + token]));
        }
      convolve(normed.data(), height, width, padded, side, floats_of(kernel1) + channel, depth,
               [&](int64_t i, int64_t j, const Row& sum) {
                 store(&hidden[((i + margin) * padded + j + margin) * SIDE],
                       multiply_add(gelu(sum + b1), factor, offset));
               });
      convolve(hidden.data(), height, width, padded, side, floats_of(kernel2) + channel, depth,
               [&](int64_t i, int64_t j, const Row& sum) {
                 const int64_t place = (i * width + j) * depth;
                 store(written + place, multiply_add(sum + b2, layer_scale, load(tokens + place)));
               });
    }
  });
  return result;
}

}  // namespace e2evit
