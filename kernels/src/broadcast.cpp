// Elementwise +, -, * and / of two tensors with broadcasting.
#include "kernel.h"

namespace kernels {
namespace {

// One axis of the result, and the stride of each operand along it (0 if it is broadcast).
struct Axis {
  int64_t size, x_step, y_step;
};

// The axes of the result, with adjacent axes merged where both operands are contiguous across them.
std::vector<Axis> joined_axes(const std::vector<int64_t>& x, const std::vector<int64_t>& y,
                              const std::vector<int64_t>& z) {
  std::vector<Axis> axes;  // last first
  int64_t x_stride = 1, y_stride = 1;
  for (size_t back = 1; back <= z.size(); ++back) {
    const int64_t x_size = back <= x.size() ? x[x.size() - back] : 1;
    const int64_t y_size = back <= y.size() ? y[y.size() - back] : 1;
    const Axis axis = {z[z.size() - back], x_size == 1 ? 0 : x_stride, y_size == 1 ? 0 : y_stride};
    x_stride *= x_size;
    y_stride *= y_size;
    if (axis.size == 1) { continue; }
    if (!axes.empty() && axis.x_step == axes.back().x_step * axes.back().size
        && axis.y_step == axes.back().y_step * axes.back().size) {
      axes.back().size *= axis.size;
    } else {
      axes.push_back(axis);
    }
  }
  if (axes.empty()) { axes.push_back({1, 1, 1}); }
  return {axes.rbegin(), axes.rend()};
}

template <class Operation>
void broadcast(Context* ctx) {
  const std::vector<Axis> axes = joined_axes(dims(ctx, "x"), dims(ctx, "y"), dims(ctx, "z"));
  const float *x = in(ctx, "x"), *y = in(ctx, "y");
  float* z = out(ctx, "z");
  const Axis last = axes.back();
  const int64_t rows = count(ctx, "z") / last.size, blocks = (last.size + kBlock - 1) / kBlock;
#pragma omp parallel for schedule(static)
  for (int64_t task = 0; task < rows * blocks; ++task) {
    int64_t index = task / blocks;
    const int64_t begin = task % blocks * kBlock, size = std::min(kBlock, last.size - begin);
    float* result = z + index * last.size + begin;
    const float *left = x + begin * last.x_step, *right = y + begin * last.y_step;
    for (size_t axis = axes.size() - 1; axis-- > 0; index /= axes[axis].size) {
      left += index % axes[axis].size * axes[axis].x_step;
      right += index % axes[axis].size * axes[axis].y_step;
    }
    if (last.x_step && last.y_step) {
#pragma omp simd
      for (int64_t i = 0; i < size; ++i) { result[i] = Operation::of(left[i], right[i]); }
    } else if (last.x_step) {
      const float other = *right;
#pragma omp simd
      for (int64_t i = 0; i < size; ++i) { result[i] = Operation::of(left[i], other); }
    } else {
      const float one = *left;
#pragma omp simd
      for (int64_t i = 0; i < size; ++i) { result[i] = Operation::of(one, right[i]); }
    }
  }
}

struct Add {
  static float of(float a, float b) { return a + b; }
};
struct Subtract {
  static float of(float a, float b) { return a - b; }
};
struct Multiply {
  static float of(float a, float b) { return a * b; }
};
struct Divide {
  static float of(float a, float b) { return a / b; }
};

REGISTER("broadcast_add", broadcast<Add>).SetIsMatchedHob(float_cpu("z"));
REGISTER("broadcast_sub", broadcast<Subtract>).SetIsMatchedHob(float_cpu("z"));
REGISTER("broadcast_mul", broadcast<Multiply>).SetIsMatchedHob(float_cpu("z"));
REGISTER("broadcast_div", broadcast<Divide>).SetIsMatchedHob(float_cpu("z"));

}  // namespace
}  // namespace kernels
