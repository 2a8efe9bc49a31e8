// Sums over axes of a tensor (for example bias gradients), of several tensors, and of powers for gradient norms.
#include <atomic>
#include <cmath>
#include <limits>

#include "kernel.h"
#include "onednn.h"
#include "rows.h"

namespace kernels {
namespace {

// What multi_reduce_sum_pow_abs finds in a compiled job's gradients, for Python and for the updates of the same step.
std::atomic<double> last_power_sum{-1};  // -1: not computed yet
std::atomic<double> divided_power_sum{0};  // of the parameters that tensor parallelism divides: this rank's part
std::atomic<double> norm_limit{std::numeric_limits<double>::infinity()};
std::atomic<bool> norms_finite{true}, leaves_out{false};

void sum_axes(const float* x, const std::vector<int64_t>& sizes, const std::vector<int32_t>& axes, float* y) {
  std::vector<int64_t> kept = sizes;  // sizes of the result, with 1 for the summed axes
  for (int64_t axis : axes) { kept[axis < 0 ? axis + static_cast<int64_t>(sizes.size()) : axis] = 1; }
  size_t leading = 0;  // the number of leading axes that are summed
  while (leading < sizes.size() && kept[leading] == 1) { ++leading; }
  const int64_t rows = product(sizes, 0, leading), columns = product(sizes, leading, sizes.size());
  const int64_t result = product(kept, 0, kept.size());
  if (result == 1) {
    *y = sum_over_blocks(rows * columns, [=](int64_t begin, int64_t end) { return row_sum(x + begin, end - begin); });
  } else if (result == columns) {  // a sum of rows, as in a bias gradient
    sum_rows(rows, columns, y, [=](int64_t row, float* sums) {
#pragma omp simd
      for (int64_t c = 0; c < columns; ++c) { sums[c] += x[row * columns + c]; }
    });
  } else if (product(sizes, 0, sizes.size()) == 0) {
    std::fill_n(y, result, 0.f);
  } else {
    onednn::Key key = {onednn::kReduction};
    key.insert(key.end(), sizes.begin(), sizes.end());
    key.insert(key.end(), kept.begin(), kept.end());
    onednn::cached(key, [&] {
      const onednn::Layout from(sizes), to(kept);
      dnnl_primitive_desc_t desc = nullptr;
      onednn::check(dnnl_reduction_primitive_desc_create(&desc, onednn::engine(), dnnl_reduction_sum, from, to, 0.f,
                                                         0.f, onednn::Attributes()),
                    "reduction");
      return desc;
    }).run({{DNNL_ARG_SRC, x}, {DNNL_ARG_DST, y}});
  }
}

void reduce_sum(Context* ctx) {
  sum_axes(in(ctx, "input_tensor"), dims(ctx, "input_tensor"), ctx->Attr<std::vector<int32_t>>("axis"),
           out(ctx, "output_tensor"));
}

void reduce_sum_like(Context* ctx) {
  const auto& axes = ctx->Attr<std::vector<int32_t>>("axis");
  if (axes.empty()) {
    std::memcpy(out(ctx, "y"), in(ctx, "x"), 4 * count(ctx, "x"));
  } else {
    sum_axes(in(ctx, "x"), dims(ctx, "x"), axes, out(ctx, "y"));
  }
}

void add_n(Context* ctx) {
  const int64_t size = count(ctx, "out");
  const int inputs = ctx->input_size("in");
  float* result = out(ctx, "out");
  std::vector<const float*> terms(inputs);
  for (int i = 0; i < inputs; ++i) { terms[i] = in(ctx, "in", i); }
  for_each_block(size, [&](int64_t begin, int64_t end) {
    const float *first = terms[0], *second = inputs > 1 ? terms[1] : nullptr;
    if (second) {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) { result[i] = first[i] + second[i]; }
    } else {
      std::memmove(result + begin, first + begin, 4 * (end - begin));
    }
    for (int term = 2; term < inputs; ++term) {
      const float* next = terms[term];
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) { result[i] += next[i]; }
    }
  });
}

double square_sum(const float* x, int64_t size) {
  return sum_over_blocks(size, [=](int64_t begin, int64_t end) { return row_dot(x + begin, x + begin, end - begin); });
}

