// Softmax over the last axis, alone and fused with attention's scaling, mask and dropout.
#include "kernel.h"
#include "rows.h"

namespace kernels {
namespace {

struct Shape {
  int64_t rows, columns;
};
Shape shape_of(Context* ctx, const char* name) {
  const std::vector<int64_t> sizes = dims(ctx, name);
  return {product(sizes, 0, sizes.size() - 1), sizes.back()};
}

// y = e^(y - max) / sum, in place.
void normalize_row(float* y, int64_t columns) {
  const float scale = 1.f / row_exp_sum(y, row_max(y, columns), y, columns);
#pragma omp simd
  for (int64_t c = 0; c < columns; ++c) { y[c] *= scale; }
}

void softmax(Context* ctx) {
  const Shape shape = shape_of(ctx, "out");
  const float* x = in(ctx, "in");
  float* y = out(ctx, "out");
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < shape.rows; ++row) {
    float* y_row = y + row * shape.columns;
    std::memmove(y_row, x + row * shape.columns, 4 * shape.columns);
    normalize_row(y_row, shape.columns);
  }
}

// dx = y * (dy - sum(dy * y))
void softmax_grad(Context* ctx) {
  const Shape shape = shape_of(ctx, "dx");
  const float *y = in(ctx, "y"), *dy = in(ctx, "dy");
  float* dx = out(ctx, "dx");
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < shape.rows; ++row) {
    const int64_t begin = row * shape.columns;
    const float dot = row_dot(y + begin, dy + begin, shape.columns);
#pragma omp simd
    for (int64_t c = 0; c < shape.columns; ++c) { dx[begin + c] = y[begin + c] * (dy[begin + c] - dot); }
  }
}

// The attention mask, which is broadcast to the shape of the scores.
class Mask {
 public:
  Mask(Context* ctx, const char* scores)
      : data_(mask_of(ctx, "mask")), sizes_(dims(ctx, scores)), strides_(sizes_.size(), 0) {
    const std::vector<int64_t> own = dims(ctx, "mask");
    int64_t stride = 1;
    for (size_t back = 1; back <= own.size(); ++back) {  // the last axes are aligned
      const int64_t size = own[own.size() - back];
      if (size != 1) { strides_[sizes_.size() - back] = stride; }
      stride *= size;
    }
  }
  const uint8_t* row(int64_t row) const {
    int64_t offset = 0;
    for (size_t axis = sizes_.size() - 1; axis-- > 0;) {
      offset += row % sizes_[axis] * strides_[axis];
      row /= sizes_[axis];
    }
    return data_ + offset;
  }
  int64_t step() const { return strides_.back(); }  // 0: one value for all of a row

 private:
  const uint8_t* data_;
  std::vector<int64_t> sizes_, strides_;
};

// result = mask ? scale * x : fill
inline void masked_row(const float* x, const uint8_t* mask, int64_t step, float scale, float fill, float* result,
                       int64_t columns) {
  if (step == 0) {
    for (int64_t c = 0; c < columns; ++c) { result[c] = *mask ? scale * x[c] : fill; }
  } else {
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) {
      const int32_t keep = mask[c];
      const float scaled = scale * x[c];
      result[c] = keep ? scaled : fill;
    }
  }
}

// softmax_y = softmax(mask ? x * scale : fill); y = dropout(softmax_y) unless `dropout_mask` is null.
void masked_softmax(Context* ctx, float* softmax_y, const uint8_t* dropout_mask, float dropout_scale, float* y) {
  const Shape shape = shape_of(ctx, "x");
  const Mask mask(ctx, "x");
  const float scale = ctx->Attr<float>("scale_value"), fill = ctx->Attr<float>("mask_fill_value");
  const float* x = in(ctx, "x");
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < shape.rows; ++row) {
    const int64_t begin = row * shape.columns;
    float* probs = softmax_y + begin;
    masked_row(x + begin, mask.row(row), mask.step(), scale, fill, probs, shape.columns);
    normalize_row(probs, shape.columns);
    if (dropout_mask) {
#pragma omp simd
      for (int64_t c = 0; c < shape.columns; ++c) {
        y[begin + c] = probs[c] * (dropout_scale * static_cast<float>(dropout_mask[begin + c]));
      }
    }
  }
}

void fused_scale_mask_softmax(Context* ctx) { masked_softmax(ctx, out(ctx, "y"), nullptr, 1.f, nullptr); }

void fused_scale_mask_softmax_dropout(Context* ctx) {
  masked_softmax(ctx, out(ctx, "softmax_y"), mask_of(ctx, "dropout_mask"),
                 ctx->Attr<float>("dropout_scale_value"), out(ctx, "y"));
}

// Both backward ops: g = dropout's gradient of dy, dx = mask ? scale * y * (g - sum(g * y)) : 0.
void masked_softmax_grad(Context* ctx, const float* y, const uint8_t* dropout_mask, float dropout_scale) {
  const Shape shape = shape_of(ctx, "dy");
  const Mask mask(ctx, "dy");
  const float scale = ctx->Attr<float>("scale_value");
  const float* dy = in(ctx, "dy");
  float* dx = out(ctx, "dx");
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < shape.rows; ++row) {
    const int64_t begin = row * shape.columns;
    const float* probs = y + begin;
    float* result = dx + begin;
    if (dropout_mask) {
#pragma omp simd
      for (int64_t c = 0; c < shape.columns; ++c) {
        result[c] = dy[begin + c] * (dropout_scale * static_cast<float>(dropout_mask[begin + c]));
      }
    } else {
      std::memmove(result, dy + begin, 4 * shape.columns);
    }
    const float dot = row_dot(result, probs, shape.columns);
#pragma omp simd
    for (int64_t c = 0; c < shape.columns; ++c) { result[c] = probs[c] * (result[c] - dot); }
    masked_row(result, mask.row(row), mask.step(), scale, 0.f, result, shape.columns);
  }
}

void fused_scale_mask_softmax_grad(Context* ctx) { masked_softmax_grad(ctx, in(ctx, "y"), nullptr, 1.f); }

void fused_scale_mask_softmax_dropout_grad(Context* ctx) {
  masked_softmax_grad(ctx, in(ctx, "softmax_y"), mask_of(ctx, "dropout_mask"),
                      ctx->Attr<float>("dropout_scale_value"));
}

REGISTER("softmax", softmax).SetIsMatchedHob(float_cpu("out")).SetInplaceProposalFn(may_overwrite("out", "in"));
REGISTER("softmax_grad", softmax_grad)
    .SetIsMatchedHob(float_cpu("dx"))
    .SetInplaceProposalFn(may_overwrite("dx", "dy"));
REGISTER("fused_scale_mask_softmax", fused_scale_mask_softmax)
    .SetIsMatchedHob(float_cpu("x"))
    .SetInplaceProposalFn(may_overwrite("y", "x"));
REGISTER("fused_scale_mask_softmax_dropout", fused_scale_mask_softmax_dropout)
    .SetIsMatchedHob(float_cpu("x"))
    .SetInplaceProposalFn(may_overwrite("softmax_y", "x"));
REGISTER("fused_scale_mask_softmax_grad", fused_scale_mask_softmax_grad)
    .SetIsMatchedHob(float_cpu("dy"))
    .SetInplaceProposalFn(may_overwrite("dx", "dy"));
REGISTER("fused_scale_mask_softmax_dropout_grad", fused_scale_mask_softmax_dropout_grad)
    .SetIsMatchedHob(float_cpu("dy"))
    .SetInplaceProposalFn(may_overwrite("dx", "dy"));

}  // namespace
}  // namespace kernels
