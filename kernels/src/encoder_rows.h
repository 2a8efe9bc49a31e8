// Row loops around the encoder's products, each run while its rows are in the caches.
#pragma once
#include "bf16.h"
#include "packed_linear.h"
#include "rows.h"

namespace kernels {

// What a product wrote, with what is left to apply to it.
struct RawRows {
  const float* data;       // [rows, width]
  const PackedLinear* by;  // the layer that wrote it
  const RowScale* scales;  // of its int8 input rows; null where the product is finished
};

// One row of a product, or a part of it from column `begin` on, with the scale and the bias applied.
inline void finish_row(const RawRows& raw, int64_t row, int64_t begin, int64_t size, float* result) {
  const float* x = raw.data + row * raw.by->outputs() + begin;
  if (raw.scales == nullptr) { return read_row(x, result, size); }
  const float scale = raw.scales[row].scale, minimum = raw.scales[row].minimum;
  const float *sums = raw.by->weight_sums() + begin, *scales = raw.by->scales() + begin;
  const float* bias = raw.by->bias() + begin;
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) { result[i] = (x[i] * scale + minimum * sums[i]) * scales[i] + bias[i]; }
}

struct Norm {
  const float *weight, *bias;
  float epsilon;
  bool rms;  // RMSNorm: the mean counts as zero
};

// y = (x - mean) / sqrt(variance + epsilon) * weight + bias; y may be x.
inline void norm_row(const float* x, const Norm& norm, float* y, int64_t size) {
  const float mean = norm.rms ? 0.f : row_sum(x, size) / size;
  float squares = 0.f;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < size; ++i) { squares += (x[i] - mean) * (x[i] - mean); }
  const float inverse = 1.f / std::sqrt(squares / size + norm.epsilon);
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) { y[i] = (x[i] - mean) * inverse * norm.weight[i] + norm.bias[i]; }
}

// As configs/model.py names them; kernels/encoder.py has the same order.
enum class Activation : int64_t { kGelu, kGeluTanh, kRelu, kSilu };

inline float sigmoid(float x) {
  const float e = fast_exp(-std::fabs(x)), positive = 1.f / (1.f + e);
  return x < 0.f ? e * positive : positive;
}

template <class Function>
inline void map_row(float* x, int64_t size, Function function) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) { x[i] = function(x[i]); }
}

inline void activate_row(Activation activation, float* x, int64_t size) {
  switch (activation) {
    case Activation::kGelu: return map_row(x, size, [](float v) { return v * normal(v).distribution; });
    case Activation::kGeluTanh:  // (1 + tanh u) / 2 = sigmoid(2 u)
      return map_row(x, size, [](float v) { return v * sigmoid(1.595769122f * (v + .044715f * v * v * v)); });
    case Activation::kRelu: return map_row(x, size, [](float v) { return v > 0.f ? v : 0.f; });
    case Activation::kSilu: return map_row(x, size, [](float v) { return v * sigmoid(v); });
  }
}

// q = round((x - minimum) / scale) in 0..255, which spans the row's range.
inline RowScale quantize_row(const float* x, uint8_t* q, int64_t size) {
  constexpr int kLanes = 16;
  float low[kLanes], high[kLanes];
  std::fill_n(low, kLanes, std::numeric_limits<float>::infinity());
  std::fill_n(high, kLanes, -std::numeric_limits<float>::infinity());
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
#pragma omp simd
    for (int lane = 0; lane < kLanes; ++lane) {
      low[lane] = x[i + lane] < low[lane] ? x[i + lane] : low[lane];
      high[lane] = x[i + lane] > high[lane] ? x[i + lane] : high[lane];
    }
  }
  for (; i < size; ++i) {
    low[0] = std::min(low[0], x[i]);
    high[0] = std::max(high[0], x[i]);
  }
  const float minimum = *std::min_element(low, low + kLanes), range = *std::max_element(high, high + kLanes) - minimum;
  const float inverse = range > 0.f ? 255.f / range : 0.f;
#pragma omp simd
  for (int64_t k = 0; k < size; ++k) { q[k] = static_cast<uint8_t>(static_cast<int32_t>((x[k] - minimum) * inverse + .5f)); }
  return {range / 255.f, minimum};
}

}  // namespace kernels
