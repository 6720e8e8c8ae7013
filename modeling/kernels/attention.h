// Window softmax attention and linear attention.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>

#include "products.h"

namespace e2evit {

// softmax(q kT / sqrt(d)) v for one head in one window; rows of query, key and value are `stride` apart
class WindowHead {
 public:
  WindowHead(int64_t num_tokens, int64_t head_width)
      : num_tokens(num_tokens),
        padded_tokens(round_up(num_tokens)),
        width(head_width),
        padded_width(round_up(head_width)),
        keys(padded_width / 2 * padded_tokens),
        values(padded_tokens / 2 * padded_width),
        mask(padded_tokens, -1e30f),
        scores(padded_tokens * padded_tokens),
        sums(padded_tokens),
        result(padded_tokens * padded_width),
        weights(padded_tokens * padded_tokens),
        zeros(head_width) {
    std::fill_n(mask.begin(), num_tokens, 0.f);
  }

  void operator()(const BFloat16* query, const BFloat16* key, const BFloat16* value, int64_t stride, BFloat16* context,
                  int64_t context_stride) {
    pair_columns(key, num_tokens, stride, width, keys.data(), padded_tokens);
    for (int64_t j = 0; j < num_tokens; j += 2)
      pair_rows(value + j * stride, j + 1 < num_tokens ? value + (j + 1) * stride : zeros.data(), width,
                &values[j / 2 * padded_width]);
    for (int64_t i = 0; i < padded_tokens; i += SIDE)
      for (int64_t j = 0; j < padded_tokens; j += SIDE)
        multiply(query + i * stride, stride, halves(&keys[j]), padded_tokens, padded_width,
                 &scores[i * padded_tokens + j], padded_tokens);
    for (int64_t i = 0; i < num_tokens; ++i) exponentiate(i);
    for (int64_t i = 0; i < padded_tokens; i += SIDE)
      for (int64_t c = 0; c < padded_width; c += SIDE)
        multiply(&weights[i * padded_tokens], padded_tokens, halves(&values[c]), padded_width, padded_tokens,
                 &result[i * padded_width + c], padded_width);
    for (int64_t i = 0; i < num_tokens; ++i)
      for (int64_t c = 0; c < width; c += SIDE)
        store(context + i * context_stride + c, load(&result[i * padded_width + c]) * all(1 / sums[i]), width - c);
  }

 private:
  int64_t num_tokens, padded_tokens, width, padded_width;
  Buffer<uint32_t> keys, values;  // in pairs
  Buffer<float> mask, scores, sums, result;
  Buffer<BFloat16> weights, zeros;

