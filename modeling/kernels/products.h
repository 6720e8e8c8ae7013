// Matrix products with AMX, and the layer norm at the start of each branch.
#pragma once

#include <atomic>
#include <cstring>

#include "rows.h"

namespace e2evit {

// The eight tiles of a thread, each 16 rows of 64 bytes.
struct Tiles {
  struct alignas(64) Configuration {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes_of_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t num_rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };
  Tiles() {
    // static, since compilers see only its first bytes being read
    static const Configuration configuration;
    _tile_loadconfig(&configuration);
  }
  ~Tiles() { _tile_release(); }
};

// c (32, 32) = a (32, depth) b (depth, 32); b holds pairs of rows, (depth / 2, b_stride, 2).
inline void multiply(const BFloat16* a, int64_t a_stride, const BFloat16* b, int64_t b_stride, int64_t depth, float* c,
                     int64_t c_stride) {
  std::atomic_signal_fence(std::memory_order_seq_cst);  // compilers do not see what tiles read and write
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t k = 0; k < depth; k += 32) {
    _tile_loadd(4, a + k, a_stride * 2);
    _tile_loadd(5, a + k + 16 * a_stride, a_stride * 2);
    _tile_loadd(6, b + k * b_stride, b_stride * 4);
    _tile_loadd(7, b + k * b_stride + 32, b_stride * 4);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, c_stride * 4);
  _tile_stored(1, c + 16, c_stride * 4);
  _tile_stored(2, c + 16 * c_stride, c_stride * 4);
  _tile_stored(3, c + 16 * c_stride + 16, c_stride * 4);
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

// Interleaves two rows, one number of each per word: the layout of a product's right-hand matrix.
inline void pair_rows(const BFloat16* first, const BFloat16* second, int64_t width, uint32_t* words) {
  for (int64_t i = 0; i < width; ++i) words[i] = first[i].x | uint32_t(second[i].x) << 16;
}
// The same for a matrix whose columns are the tokens: their transpose in words, `(width / 2, words_stride)`.
inline void pair_columns(const BFloat16* tokens, int64_t number, int64_t stride, int64_t width, uint32_t* words,
                         int64_t words_stride) {
  for (int64_t i = 0; i < number; ++i)
    for (int64_t j = 0; j < width / 2; ++j) std::memcpy(words + j * words_stride + i, tokens + i * stride + 2 * j, 4);
}
inline const BFloat16* halves(const uint32_t* words) { return reinterpret_cast<const BFloat16*>(words); }

// `write(row, column, Row)` receives the products of `tokens` (num_rows, depth) with a matrix, 32 columns at a time.
template <typename Write>
inline void linear(const BFloat16* tokens, int64_t num_rows, int64_t depth, const Tensor& panels, const Write& write) {
  alignas(64) float block[SIDE * SIDE];
  const BFloat16* panel = halves_of(panels);
  for (int64_t column = 0; column < panels.size(0) * SIDE; column += SIDE, panel += SIDE * depth)
    for (int64_t row = 0; row < num_rows; row += SIDE) {
      multiply(tokens + row * depth, depth, panel, SIDE, depth, block, SIDE);
      for (int64_t i = 0; i < SIDE; ++i) write(row + i, column, load(block + SIDE * i));
    }
}

// A layer norm.
struct Norm {
  const float *weight, *bias;
  float eps;
  int64_t width;

  // mean and inverse standard deviation
  std::pair<float, float> measure(const BFloat16* token) const {
    Row sum = all(0), squares = all(0);
    for (int64_t i = 0; i < width; i += SIDE) sum = sum + load(token + i);
    const float mean = sum_of(sum) / width;
    for (int64_t i = 0; i < width; i += SIDE) {
      const Row difference = load(token + i) - all(mean);
      squares = multiply_add(difference, difference, squares);
    }
    return {mean, 1 / std::sqrt(sum_of(squares) / width + eps)};
  }
  Row apply(const Row& x, int64_t column, const std::pair<float, float>& measured) const {
    return multiply_add((x - all(measured.first)) * all(measured.second), load(weight + column), load(bias + column));
  }
  void operator()(const BFloat16* token, BFloat16* normed) const {
    const auto measured = measure(token);
    for (int64_t i = 0; i < width; i += SIDE) store(normed + i, apply(load(token + i), i, measured));
  }
};

}  // namespace e2evit
