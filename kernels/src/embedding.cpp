// Embedding lookup (gather) and its gradient (unsorted segment sum).
#include <omp.h>

#include "kernel.h"

namespace kernels {
namespace {

// A tensor viewed as [outer, rows, inner], with `rows` being the op's `axis`.
struct View {
  int64_t outer, rows, inner;
};
View view_of(Context* ctx, const char* name) {
  const std::vector<int64_t> sizes = dims(ctx, name);
  const int64_t axis = ctx->Attr<int64_t>("axis");
  return {product(sizes, 0, axis), sizes[axis], product(sizes, axis + 1, sizes.size())};
}

// The first index of this rank's part of the table, if the table is split over ranks.
class FirstIndex final : public user_op::OpKernelState {
 public:
  explicit FirstIndex(int64_t value) : value(value) {}
  const int64_t value;
};

template <class Index>
void gather(Context* ctx, int64_t first) {
  const View table = view_of(ctx, "in");
  const int64_t picks = count(ctx, "indices");
  const float* from = in(ctx, "in");
  const Index* indices = tensor(ctx, "indices")->dptr<Index>();
  float* to = out(ctx, "out");
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < table.outer * picks; ++i) {
    const int64_t row = static_cast<int64_t>(indices[i % picks]) - first;
    float* target = to + i * table.inner;
    if (row < 0 || row >= table.rows) {  // on another rank, or out of range
      std::fill_n(target, table.inner, 0.f);
    } else {
      std::memcpy(target, from + (i / picks * table.rows + row) * table.inner, 4 * table.inner);
    }
  }
}

// Each thread sums its own columns of the table, so that there are no races and the order of the sums is fixed.
template <class Index>
void segment_sum(Context* ctx, int64_t first) {
  const View table = view_of(ctx, "out");
  const int64_t picks = count(ctx, "segment_ids");
  const float* data = in(ctx, "data");
  const Index* indices = tensor(ctx, "segment_ids")->dptr<Index>();
  float* to = out(ctx, "out");
  const int64_t size = table.outer * table.rows * table.inner;
  for_each_block(size, [=](int64_t begin, int64_t end) { std::fill(to + begin, to + end, 0.f); });
  const int64_t threads = omp_get_max_threads();
#pragma omp parallel for schedule(static)
  for (int64_t part = 0; part < threads; ++part) {
    const int64_t begin = table.inner * part / threads, end = table.inner * (part + 1) / threads;
    for (int64_t i = 0; i < table.outer * picks; ++i) {
      const int64_t row = static_cast<int64_t>(indices[i % picks]) - first;
      if (row < 0 || row >= table.rows) { continue; }
      float* target = to + (i / picks * table.rows + row) * table.inner;
      const float* source = data + i * table.inner;
#pragma omp simd
      for (int64_t c = begin; c < end; ++c) { target[c] += source[c]; }
    }
  }
}

template <void (*function)(Context*, int64_t)>
class IndexKernel : public user_op::OpKernel {
 public:
  std::shared_ptr<user_op::OpKernelState> CreateOpKernelState(user_op::KernelInitContext* ctx) const override {
    const char* table = ctx->op_type_name() == "gather" ? "in" : "out";
    return std::make_shared<FirstIndex>(split_begin(ctx, table, ctx->Attr<int64_t>("axis")));
  }

 private:
  using user_op::OpKernel::Compute;
  void Compute(Context* ctx, user_op::OpKernelState* state, const user_op::OpKernelCache*) const override {
    ProfileScope scope(ctx->op_type_name());
    const auto* first = dynamic_cast<FirstIndex*>(state);
    function(ctx, first ? first->value : 0);
  }
  bool AlwaysComputeWhenAllOutputsEmpty() const override { return false; }
};

auto indexed_by(const char* data, const char* indices, DataType type) {
  return float_cpu(data) && user_op::HobDataType(indices, 0) == type;
}

REGISTER_CLASS("gather", IndexKernel<gather<int32_t>>).SetIsMatchedHob(indexed_by("in", "indices", DataType::kInt32));
REGISTER_CLASS("gather", IndexKernel<gather<int64_t>>).SetIsMatchedHob(indexed_by("in", "indices", DataType::kInt64));
REGISTER_CLASS("unsorted_segment_sum_like", IndexKernel<segment_sum<int32_t>>)
    .SetIsMatchedHob(indexed_by("out", "segment_ids", DataType::kInt32));
REGISTER_CLASS("unsorted_segment_sum_like", IndexKernel<segment_sum<int64_t>>)
    .SetIsMatchedHob(indexed_by("out", "segment_ids", DataType::kInt64));
REGISTER_CLASS("unsorted_segment_sum", IndexKernel<segment_sum<int32_t>>)
    .SetIsMatchedHob(indexed_by("out", "segment_ids", DataType::kInt32));
REGISTER_CLASS("unsorted_segment_sum", IndexKernel<segment_sum<int64_t>>)
    .SetIsMatchedHob(indexed_by("out", "segment_ids", DataType::kInt64));

}  // namespace
}  // namespace kernels