  void exponentiate(int64_t i) {
    float* row = &scores[i * padded_tokens];
    Row largest = load(row) + load(&mask[0]), sum = all(0);
    for (int64_t j = 0; j < padded_tokens; j += SIDE) {
      const Row masked = load(row + j) + load(&mask[j]);
      store(row + j, masked);
      largest = larger(largest, masked);
    }
    const Row scale = all(1.442695041f / std::sqrt(float(width))), top = all(largest_of(largest));  // log2(e) / sqrt(d)
    for (int64_t j = 0; j < padded_tokens; j += SIDE) {
      const Row weight = power_of_two((load(row + j) - top) * scale);
      store(&weights[i * padded_tokens + j], weight);
      sum = sum + weight;
    }
    sums[i] = sum_of(sum);
  }
};

// x + attention(norm(x)) in each window of a grid (B, H, W, D); tokens beyond its edges are zero; a band is a row of
// windows
Tensor window_attention(const Tensor& x, const Tensor& norm_weight, const Tensor& norm_bias, double eps,
                        const Tensor& panels_qkv, const Tensor& bias_qkv, const Tensor& panels, const Tensor& bias,
                        int64_t num_heads, int64_t side) {
  const int64_t height = x.size(1), width = x.size(2), depth = x.size(3), head_width = depth / num_heads;
  const int64_t num_bands = (height + side - 1) / side, num_windows = (width + side - 1) / side, area = side * side;
  const int64_t num_rows = round_up(num_windows * area);
  const Norm norm{floats_of(norm_weight), floats_of(norm_bias), float(eps), depth};
  const float *b_qkv = floats_of(bias_qkv), *b = floats_of(bias);
  Tensor result = at::empty_like(x);
  const BFloat16* tokens = halves_of(x);
  BFloat16* written = written_to(result);
  at::parallel_for(0, x.size(0) * num_bands, 1, [&](int64_t begin, int64_t end) {
    const Tiles tiles;
    WindowHead attend(area, head_width);
    Buffer<BFloat16> normed(num_rows * depth), context(num_rows * depth);
    Buffer<BFloat16> qkv((num_rows + round_up(area)) * 3 * depth);  // the last window's block overruns it
    std::vector<int64_t> places(num_rows, -1);                      // where a band's tokens are in x
    for (int64_t band = begin; band < end; ++band) {
      for (int64_t row = 0; row < num_windows * area; ++row) {
        const int64_t i = band % num_bands * side + row % area / side, j = row / area * side + row % side;
        places[row] = i < height && j < width ? ((band / num_bands * height + i) * width + j) * depth : -1;
        BFloat16* token = &normed[row * depth];
        if (places[row] < 0)
          std::fill_n(token, depth, BFloat16(0));
        else
          norm(tokens + places[row], token);
      }
      linear(normed.data(), num_rows, depth, panels_qkv, [&](int64_t row, int64_t column, const Row& product) {
        store(&qkv[row * 3 * depth + column], product + load(b_qkv + column));
      });
      for (int64_t window = 0; window < num_windows; ++window)
        for (int64_t head = 0; head < num_heads; ++head) {
          const BFloat16* query = &qkv[window * area * 3 * depth + head * head_width];
          attend(query, query + depth, query + 2 * depth, 3 * depth,
                 &context[window * area * depth + head * head_width], depth);
        }
      linear(context.data(), num_rows, depth, panels, [&](int64_t row, int64_t column, const Row& product) {
        if (places[row] < 0) return;
        const int64_t place = places[row] + column;
        store(written + place, product + load(b + column) + load(tokens + place));
      });
    }
  });
  return result;
}

// x + temperature * (q kv / max(q ks, floor)) W + b for tokens (B, N, D): q and k are after ReLUs; for each head, kv is
// the mean of k vT over the tokens, ks that of k. Chunks of tokens first add up k vT, then read all sums of an image.
Tensor linear_attention(const Tensor& x, const Tensor& norm_weight, const Tensor& norm_bias, double eps,
                        const Tensor& panels_qkv, const Tensor& bias_qkv, const Tensor& key_weight,
                        const Tensor& temperature, double floor, const Tensor& panels, const Tensor& bias) {
  constexpr int64_t CHUNK = 10 * SIDE;
  const int64_t num_images = x.size(0), num_tokens = x.size(1), depth = x.size(2), num_heads = temperature.numel();
  const int64_t num_panels = depth / SIDE, head_width = depth / num_heads, padded = round_up(head_width);
  const int64_t num_chunks = (num_tokens + CHUNK - 1) / CHUNK, most = std::min(CHUNK, round_up(num_tokens));
  const int64_t sums_size = padded * padded, head_size = sums_size + padded * SIDE;  // of kv, and of ks in 32 columns
  const Norm norm{floats_of(norm_weight), floats_of(norm_bias), float(eps), depth};
  const Tensor query_panels = panels_qkv.narrow(0, 0, num_panels);
  const Tensor value_panels = panels_qkv.narrow(0, 2 * num_panels, num_panels);
  const float *b_qkv = floats_of(bias_qkv), *b = floats_of(bias), *scale = floats_of(temperature);
  const BFloat16 *tokens = halves_of(x), *key_rows = halves_of(key_weight);
  Tensor result = at::empty_like(x);
  BFloat16* written = written_to(result);
  Buffer<BFloat16> queries((num_images * num_tokens + SIDE) * depth);
  Buffer<float> sums(num_images * num_chunks * num_heads * head_size);

  at::parallel_for(0, num_images * num_chunks, 1, [&](int64_t begin, int64_t end) {
    const Tiles tiles;
    Buffer<BFloat16> normed(most * depth), values(most * depth), keys((depth + SIDE) * most);  // keys (D, tokens)
    Buffer<uint32_t> columns(depth / 2 * most), value_pairs(most / 2 * depth + SIDE), ones(most / 2 * SIDE);
    alignas(64) float block[SIDE * SIDE];
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t first = unit % num_chunks * CHUNK, number = std::min(CHUNK, num_tokens - first);
      const int64_t num_rows = round_up(number), start = unit / num_chunks * num_tokens + first;
      for (int64_t i = 0; i < num_rows; ++i) {
        const bool is_token = i < number;
        if (is_token) norm(tokens + (start + i) * depth, &normed[i * depth]);
        for (int64_t c = 0; c < SIDE; ++c) reinterpret_cast<BFloat16*>(&ones[i / 2 * SIDE + c])[i % 2] = is_token;
      }
      pair_columns(normed.data(), num_rows, depth, depth, columns.data(), most);
      for (int64_t channel = 0; channel < depth; channel += SIDE)
        for (int64_t i = 0; i < num_rows; i += SIDE) {
          multiply(key_rows + channel * depth, depth, halves(&columns[i]), most, depth, block, SIDE);
          for (int64_t c = 0; c < SIDE; ++c)
            store(&keys[(channel + c) * most + i],
                  larger(load(block + c * SIDE) + all(b_qkv[depth + channel + c]), all(0)));
        }
      linear(normed.data(), num_rows, depth, query_panels, [&](int64_t row, int64_t column, const Row& product) {
        if (row < number)
          store(&queries[(start + row) * depth + column], larger(product + load(b_qkv + column), all(0)));
      });
      linear(normed.data(), num_rows, depth, value_panels, [&](int64_t row, int64_t column, const Row& product) {
        store(&values[row * depth + column], row < number ? product + load(b_qkv + 2 * depth + column) : all(0));
      });
      for (int64_t i = 0; i < num_rows; i += 2)
        pair_rows(&values[i * depth], &values[(i + 1) * depth], depth, &value_pairs[i / 2 * depth]);
      for (int64_t head = 0; head < num_heads; ++head)
        for (int64_t r = 0; r < padded; r += SIDE) {
          float* sum = &sums[(unit * num_heads + head) * head_size];
          const BFloat16* key = &keys[(head * head_width + r) * most];
          for (int64_t c = 0; c < padded; c += SIDE)
            multiply(key, most, halves(&value_pairs[head * head_width + c]), depth, num_rows, sum + r * padded + c,
                     padded);
          multiply(key, most, halves(ones.data()), SIDE, num_rows, sum + sums_size + r * SIDE, SIDE);
        }
    }
  });

