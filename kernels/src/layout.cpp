// Copies that change the order of a tensor's elements.
#include "kernel.h"
#include "onednn.h"

namespace kernels {
namespace {

// The same for repeated elements (strides of 0, as `expand` makes), which oneDNN does not describe.
void copy_repeated(const float* from, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides,
                   float* to) {
  const int64_t columns = sizes.back(), step = strides.back(), rows = product(sizes, 0, sizes.size() - 1);
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < rows; ++row) {
    int64_t offset = 0, index = row;
    for (size_t axis = sizes.size() - 1; axis-- > 0; index /= sizes[axis]) {
      offset += index % sizes[axis] * strides[axis];
    }
    for (int64_t c = 0; c < columns; ++c) { to[row * columns + c] = from[offset + c * step]; }
  }
}

// from (sizes, strides in elements) -> to, row-major in the same sizes
void copy_strided(const float* from, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides,
                  float* to) {
  if (sizes.empty() || std::count(strides.begin(), strides.end(), 0)) {
    return sizes.empty() ? void(*to = *from) : copy_repeated(from, sizes, strides, to);
  }
  onednn::Key key = {static_cast<int64_t>(sizes.size())};
  key.insert(key.end(), sizes.begin(), sizes.end());
  key.insert(key.end(), strides.begin(), strides.end());
  onednn::reorder(from, onednn::Layout(sizes, strides), to, onednn::Layout(sizes), key);
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

REGISTER("transpose", transpose).SetIsMatchedHob(float_cpu("output"));
REGISTER("to_contiguous", to_contiguous).SetIsMatchedHob(float_cpu("out"));

}  // namespace
}  // namespace kernels
