// The MLP, and the projections before and after attention.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "products.h"

namespace e2evit {

// x + gamma * (GELU(norm(x) W1 + b1) W2 + b2)
Tensor mlp(const Tensor& x, const Tensor& norm_weight, const Tensor& norm_bias, double eps, const Tensor& panels1,
           const Tensor& bias1, const Tensor& panels2, const Tensor& bias2, const Tensor& gamma) {
  constexpr int64_t BLOCK = 2 * SIDE;
  const int64_t width = x.size(-1), hidden_width = bias1.size(0), num_tokens = x.numel() / width;
  const Norm norm{floats_of(norm_weight), floats_of(norm_bias), float(eps), width};
  const float *b1 = floats_of(bias1), *b2 = floats_of(bias2), *scale = floats_of(gamma);
  Tensor result = at::empty_like(x);
  const BFloat16* read = halves_of(x);
  BFloat16* to = written_to(result);
  at::parallel_for(0, round_up(num_tokens, BLOCK) / BLOCK, 1, [&](int64_t begin, int64_t end) {
    const Tiles tiles;
    Buffer<BFloat16> normed(BLOCK * width), hidden(BLOCK * hidden_width);
    for (int64_t first = begin * BLOCK; first < std::min(end * BLOCK, num_tokens); first += BLOCK) {
      const int64_t number = std::min(BLOCK, num_tokens - first);
      const BFloat16* tokens = read + first * width;
      BFloat16* written = to + first * width;
      for (int64_t i = 0; i < number; ++i) norm(tokens + i * width, normed.data() + i * width);
      linear(normed.data(), round_up(number), width, panels1, [&](int64_t row, int64_t column, const Row& product) {
        store(hidden.data() + row * hidden_width + column, gelu(product + load(b1 + column)));
      });
      linear(hidden.data(), round_up(number), hidden_width, panels2,
             [&](int64_t row, int64_t column, const Row& product) {
               if (row >= number) return;
               const int64_t place = row * width + column;
               store(written + place,
                     multiply_add(product + load(b2 + column), load(scale + column), load(tokens + place)));
             });
    }
  });
  return result;
}

// norm(x) W + b, `(parts, ..., D)`: query, key and value each contiguous
Tensor project(const Tensor& x, const Tensor& norm_weight, const Tensor& norm_bias, double eps, const Tensor& panels,
               const Tensor& bias) {
  constexpr int64_t BLOCK = 2 * SIDE;
  const int64_t width = x.size(-1), num_tokens = x.numel() / width;
  const Norm norm{floats_of(norm_weight), floats_of(norm_bias), float(eps), width};
  const float* b = floats_of(bias);
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  sizes.insert(sizes.begin(), bias.size(0) / width);
  Tensor result = at::empty(sizes, x.options());
  const BFloat16* tokens = halves_of(x);
  BFloat16* written = written_to(result);
  at::parallel_for(0, round_up(num_tokens, BLOCK) / BLOCK, 1, [&](int64_t begin, int64_t end) {
    const Tiles tiles;
    Buffer<BFloat16> normed(BLOCK * width);
    for (int64_t first = begin * BLOCK; first < std::min(end * BLOCK, num_tokens); first += BLOCK) {
      const int64_t number = std::min(BLOCK, num_tokens - first);
      for (int64_t i = 0; i < number; ++i) norm(tokens + (first + i) * width, normed.data() + i * width);
      linear(normed.data(), round_up(number), width, panels, [&](int64_t row, int64_t column, const Row& product) {
        if (row >= number) return;
        const int64_t place = (column / width * num_tokens + first + row) * width + column % width;
        store(written + place, product + load(b + column));
      });
    }
  });
  return result;
}

// x + gamma * (context W + b)
Tensor project_back(const Tensor& x, const Tensor& context, const Tensor& panels, const Tensor& bias,
                    const Tensor& gamma) {
  constexpr int64_t BLOCK = 2 * SIDE;
  const int64_t width = x.size(-1), num_tokens = x.numel() / width;
  const float *b = floats_of(bias), *scale = floats_of(gamma);
  Tensor result = at::empty_like(x);
  const BFloat16 *mixed = halves_of(context), *tokens = halves_of(x);
  BFloat16* written = written_to(result);
  at::parallel_for(0, round_up(num_tokens, BLOCK) / BLOCK, 1, [&](int64_t begin, int64_t end) {
    const Tiles tiles;
    Buffer<BFloat16> last(BLOCK * width);
    for (int64_t first = begin * BLOCK; first < std::min(end * BLOCK, num_tokens); first += BLOCK) {
      const int64_t number = std::min(BLOCK, num_tokens - first), start = first * width;
      const BFloat16* block = mixed + start;
      if (number < BLOCK) block = std::copy_n(block, number * width, last.data()) - number * width;
      linear(block, round_up(number), width, panels, [&](int64_t row, int64_t column, const Row& product) {
        if (row >= number) return;
        const int64_t place = start + row * width + column;
        const Row branch = product + load(b + column);
        store(written + place, multiply_add(branch, load(scale + column), load(tokens + place)));
      });
    }
  });
  return result;
}

}  // namespace e2evit
