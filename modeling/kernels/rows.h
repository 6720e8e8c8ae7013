// Arrays in memory, and rows of 32 numbers in registers.
#pragma once

#include <ATen/core/Tensor.h>
#include <immintrin.h>

#include <vector>

namespace e2evit {

using at::BFloat16;
using at::Tensor;
constexpr int64_t SIDE = 32;  // rows and columns of a block of a product: two by two tiles

// take pointers once, outside loops: each call checks the tensor
template <typename Number>
const Number* numbers_of(const Tensor& tensor) {
  TORCH_CHECK(tensor.is_contiguous(), "Expected a contiguous tensor, got strides ", tensor.strides(), ".");
  return tensor.const_data_ptr<Number>();
}
const BFloat16* halves_of(const Tensor& tensor) { return numbers_of<BFloat16>(tensor); }
const float* floats_of(const Tensor& tensor) { return numbers_of<float>(tensor); }
BFloat16* written_to(Tensor& tensor) { return tensor.mutable_data_ptr<BFloat16>(); }
int64_t round_up(int64_t size, int64_t multiple = SIDE) { return (size + multiple - 1) / multiple * multiple; }

// Tiles load and store several times faster if rows do not cross cache lines.
template <typename Number>
struct Aligned {
  using value_type = Number;
  Number* allocate(size_t size) {
    return static_cast<Number*>(::operator new(size * sizeof(Number), std::align_val_t(64)));
  }
  void deallocate(Number* numbers, size_t) { ::operator delete(numbers, std::align_val_t(64)); }
  bool operator==(const Aligned&) const { return true; }
};
template <typename Number>
using Buffer = std::vector<Number, Aligned<Number>>;

// 32 numbers
struct Row {
  __m512 low, high;
};

inline Row all(float x) { return {_mm512_set1_ps(x), _mm512_set1_ps(x)}; }
inline __m512 widen(const BFloat16* from) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline Row load(const BFloat16* from) { return {widen(from), widen(from + 16)}; }
inline Row load(const float* from) { return {_mm512_loadu_ps(from), _mm512_loadu_ps(from + 16)}; }
inline void store(float* to, const Row& x) {
  _mm512_storeu_ps(to, x.low);
  _mm512_storeu_ps(to + 16, x.high);
}
inline void store(BFloat16* to, const Row& x, int64_t number = 32) {
  const __m512i rounded = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(x.high, x.low));
  _mm512_mask_storeu_epi16(to, number < 32 ? (1u << number) - 1 : ~0u, rounded);
}
inline Row operator+(const Row& x, const Row& y) { return {x.low + y.low, x.high + y.high}; }
inline Row operator-(const Row& x, const Row& y) { return {x.low - y.low, x.high - y.high}; }
inline Row operator*(const Row& x, const Row& y) { return {x.low * y.low, x.high * y.high}; }
inline Row operator/(const Row& x, const Row& y) { return {x.low / y.low, x.high / y.high}; }
inline Row larger(const Row& x, const Row& y) { return {_mm512_max_ps(x.low, y.low), _mm512_max_ps(x.high, y.high)}; }
inline Row multiply_add(const Row& x, const Row& y, const Row& z) {
  return {_mm512_fmadd_ps(x.low, y.low, z.low), _mm512_fmadd_ps(x.high, y.high, z.high)};
}
inline float sum_of(const Row& x) { return _mm512_reduce_add_ps(x.low + x.high); }
inline float largest_of(const Row& x) { return _mm512_reduce_max_ps(_mm512_max_ps(x.low, x.high)); }

inline __m512 polynomial(const __m512& x, std::initializer_list<float> coefficients) {
  auto coefficient = coefficients.begin();
  __m512 sum = _mm512_set1_ps(*coefficient);
  while (++coefficient != coefficients.end()) sum = _mm512_fmadd_ps(sum, x, _mm512_set1_ps(*coefficient));
  return sum;
}

// x Phi(x) within 6e-5: Phi is a polynomial between -4.25 and 4.25, and 0 or 1 outside
inline __m512 gelu(const __m512& x) {
  const __m512 inside = _mm512_max_ps(_mm512_min_ps(x, _mm512_set1_ps(4.25f)), _mm512_set1_ps(-4.25f));
  const __m512 ratio =
      polynomial(inside * inside, {4.8408652086884274e-11f, -4.746476101047392e-09f, 2.0624750618480903e-07f,
                                   -5.2832615438092034e-06f, 8.986552711576223e-05f, -0.0010866542579606175f,
                                   0.009736431762576103f, -0.06618261337280273f, 0.39874911308288574f});
  return x * _mm512_max_ps(_mm512_fmadd_ps(inside, ratio, _mm512_set1_ps(0.5f)), _mm512_setzero_ps());
}
inline Row gelu(const Row& x) { return {gelu(x.low), gelu(x.high)}; }

// 2^x within a relative 4e-6
inline __m512 power_of_two(const __m512& x) {
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  return _mm512_scalef_ps(polynomial(x - whole, {0.00966637f, 0.05592198f, 0.24022349f, 0.69312105f, 1.f}), whole);
}
inline Row power_of_two(const Row& x) { return {power_of_two(x.low), power_of_two(x.high)}; }

}  // namespace e2evit
