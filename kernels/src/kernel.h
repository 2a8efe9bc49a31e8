// Shared by all kernels. A kernel is a function of OneFlow's compute context. One line registers it for an op of
// OneFlow, with a higher priority than the stock kernel. All kernels are for float32 on the CPU.
#pragma once
#include <immintrin.h>  // before OneFlow's headers, whose half.hpp needs it

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "oneflow/core/framework/framework.h"

// Marks a function that Python calls through ctypes.
#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace kernels {

using oneflow::DataType;
using oneflow::DeviceType;
using Context = oneflow::user_op::KernelComputeContext;
namespace user_op = oneflow::user_op;

// Adds the time of its scope to the op's total while the profiler is on.
class ProfileScope {
 public:
  explicit ProfileScope(const std::string& op);
  ~ProfileScope();

 private:
  const std::string* op_;  // null: the profiler is off
  std::chrono::steady_clock::time_point start_;
};

// Memory of this thread that outlives the call, so that it stays mapped and warm; one block per slot.
enum class Scratch { kPrimitive, kLeft, kRight, kRows, kAttention, kCount };
void* scratch(Scratch slot, size_t bytes);
inline float* scratch_floats(Scratch slot, size_t count) { return static_cast<float*>(scratch(slot, 4 * count)); }

inline const user_op::Tensor* tensor(Context* ctx, const char* name, int index = 0) {
  return ctx->Tensor4ArgNameAndIndex(name, index);
}
inline const float* in(Context* ctx, const char* name, int index = 0) { return tensor(ctx, name, index)->dptr<float>(); }
inline const float* in_or_null(Context* ctx, const char* name) {
  return ctx->has_input(name, 0) ? in(ctx, name) : nullptr;
}
// Booleans as bytes, which compilers vectorize.
inline const uint8_t* mask_of(Context* ctx, const char* name) {
  return reinterpret_cast<const uint8_t*>(tensor(ctx, name)->dptr<bool>());
}
inline float* out(Context* ctx, const char* name) { return ctx->Tensor4ArgNameAndIndex(name, 0)->mut_dptr<float>(); }
inline int64_t count(Context* ctx, const char* name) { return tensor(ctx, name)->shape_view().elem_cnt(); }
inline std::vector<int64_t> dims(Context* ctx, const char* name) {
  const auto view = tensor(ctx, name)->shape_view();
  return {view.ptr(), view.ptr() + view.NumAxes()};
}
inline int64_t product(const std::vector<int64_t>& sizes, size_t begin, size_t end) {
  int64_t result = 1;
  for (size_t i = begin; i < end; ++i) { result *= sizes[i]; }
  return result;
}

// Runs `body(begin, end)` over [0, size) in parallel. The blocks do not depend on the number of threads.
constexpr int64_t kBlock = 8192;
template <class Body>
void for_each_block(int64_t size, Body body) {
#pragma omp parallel for schedule(static)
  for (int64_t begin = 0; begin < size; begin += kBlock) { body(begin, std::min(size, begin + kBlock)); }
}
// The sum of the results of `body(begin, end)`, added in order of the blocks.
template <class Body>
double sum_over_blocks(int64_t size, Body body) {
  std::vector<double> sums((size + kBlock - 1) / kBlock);
  for_each_block(size, [&](int64_t begin, int64_t end) { sums[begin / kBlock] = body(begin, end); });
  double total = 0;
  for (double sum : sums) { total += sum; }
  return total;
}

// Where this rank's part of a tensor begins along `axis`; 0 if the tensor is not split along it. Ranks form a grid whose
// axes (data parallelism, tensor parallelism) may each split the tensor.
template <class InitContext>
int64_t split_begin(InitContext* ctx, const char* name, int64_t axis) {
  if (ctx->parallel_ctx().parallel_num() == 1) { return 0; }
  const auto& sbp = ctx->NdSbp4ArgNameAndIndex(name, 0);
  const oneflow::Shape& grid = *ctx->parallel_desc().hierarchy();
  int64_t begin = 0, size = ctx->LogicalTensorDesc4ArgNameAndIndex(name, 0)->shape().At(axis);
  int64_t ranks = grid.elem_cnt(), rank = ctx->parallel_ctx().parallel_id();
  for (int64_t i = 0; i < grid.NumAxes(); ++i) {
    ranks /= grid.At(i);
    const int64_t parts = grid.At(i), part = rank / ranks;
    rank %= ranks;
    if (!sbp.sbp_parallel(i).has_split_parallel() || sbp.sbp_parallel(i).split_parallel().axis() != axis) { continue; }
    begin += part * (size / parts) + std::min(part, size % parts);  // the first size % parts parts are longer by one
    size = size / parts + (part < size % parts);
  }
  return begin;
}

// Whether ranks hold different parts of a tensor.
class IsDivided final : public user_op::OpKernelState {
 public:
  IsDivided(user_op::KernelInitContext* ctx, const char* name) {
    if (ctx->parallel_ctx().parallel_num() == 1) { return; }
    for (const auto& axis : ctx->NdSbp4ArgNameAndIndex(name, 0).sbp_parallel()) { value |= axis.has_split_parallel(); }
  }
  bool value = false;
};

// Whether the compiled job's current update is left out because its gradient norm is above the limit (reduction.cpp).
bool update_left_out();

template <void (*function)(Context*)>
class Kernel final : public user_op::OpKernel {
  using user_op::OpKernel::Compute;
  void Compute(Context* ctx) const override {
    ProfileScope scope(ctx->op_type_name());
    function(ctx);
  }
  bool AlwaysComputeWhenAllOutputsEmpty() const override { return false; }
};

inline auto float_cpu(const char* argument) {
  return user_op::HobDeviceType() == DeviceType::kCPU && user_op::HobDataType(argument, 0) == DataType::kFloat;
}

// Lets the graph compiler reuse the memory of `input` for `output` if no other op reads `input`.
inline user_op::InplaceProposalFn may_overwrite(const char* output, const char* input) {
  return [output, input](const user_op::InferContext&, user_op::AddInplaceArgPair add) -> oneflow::Maybe<void> {
    JUST(add(output, 0, input, 0, true));
    return oneflow::Maybe<void>::Ok();
  };
}

template <class KernelClass>
user_op::OpKernelRegistry register_as(const char* op) {
  auto registry = user_op::UserOpRegistryMgr::Get().CheckAndGetOpKernelRegistry(op);
  registry.SetCreateFn<KernelClass>().SetPriority(user_op::kKernelPriorityOptimized);
  return registry;
}

}  // namespace kernels

// Use REGISTER_CLASS(op, Class) for kernels with a state and REGISTER(op, function) for all others, followed by
// .SetIsMatchedHob(...), usually with float_cpu("argument").
#define REGISTER_CLASS(op, ...)                                                                        \
  static ::oneflow::user_op::UserOpRegisterTrigger<::oneflow::user_op::OpKernelRegistry> OF_PP_CAT( \
      registered_, __COUNTER__) = ::kernels::register_as<__VA_ARGS__>(op)
#define REGISTER(op, ...) REGISTER_CLASS(op, ::kernels::Kernel<__VA_ARGS__>)
