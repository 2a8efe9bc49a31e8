// GELU in its exact form x Φ(x) (Hendrycks & Gimpel 2016), alone and fused with the preceding bias.
#include "bias.h"
#include "kernel.h"
#include "rows.h"

namespace kernels {
namespace {

inline float gelu_of(float x) { return x * normal(x).distribution; }

inline float gelu_slope(float x) {
  constexpr float kInvSqrt2Pi = 0.398942280f;
  const Normal at = normal(x);
  return at.distribution + x * at.bell * kInvSqrt2Pi;
}

void gelu(Context* ctx) {
  const float* x = in(ctx, "in");
  float* y = out(ctx, "out");
  for_each_block(count(ctx, "out"), [=](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) { y[i] = gelu_of(x[i]); }
  });
}

void gelu_grad(Context* ctx) {
  const float *x = in(ctx, "x"), *dy = in(ctx, "dy");
  float* dx = out(ctx, "dx");
  for_each_block(count(ctx, "dx"), [=](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) { dx[i] = dy[i] * gelu_slope(x[i]); }
  });
}

void fused_bias_add_gelu(Context* ctx) {
  const float *a = in(ctx, "a"), *b = in(ctx, "b");
  float* result = out(ctx, "out");
  for_each_biased_row(ctx, b, [=](int64_t begin, int64_t size, const float* bias, auto step) {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) { result[begin + i] = gelu_of(a[begin + i] + bias[i * step]); }
  });
}

void fused_bias_add_gelu_grad(Context* ctx) {
  const float *a = in(ctx, "a"), *b = in(ctx, "b"), *dy = in(ctx, "dy");
  float* dx = out(ctx, "dx");
  for_each_biased_row(ctx, b, [=](int64_t begin, int64_t size, const float* bias, auto step) {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) { dx[begin + i] = dy[begin + i] * gelu_slope(a[begin + i] + bias[i * step]); }
  });
}

REGISTER("gelu", gelu).SetIsMatchedHob(float_cpu("out"));
REGISTER("gelu_grad", gelu_grad).SetIsMatchedHob(float_cpu("dx")).SetInplaceProposalFn(may_overwrite("dx", "dy"));
REGISTER("fused_bias_add_gelu", fused_bias_add_gelu).SetIsMatchedHob(float_cpu("out"));
REGISTER("fused_bias_add_gelu_grad", fused_bias_add_gelu_grad)
    .SetIsMatchedHob(float_cpu("dx"))
    .SetInplaceProposalFn(may_overwrite("dx", "dy"));

}  // namespace
}  // namespace kernels
