// Copies that rearrange elements: splitting and merging attention heads, slices, expanded tensors.
#include "kernel.h"

namespace kernels {
namespace {

// Copies `from`, with strides in elements (0 for a broadcast axis), to `to`, which is row-major. oneDNN's reorder
// refuses broadcast and interleaved rows, and is no faster for rows as wide as an attention head.
void copy_strided(const float* from, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides,
                  float* to) {
  if (sizes.empty()) {
    *to = *from;
    return;
  }
  const int64_t columns = sizes.back(), step = strides.back(), rows = product(sizes, 0, sizes.size() - 1);
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < rows; ++row) {
    int64_t offset = 0, index = row;
    for (size_t axis = sizes.size() - 1; axis-- > 0; index /= sizes[axis]) {
      offset += index % sizes[axis] * strides[axis];
    }
    if (step == 1) {
      std::memcpy(to + row * columns, from + offset, 4 * columns);
    } else {
      for (int64_t c = 0; c < columns; ++c) { to[row * columns + c] = from[offset + c * step]; }
    }
  }
}

void transpose(Context* ctx) {
  const std::vector<int64_t> from = dims(ctx, "input"), to = dims(ctx, "output");
  const auto& order = ctx->Attr<std::vector<int32_t>>("perm");
  std::vector<int64_t> strides(to.size());
  for (size_t axis = 0; axis < to.size(); ++axis) { strides[axis] = product(from, order[axis] + 1, from.size()); }
  copy_strided(in(ctx, "input"), to, strides, out(ctx, "output"));
}

void to_contiguous(Context* ctx) {
  const auto& strides = tensor(ctx, "in")->stride();
  copy_strided(in(ctx, "in"), dims(ctx, "in"), {strides.begin(), strides.end()}, out(ctx, "out"));
}

// Gradients in eager mode copy the elements; compiled jobs share the memory.
void reshape(Context* ctx) {
  const float* from = in(ctx, "in");
  float* to = out(ctx, "out");
  if (from == to) { return; }
  for_each_block(count(ctx, "out"), [=](int64_t begin, int64_t end) {
    std::memcpy(to + begin, from + begin, 4 * (end - begin));
  });
}

REGISTER("reshape", reshape)
    .SetIsMatchedHob(float_cpu("out"))
    .SetInplaceProposalFn([](const user_op::InferContext&, user_op::AddInplaceArgPair add) -> oneflow::Maybe<void> {
      JUST(add("out", 0, "in", 0, false));
      return oneflow::Maybe<void>::Ok();
    });
REGISTER("transpose", transpose).SetIsMatchedHob(float_cpu("output"));
REGISTER("to_contiguous", to_contiguous).SetIsMatchedHob(float_cpu("out"));

}  // namespace
}  // namespace kernels
