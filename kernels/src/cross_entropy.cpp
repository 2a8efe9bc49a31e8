// Softmax cross entropy with integer labels; scores [rows, classes].
#include "kernel.h"
#include "rows.h"

namespace kernels {
namespace {

// out = log(sum(e^score)) - score[label], prob = softmax(score). A label outside [0, classes) has loss 0.
template <class Label>
void cross_entropy(Context* ctx) {
  const int64_t rows = count(ctx, "label"), classes = rows ? count(ctx, "prediction") / rows : 0;
  const float* scores = in(ctx, "prediction");
  const Label* labels = tensor(ctx, "label")->dptr<Label>();
  float *prob = out(ctx, "prob"), *loss = out(ctx, "out");
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < rows; ++row) {
    const float* score = scores + row * classes;
    float* y = prob + row * classes;
    const float largest = row_max(score, classes);
    const float sum = row_exp_sum(score, largest, y, classes), scale = 1.f / sum;
    const int64_t label = labels[row];
    loss[row] = label >= 0 && label < classes ? std::log(sum) + largest - score[label] : 0.f;
#pragma omp simd
    for (int64_t c = 0; c < classes; ++c) { y[c] *= scale; }
  }
}

// prediction_diff = dy * (prob - one_hot(label))
template <class Label>
void cross_entropy_grad(Context* ctx) {
  const int64_t rows = count(ctx, "label"), classes = rows ? count(ctx, "prob") / rows : 0;
  const float *prob = in(ctx, "prob"), *dy = in(ctx, "dy");
  const Label* labels = tensor(ctx, "label")->dptr<Label>();
  float* diff = out(ctx, "prediction_diff");
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < rows; ++row) {
    const float* y = prob + row * classes;
    float* result = diff + row * classes;
    const float slope = dy[row];
#pragma omp simd
    for (int64_t c = 0; c < classes; ++c) { result[c] = y[c] * slope; }
    const int64_t label = labels[row];
    if (label >= 0 && label < classes) { result[label] -= slope; }
  }
}

auto labelled_by(const char* data, DataType type) {
  return float_cpu(data) && user_op::HobDataType("label", 0) == type;
}

REGISTER("sparse_softmax_cross_entropy", cross_entropy<int32_t>)
    .SetIsMatchedHob(labelled_by("out", DataType::kInt32));
REGISTER("sparse_softmax_cross_entropy", cross_entropy<int64_t>)
    .SetIsMatchedHob(labelled_by("out", DataType::kInt64));
REGISTER("sparse_softmax_cross_entropy_grad", cross_entropy_grad<int32_t>)
    .SetIsMatchedHob(labelled_by("prediction_diff", DataType::kInt32))
    .SetInplaceProposalFn(may_overwrite("prediction_diff", "prob"));
REGISTER("sparse_softmax_cross_entropy_grad", cross_entropy_grad<int64_t>)
    .SetIsMatchedHob(labelled_by("prediction_diff", DataType::kInt64))
    .SetInplaceProposalFn(may_overwrite("prediction_diff", "prob"));

}  // namespace
}  // namespace kernels
