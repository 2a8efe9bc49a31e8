// bf16 numbers: the upper half of a float32.
#pragma once
#include <cstdint>

namespace kernels {

struct Bf16 {
  uint16_t bits;
};

// To the nearest bf16, ties to even; NaN stays NaN.
inline uint16_t round_to_bf16(float value) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  const uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  return (bits & 0x7FFFFFFF) > 0x7F800000 ? 0x7FC0 : rounded;
}
inline void round_to_bf16(const float* from, uint16_t* to, int64_t size) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) { to[i] = round_to_bf16(from[i]); }
}

// Rows of float32 or bf16 numbers are read into and written from float32 rows.
inline void read_row(const float* from, float* to, int64_t size) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) { to[i] = from[i]; }
}
inline void read_row(const Bf16* from, float* to, int64_t size) {
  const auto* bits = reinterpret_cast<const uint16_t*>(from);
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) { to[i] = __builtin_bit_cast(float, static_cast<uint32_t>(bits[i]) << 16); }
}
inline void write_row(const float* from, float* to, int64_t size) { read_row(from, to, size); }
inline void write_row(const float* from, Bf16* to, int64_t size) {
  round_to_bf16(from, reinterpret_cast<uint16_t*>(to), size);
}

}  // namespace kernels
