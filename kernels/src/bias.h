// Iteration over the rows of a tensor `a` and the bias that an op adds to it along its attribute `axis`.
#pragma once
#include <type_traits>

#include "kernel.h"

namespace kernels {

// Runs `body(begin, size, bias, step)` in parallel over rows: bias[i * step] belongs to element begin + i of `a`. The
// step is a compile-time constant, 1 if the bias runs along the last axis and 0 if all of a row shares one value.
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
