// Products and transposes of small float32 matrices that stay in the first caches: the tiles of attention.
#pragma once
#include <cstdint>

namespace kernels {

#ifdef __AVX512F__
constexpr int kLanes = 16, kColumns = 4;  // with kRows: 24 of 32 registers hold sums
#else
constexpr int kLanes = 8, kColumns = 2;  // 12 of 16
#endif
constexpr int kRows = 6;
typedef float Vector __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

typedef int32_t Indices __attribute__((vector_size(4 * kLanes)));

inline int64_t whole_vectors(int64_t size) { return (size + kLanes - 1) / kLanes * kLanes; }

// A block of the product of a [rows, depth] and b [depth, columns], whose sums stay in registers; with `add`, it is added
// to what `out` holds.
template <bool add, int rows, int columns>
inline void block(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t depth, float* out,
                  int64_t out_stride) {
  Vector sums[rows][columns];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < columns; ++c) {
      sums[r][c] = add ? *reinterpret_cast<const Vector*>(out + r * out_stride + c * kLanes) : Vector{};
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    Vector right[columns];
#pragma GCC unroll 8
    for (int c = 0; c < columns; ++c) { right[c] = *reinterpret_cast<const Vector*>(b + k * b_stride + c * kLanes); }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const float left = a[r * a_stride + k];
#pragma GCC unroll 8
      for (int c = 0; c < columns; ++c) { sums[r][c] += left * right[c]; }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < columns; ++c) { *reinterpret_cast<Vector*>(out + r * out_stride + c * kLanes) = sums[r][c]; }
  }
}

template <bool add, int rows>
void multiply_rows(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t width, int64_t depth,
                   float* out) {
  int64_t column = 0;
  for (; column + kColumns * kLanes <= width; column += kColumns * kLanes) {
    block<add, rows, kColumns>(a, a_stride, b + column, b_stride, depth, out + column, width);
  }
  for (; column < width; column += kLanes) {
    block<add, rows, 1>(a, a_stride, b + column, b_stride, depth, out + column, width);
  }
}

// out [rows, width] = a [rows, depth] b [depth, width], or with `add` += ; width is a multiple of kLanes. Each matrix but
// the last has its own distance between rows.
template <bool add = false>
void multiply(int64_t rows, const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t width,
              int64_t depth, float* out) {
  for (; rows >= kRows; rows -= kRows, a += kRows * a_stride, out += kRows * width) {
    multiply_rows<add, kRows>(a, a_stride, b, b_stride, width, depth, out);
  }
  switch (rows) {
    case 1: return multiply_rows<add, 1>(a, a_stride, b, b_stride, width, depth, out);
    case 2: return multiply_rows<add, 2>(a, a_stride, b, b_stride, width, depth, out);
    case 3: return multiply_rows<add, 3>(a, a_stride, b, b_stride, width, depth, out);
    case 4: return multiply_rows<add, 4>(a, a_stride, b, b_stride, width, depth, out);
    case 5: return multiply_rows<add, 5>(a, a_stride, b, b_stride, width, depth, out);
  }
}
template <bool add = false>
void multiply(int64_t rows, const float* a, int64_t a_stride, const float* b, int64_t width, int64_t depth,
              float* out) {
  multiply<add>(rows, a, a_stride, b, width, width, depth, out);
}

// Between vectors i and i + step, swaps the lanes that are in the wrong one of the two once rows are columns.
template <int step>
inline void exchange_lanes(Vector* vectors) {
  Indices first{}, second{};
#pragma GCC unroll 16
  for (int lane = 0; lane < kLanes; ++lane) {
    first[lane] = lane & step ? kLanes + lane - step : lane;
    second[lane] = lane & step ? kLanes + lane : lane + step;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if (i & step) { continue; }
    const Vector one = vectors[i], other = vectors[i + step];
    vectors[i] = __builtin_shuffle(one, other, first);
    vectors[i + step] = __builtin_shuffle(one, other, second);
  }
}

// to [kLanes, kLanes] = the transpose of from [kLanes, kLanes], each with its own distance between rows.
inline void transpose_block(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  Vector rows[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) { rows[i] = *reinterpret_cast<const Vector*>(from + i * from_stride); }
  if constexpr (kLanes == 16) { exchange_lanes<8>(rows); }
  exchange_lanes<4>(rows);
  exchange_lanes<2>(rows);
  exchange_lanes<1>(rows);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) { *reinterpret_cast<Vector*>(to + i * to_stride) = rows[i]; }
}

}  // namespace kernels
