#include "sequence_attention.h"

#include <omp.h>

#include "kernel.h"
#include "small_products.h"

namespace kernels {
namespace {

// One head of one sequence, for some of its queries. `read(token, column, size, to)` gives a part of a projected row.
template <class T, class Read>
void attend_head(const Read& read, const AttentionShape& shape, int64_t begin, int64_t end, int64_t first_query,
                 int64_t last_query, int64_t head, T* context) {
  const int64_t length = end - begin, size = shape.head_size, hidden = shape.hidden(), column = head * size;
  const int64_t keys = whole_vectors(length), width = whole_vectors(size);
  float* memory =
      scratch_floats(Scratch::kAttention, width * keys + length * width + kLanes * width + kRows * (2 * width + keys));
  float *transposed = memory, *values = transposed + width * keys, *some_keys = values + length * width;
  float *queries = some_keys + kLanes * width, *scores = queries + kRows * width, *sums = scores + kRows * keys;
  // What pads a head or the keys is zero.
  for (int64_t key = 0; key < keys; key += kLanes) {
    std::fill_n(some_keys, kLanes * width, 0.f);
    for (int64_t k = key; k < std::min(key + kLanes, length); ++k) {
      read(begin + k, hidden + column, size, some_keys + (k - key) * width);
    }
    for (int64_t d = 0; d < width; d += kLanes) {
      transpose_block(some_keys + d, width, transposed + d * keys + key, keys);
    }
  }
  for (int64_t k = 0; k < length; ++k) {
    std::fill(values + k * width + size, values + (k + 1) * width, 0.f);
    read(begin + k, 2 * hidden + column, size, values + k * width);
  }
  const float scale = 1.f / std::sqrt(static_cast<float>(size));
  for (int64_t query = first_query; query < last_query; query += kRows) {
    const int64_t rows = std::min<int64_t>(kRows, last_query - query);
    for (int64_t r = 0; r < rows; ++r) {
      float* row = queries + r * width;
      read(begin + query + r, column, size, row);
#pragma omp simd
      for (int64_t d = 0; d < size; ++d) { row[d] *= scale; }
    }
    multiply(rows, queries, width, transposed, keys, size, scores);
    float inverse[kRows];
    for (int64_t r = 0; r < rows; ++r) {
      float* row = scores + r * keys;
      inverse[r] = 1.f / row_exp_sum(row, row_max(row, length), row, length);
    }
    multiply(rows, scores, keys, values, width, length, sums);
    for (int64_t r = 0; r < rows; ++r) {
      float* row = sums + r * width;
#pragma omp simd
      for (int64_t d = 0; d < size; ++d) { row[d] *= inverse[r]; }
      write_row(row, context + (begin + query + r) * hidden + column, size);
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
