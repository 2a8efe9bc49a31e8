#include "sequence_attention.h"

#include <omp.h>

#include "kernel.h"
#include "small_products.h"

namespace kernels {
namespace {

void rotate(const Rotation& rotation, int64_t token, int64_t size, float* head) {
  if (rotation.cosines == nullptr) { return; }
  const int64_t half = size / 2, offset = rotation.positions[token] * size;
  const float *cosines = rotation.cosines + offset, *sines = rotation.sines + offset;
#pragma omp simd
  for (int64_t i = 0; i < half; ++i) {
    const float first = head[i], second = head[half + i];
    head[i] = first * cosines[i] + second * sines[i];
    head[half + i] = second * cosines[half + i] + first * sines[half + i];
  }
}

// Scores of a query with the keys [first, first + count): subtracts ALiBi's distances, and removes keys beyond the reach.
void limit(float* scores, int64_t query, int64_t first, int64_t count, int64_t reach, float slope) {
  if (slope != 0.f) {
    const int64_t distance = first - query;
#pragma omp simd
    for (int64_t k = 0; k < count; ++k) { scores[k] -= slope * std::fabs(static_cast<float>(distance + k)); }
  }
  if (reach < 0) { return; }
  constexpr float kExcluded = -std::numeric_limits<float>::infinity();
  const int64_t begin = std::max<int64_t>(0, query - reach - first), end = std::min(count, query + reach + 1 - first);
  std::fill(scores, scores + begin, kExcluded);
  std::fill(scores + end, scores + count, kExcluded);
}

// One head of one sequence, for some of its queries. `read(token, column, size, to)` gives a part of a projected row.
template <class T, class Read>
void attend_head(const Read& read, const AttentionShape& shape, int64_t begin, int64_t end, int64_t first_query,
                 int64_t last_query, int64_t head, T* context) {
  if (first_query >= last_query) { return; }
  const int64_t size = shape.head_size, hidden = shape.hidden(), column = head * size, reach = shape.reach;
  // The keys that these queries see.
  const int64_t first_key = reach < 0 ? begin : std::max(begin, begin + first_query - reach);
  const int64_t length = (reach < 0 ? end : std::min(end, begin + last_query + reach)) - first_key;
  const int64_t keys = whole_vectors(length), width = whole_vectors(size);
  float* memory =
      scratch_floats(Scratch::kAttention, width * keys + length * width + kLanes * width + kRows * (2 * width + keys));
  float *transposed = memory, *values = transposed + width * keys, *some_keys = values + length * width;
  float *queries = some_keys + kLanes * width, *scores = queries + kRows * width, *sums = scores + kRows * keys;
  // What pads a head or the keys is zero.
  for (int64_t key = 0; key < keys; key += kLanes) {
    std::fill_n(some_keys, kLanes * width, 0.f);
    for (int64_t k = key; k < std::min(key + kLanes, length); ++k) {
      float* row = some_keys + (k - key) * width;
      read(first_key + k, hidden + column, size, row);
      rotate(shape.rotation, first_key + k, size, row);
    }
    for (int64_t d = 0; d < width; d += kLanes) {
      transpose_block(some_keys + d, width, transposed + d * keys + key, keys);
    }
  }
  for (int64_t k = 0; k < length; ++k) {
    std::fill(values + k * width + size, values + (k + 1) * width, 0.f);
    read(first_key + k, 2 * hidden + column, size, values + k * width);
  }
  const float scale = 1.f / std::sqrt(static_cast<float>(size)), slope = shape.slopes ? shape.slopes[head] : 0.f;
  for (int64_t query = begin + first_query; query < begin + last_query; query += kRows) {
    const int64_t rows = std::min<int64_t>(kRows, begin + last_query - query);
    for (int64_t r = 0; r < rows; ++r) {
      float* row = queries + r * width;
      read(query + r, column, size, row);
      rotate(shape.rotation, query + r, size, row);
#pragma omp simd
      for (int64_t d = 0; d < size; ++d) { row[d] *= scale; }
    }
    // The keys that these few queries see, from a whole vector on.
    const int64_t position = query - first_key;
    const int64_t first = reach < 0 ? 0 : std::max<int64_t>(0, position - reach) / kLanes * kLanes;
    const int64_t seen = (reach < 0 ? length : std::min(length, position + rows + reach)) - first;
    const int64_t stride = whole_vectors(seen);
    multiply(rows, queries, width, transposed + first, keys, stride, size, scores);
    float inverse[kRows];
    for (int64_t r = 0; r < rows; ++r) {
      float* row = scores + r * stride;
      limit(row, position + r, first, seen, reach, slope);
      inverse[r] = 1.f / row_exp_sum(row, row_max(row, seen), row, seen);
    }
    multiply(rows, scores, stride, values + first * width, width, seen, sums);
    for (int64_t r = 0; r < rows; ++r) {
      float* row = sums + r * width;
#pragma omp simd
      for (int64_t d = 0; d < size; ++d) { row[d] *= inverse[r]; }
      write_row(row, context + (query + r) * hidden + column, size);
    }
  }
}

// Sequences and heads in parallel, and where there are too few of them for the threads, blocks of queries, too.
template <class T, class Read>
void attend_all(const Read& read, const AttentionShape& shape, const std::vector<int64_t>& begins, T* context) {
  const int64_t sequences = static_cast<int64_t>(begins.size()) - 1, threads = omp_get_max_threads();
  const int64_t tasks = sequences * shape.heads, blocks = std::max<int64_t>(1, (2 * threads + tasks - 1) / tasks);
#pragma omp parallel for collapse(3) schedule(dynamic, 1)
  for (int64_t sequence = 0; sequence < sequences; ++sequence) {
    for (int64_t head = 0; head < shape.heads; ++head) {
      for (int64_t part = 0; part < blocks; ++part) {
        const int64_t begin = begins[sequence], end = begins[sequence + 1], length = end - begin;
        const int64_t queries = (length + blocks - 1) / blocks, first = std::min(part * queries, length);
        attend_head(read, shape, begin, end, first, std::min(first + queries, length), head, context);
      }
    }
  }
}

}  // namespace

template <class T>
void attend(const T* projected, const AttentionShape& shape, const std::vector<int64_t>& begins, T* context) {
  const int64_t stride = 3 * shape.hidden();
  attend_all([=](int64_t token, int64_t column, int64_t size,
                 float* to) { read_row(projected + token * stride + column, to, size); },
             shape, begins, context);
}
template <class T>
void attend(const RawRows& projected, const AttentionShape& shape, const std::vector<int64_t>& begins, T* context) {
  attend_all([=](int64_t token, int64_t column, int64_t size,
                 float* to) { finish_row(projected, token, column, size, to); },
             shape, begins, context);
}

template void attend(const float*, const AttentionShape&, const std::vector<int64_t>&, float*);
template void attend(const Bf16*, const AttentionShape&, const std::vector<int64_t>&, Bf16*);
template void attend(const RawRows&, const AttentionShape&, const std::vector<int64_t>&, float*);
template void attend(const RawRows&, const AttentionShape&, const std::vector<int64_t>&, Bf16*);

}  // namespace kernels
