// Rows of a tensor `a` beside the bias that the op adds along its attribute `axis`.
#pragma once
#include <type_traits>

#include "kernel.h"

namespace kernels {

// Runs `body(begin, size, bias, step)` in parallel over rows: element begin + i of `a` meets bias[i * step]. The step
// is a constant, 1 where the bias runs along the last axis and 0 where a whole row shares one value.
template <class Body>
void for_each_biased_row(Context* ctx, const float* bias, Body body) {
  const std::vector<int64_t> sizes = dims(ctx, "a");
  const int64_t axis = ctx->Attr<int32_t>("axis");
  const int64_t outer = product(sizes, 0, axis), length = sizes[axis], inner = product(sizes, axis + 1, sizes.size());
  if (inner == 1) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < outer; ++row) {
      body(row * length, length, bias, std::integral_constant<int64_t, 1>());
    }
  } else {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < outer * length; ++row) {
      body(row * inner, inner, bias + row % length, std::integral_constant<int64_t, 0>());
    }
  }
}

}  // namespace kernels
