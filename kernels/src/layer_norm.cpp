// Layer normalization and its gradients; the statistics are [rows], everything else [rows, columns].
#include "kernel.h"
#include "onednn.h"
#include "rows.h"

namespace kernels {
namespace {

struct Shape {
  int64_t rows, columns;
};
Shape shape_of(Context* ctx, const char* data, const char* statistics) {
  const int64_t rows = count(ctx, statistics);
  return {rows, rows ? count(ctx, data) / rows : 0};
}

int64_t bits_of(float value) {
  int32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

dnnl_primitive_desc_t describe_forward(Shape shape, float epsilon, unsigned flags) {
  const onednn::Layout data({shape.rows, shape.columns}), statistics({shape.rows});
  dnnl_primitive_desc_t desc = nullptr;
  onednn::check(dnnl_layer_normalization_forward_primitive_desc_create(
                    &desc, onednn::engine(), dnnl_forward_training, data, data, statistics, epsilon, flags,
                    onednn::Attributes()),
                "layer normalization");
  return desc;
}

// For the backward pass, OneFlow keeps 1 / sqrt(variance + epsilon), while oneDNN outputs the variance.
void layer_norm(Context* ctx) {
  const Shape shape = shape_of(ctx, "x", "mean");
  const float epsilon = ctx->Attr<double>("epsilon");
  const float *gamma = in_or_null(ctx, "gamma"), *beta = in_or_null(ctx, "beta");
  const unsigned flags = (gamma ? dnnl_use_scale : 0) | (beta ? dnnl_use_shift : 0);
  float *y = out(ctx, "y"), *mean = out(ctx, "mean"), *inv_variance = out(ctx, "inv_variance");
  onednn::cached({onednn::kLayerNorm, shape.rows, shape.columns, bits_of(epsilon), flags}, [&] {
    return describe_forward(shape, epsilon, flags);
  }).run({{DNNL_ARG_SRC, in(ctx, "x")},
          {DNNL_ARG_DST, y},
          {DNNL_ARG_MEAN, mean},
          {DNNL_ARG_VARIANCE, inv_variance},
          {DNNL_ARG_SCALE, gamma},
          {DNNL_ARG_SHIFT, beta}});
  for (int64_t row = 0; row < shape.rows; ++row) { inv_variance[row] = 1.f / std::sqrt(inv_variance[row] + epsilon); }
}

// dx = inv * (g - mean(g) - xhat * mean(g * xhat)) with g = dy * gamma, xhat = (x - mean) * inv. oneDNN's version needs
// the variance, which cannot be recovered from inv_variance when epsilon dominates it, as in a constant row.
void layer_norm_grad(Context* ctx) {
  const Shape shape = shape_of(ctx, "dy", "mean");
  const int64_t columns = shape.columns;
  const float *dy = in(ctx, "dy"), *x = in(ctx, "x"), *gamma = in_or_null(ctx, "gamma");
  const float *mean = in(ctx, "mean"), *inv_variance = in(ctx, "inv_variance");
  const float* addend = in_or_null(ctx, "_add_to_output");
  float* dx = out(ctx, "dx");
  if (!gamma) {
    float* ones = scratch_floats(Scratch::kRows, columns);
    std::fill_n(ones, columns, 1.f);
    gamma = ones;
  }
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < shape.rows; ++row) {
    const float *dy_row = dy + row * columns, *x_row = x + row * columns;
    float* dx_row = dx + row * columns;
    const float center = mean[row], inv = inv_variance[row];
    float sum = 0.f, dot = 0.f;
#pragma omp simd reduction(+ : sum, dot)
    for (int64_t c = 0; c < columns; ++c) {
      const float g = dy_row[c] * gamma[c];
      sum += g;
      dot += g * (x_row[c] - center);
    }
    sum /= columns;
    dot *= inv * inv / columns;
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) {
      dx_row[c] = inv * (dy_row[c] * gamma[c] - sum - (x_row[c] - center) * dot);
    }
    if (addend) {
#pragma omp simd
      for (int64_t c = 0; c < columns; ++c) { dx_row[c] += addend[row * columns + c]; }
    }
  }
}

// gamma_diff = sum over rows of dy * xhat, beta_diff = sum over rows of dy.
void layer_norm_param_grad(Context* ctx) {
  const bool has_gamma = ctx->has_output("gamma_diff", 0), has_beta = ctx->has_output("beta_diff", 0);
  const int64_t rows = count(ctx, "mean");
  const int64_t columns = count(ctx, has_gamma ? "gamma_diff" : "beta_diff");
  const float *dy = in(ctx, "dy"), *x = in(ctx, "x"), *mean = in(ctx, "mean"), *inv = in(ctx, "inv_variance");
  float* sums = scratch_floats(Scratch::kLeft, 2 * columns);
  sum_rows(rows, 2 * columns, sums, [&](int64_t row, float* own) {
    const float *dy_row = dy + row * columns, *x_row = x + row * columns;
    const float center = mean[row], scale = inv[row];
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) {
      own[c] += dy_row[c] * (x_row[c] - center) * scale;
      own[columns + c] += dy_row[c];
    }
  });
  if (has_gamma) { std::memcpy(out(ctx, "gamma_diff"), sums, 4 * columns); }
  if (has_beta) { std::memcpy(out(ctx, "beta_diff"), sums + columns, 4 * columns); }
}

REGISTER("layer_norm", layer_norm).SetIsMatchedHob(float_cpu("x"));
REGISTER("layer_norm_grad", layer_norm_grad)
    .SetIsMatchedHob(float_cpu("dy"))
    .SetInplaceProposalFn(may_overwrite("dx", "dy"));
REGISTER("layer_norm_param_grad", layer_norm_param_grad).SetIsMatchedHob(float_cpu("dy"));

}  // namespace
}  // namespace kernels