void sqrt_square_sum(Context* ctx) {
  *out(ctx, "y") = static_cast<float>(std::sqrt(square_sum(in(ctx, "x"), count(ctx, "x"))));
}

// The sum of |x|^p over all inputs: the global gradient norm before the root.
void multi_reduce_sum_pow_abs(Context* ctx, bool divided) {
  const float power = ctx->Attr<float>("p");
  double total = 0;
  for (int i = 0; i < ctx->input_size("x"); ++i) {
    const float* x = in(ctx, "x", i);
    const int64_t size = tensor(ctx, "x", i)->shape_view().elem_cnt();
    if (power == 2.f) {
      total += square_sum(x, size);
    } else {
      for (int64_t j = 0; j < size; ++j) { total += std::pow(std::fabs(static_cast<double>(x[j])), power); }
    }
  }
  *out(ctx, "y") = static_cast<float>(total);
  if (power == 2.f) {
    if (!std::isfinite(static_cast<float>(total))) { norms_finite.store(false); }
    if (divided) {
      divided_power_sum.store(divided_power_sum.load() + total);
      return;
    }
    last_power_sum.store(total);
    const double norm = std::sqrt(total);
    leaves_out.store(std::isfinite(norm) && norm > norm_limit.load());
  }
}

class MultiReduceSumPowAbs final : public user_op::OpKernel {
 public:
  std::shared_ptr<user_op::OpKernelState> CreateOpKernelState(user_op::KernelInitContext* ctx) const override {
    return std::make_shared<IsDivided>(ctx, "x");
  }

 private:
  using user_op::OpKernel::Compute;
  void Compute(Context* ctx, user_op::OpKernelState* state, const user_op::OpKernelCache*) const override {
    ProfileScope scope(ctx->op_type_name());
    const auto* divided = dynamic_cast<IsDivided*>(state);
    multi_reduce_sum_pow_abs(ctx, divided && divided->value);
  }
  bool AlwaysComputeWhenAllOutputsEmpty() const override { return false; }
};

void scalar_mul_by_tensor(Context* ctx) {
  const float *x = in(ctx, "x"), factor = *in(ctx, "scalar");
  float* y = out(ctx, "y");
  for_each_block(count(ctx, "y"), [=](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) { y[i] = x[i] * factor; }
  });
}

REGISTER("reduce_sum", reduce_sum).SetIsMatchedHob(float_cpu("output_tensor"));
REGISTER("reduce_sum_like", reduce_sum_like).SetIsMatchedHob(float_cpu("y"));
REGISTER("add_n", add_n).SetIsMatchedHob(float_cpu("out")).SetInplaceProposalFn(may_overwrite("out", "in"));
REGISTER("sqrt_square_sum", sqrt_square_sum).SetIsMatchedHob(float_cpu("y"));
REGISTER_CLASS("multi_reduce_sum_pow_abs", MultiReduceSumPowAbs).SetIsMatchedHob(float_cpu("y"));
REGISTER("scalar_mul_by_tensor", scalar_mul_by_tensor)
    .SetIsMatchedHob(float_cpu("y"))
    .SetInplaceProposalFn(may_overwrite("y", "x"));

}  // namespace

bool update_left_out() { return leaves_out.load(); }

}  // namespace kernels

// The squared gradient norm of the last step of a compiled job, which Python cannot read otherwise; -1: none yet.
EXPORTED double kernels_last_power_sum() { return kernels::last_power_sum.load(); }

// This rank's part of the squared gradient norm of divided parameters since the last call.
EXPORTED double kernels_take_divided_power_sum() { return kernels::divided_power_sum.exchange(0); }

// Begins a run: forgets all gradient norms and the limit above which an update is left out.
EXPORTED void kernels_watch_gradient_norms() {
  kernels::norms_finite.store(true);
  kernels::leaves_out.store(false);
  kernels::norm_limit.store(std::numeric_limits<double>::infinity());
}
EXPORTED void kernels_set_norm_limit(double limit) { kernels::norm_limit.store(limit); }
EXPORTED int kernels_norms_are_finite() { return kernels::norms_finite.load(); }