  at::parallel_for(0, num_images * num_chunks, 1, [&](int64_t begin, int64_t end) {
    const Tiles tiles;
    Buffer<BFloat16> context(most * depth), means(head_size);
    Buffer<uint32_t> pairs(head_size / 2);
    alignas(64) float numerator[SIDE * SIDE], denominator[SIDE * SIDE];
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t first = unit % num_chunks * CHUNK, number = std::min(CHUNK, num_tokens - first);
      const int64_t num_rows = round_up(number), start = unit / num_chunks * num_tokens + first;
      for (int64_t head = 0; head < num_heads; ++head) {
        for (int64_t i = 0; i < head_size; i += SIDE) {
          const bool is_key_sum = i >= sums_size;
          const int64_t channel = is_key_sum ? (i - sums_size) / SIDE : i / padded;
          Row sum = all(0);
          for (int64_t chunk = 0; channel < head_width && chunk < num_chunks; ++chunk)
            sum = sum + load(&sums[((unit / num_chunks * num_chunks + chunk) * num_heads + head) * head_size + i]);
          store(&means[i], sum * all((is_key_sum ? 1 : scale[head]) / num_tokens));
        }
        for (int64_t c = 0; c < padded; c += 2) {
          pair_rows(&means[c * padded], &means[(c + 1) * padded], padded, &pairs[c / 2 * padded]);
          const BFloat16* key_mean = &means[sums_size + c * SIDE];
          pair_rows(key_mean, key_mean + SIDE, SIDE, &pairs[(sums_size + c * SIDE) / 2]);
        }
        for (int64_t i = 0; i < num_rows; i += SIDE) {
          const BFloat16* query = &queries[(start + i) * depth + head * head_width];
          multiply(query, depth, halves(&pairs[sums_size / 2]), SIDE, padded, denominator, SIDE);
          for (int64_t c = 0; c < head_width; c += SIDE) {
            multiply(query, depth, halves(&pairs[c]), padded, padded, numerator, SIDE);
            for (int64_t row = 0; row < SIDE; ++row)
              store(&context[(i + row) * depth + head * head_width + c],
                    load(numerator + row * SIDE) / larger(load(denominator + row * SIDE), all(floor / num_tokens)),
                    head_width - c);
          }
        }
      }
      linear(context.data(), num_rows, depth, panels, [&](int64_t row, int64_t column, const Row& product) {
        if (row >= number) return;
        const int64_t place = (start + row) * depth + column;
        store(written + place, product + load(b + column) + load(tokens + place));
      });
    }
  });
  return result;
}

}  // namespace e2evit
