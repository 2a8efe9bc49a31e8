// Row loops shared by several kernels, and functions such as exp and Φ that compilers can vectorize.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernel.h"

namespace kernels {

inline float power_of_2(int32_t exponent) { return __builtin_bit_cast(float, (exponent + 127) << 23); }

// e^x for x <= 0, to 2 units in the last place; 0 below the smallest normal number.
inline float fast_exp(float x) {
  constexpr float kLog2E = 1.44269504f, kRound = 12582912.f;       // adding 1.5 * 2^23 rounds to an integer
  constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  constexpr float kSmallest = -87.33f;
  const float bounded = std::max(x, kSmallest);
  const float power = (bounded * kLog2E + kRound) - kRound;
  const float r = (bounded - power * kLn2High) - power * kLn2Low;  // |r| <= ln(2) / 2
  float p = 1.f / 5040;
  p = p * r + 1.f / 720;
  p = p * r + 1.f / 120;
  p = p * r + 1.f / 24;
  p = p * r + 1.f / 6;
  p = p * r + .5f;
  p = p * r + 1.f;
  p = p * r + 1.f;
  const float result = p * power_of_2(static_cast<int32_t>(power));
  return x < kSmallest ? 0.f : result;
}

// Φ(x), the normal distribution function, and e^(-x²/2), which is proportional to its derivative. Φ(-z) e^(z²/2) is
// approximated by a polynomial in 1 / (1 + .23 z) with a relative error of 5e-8 for z in [0, 14].
struct Normal {
  float distribution, bell;
};
inline Normal normal(float x) {
  const float z = std::fabs(x);
  const float t = 1.f / (1.f + .23f * z);
  float p = -7.84678972e-02f;
  p = p * t + 2.90416234e-01f;
  p = p * t + -2.78131226e-01f;
  p = p * t + 3.01477567e-01f;
  p = p * t + -3.29234236e-02f;
  p = p * t + 1.19515405e-01f;
  p = p * t + 8.57625786e-02f;
  p = p * t + 9.23785037e-02f;
  p = p * t + -2.77651874e-05f;
  const float bell = fast_exp(-.5f * x * x);
  const float tail = p * bell;
  return {x < 0.f ? tail : 1.f - tail, bell};
}

inline float row_max(const float* x, int64_t size) {
  constexpr int kLanes = 16;  // independent maxima, because compilers do not reorder float comparisons
  float lanes[kLanes];
  std::fill_n(lanes, kLanes, -std::numeric_limits<float>::infinity());
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
#pragma omp simd
    for (int lane = 0; lane < kLanes; ++lane) { lanes[lane] = x[i + lane] > lanes[lane] ? x[i + lane] : lanes[lane]; }
  }
  for (; i < size; ++i) { lanes[0] = std::max(lanes[0], x[i]); }
  return *std::max_element(lanes, lanes + kLanes);
}

// The float32 sum of a row or of a block of a longer sum, in an order that the compiler chooses.
inline float row_sum(const float* x, int64_t size) {
  float sum = 0.f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < size; ++i) { sum += x[i]; }
  return sum;
}
inline float row_dot(const float* x, const float* y, int64_t size) {
  float sum = 0.f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < size; ++i) { sum += x[i] * y[i]; }
  return sum;
}

// y = e^(x - shift); returns the sum of y. y may be x.
inline float row_exp_sum(const float* x, float shift, float* y, int64_t size) {
  float sum = 0.f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < size; ++i) {
    y[i] = fast_exp(x[i] - shift);
    sum += y[i];
  }
  return sum;
}

// Sums over rows: `add_row(row, sums)` adds one row's values to `width` running sums. The blocks of rows do not depend
// on the number of threads, and so neither does rounding.
template <class AddRow>
void sum_rows(int64_t rows, int64_t width, float* sums, AddRow add_row) {
  constexpr int64_t kMaxBlocks = 16, kMinRows = 8;
  const int64_t block_rows = std::max(kMinRows, (rows + kMaxBlocks - 1) / kMaxBlocks);
  const int64_t blocks = (rows + block_rows - 1) / block_rows;
  float* partial = scratch_floats(Scratch::kRows, blocks * width);
#pragma omp parallel for schedule(static)
  for (int64_t block = 0; block < blocks; ++block) {
    float* own = partial + block * width;
    std::fill_n(own, width, 0.f);
    for (int64_t row = block * block_rows; row < std::min(rows, (block + 1) * block_rows); ++row) { add_row(row, own); }
  }
  std::fill_n(sums, width, 0.f);
  for (int64_t block = 0; block < blocks; ++block) {
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) { sums[i] += partial[block * width + i]; }
  }
}

}  // namespace kernels
