// Self-attention over sequences that lie one behind the other, without padding.
#pragma once
#include <cstdint>
#include <vector>

#include "encoder_rows.h"

namespace kernels {

// Angles by which queries and keys are rotated (modeling/positions.py): element i of a head becomes
// x[i] cosines[i] + x[the same element of its other half] sines[i].
struct Rotation {
  const float *cosines, *sines;  // [positions, head_size]; null: no rotation
  const int32_t* positions;      // of each token
};

struct AttentionShape {
  int64_t heads, head_size;
  int64_t reach;        // how far a token sees to both sides; negative: without a limit
  const float* slopes;  // ALiBi's, of each head; null: none
  Rotation rotation;
  int64_t hidden() const { return heads * head_size; }
};

// softmax(Q Kᵀ / √D - slope * distance) V for each sequence and head.
//   projected: finished rows of T, or raw float32 ones: queries, keys and values side by side, [tokens, 3 * hidden].
//   begins: where each sequence begins, and the end of the last one.
//   context: [tokens, hidden].
template <class T>
void attend(const T* projected, const AttentionShape& shape, const std::vector<int64_t>& begins, T* context);
template <class T>
void attend(const RawRows& projected, const AttentionShape& shape, const std::vector<int64_t>& begins, T* context);

}  // namespace kernels
