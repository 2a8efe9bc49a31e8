// The update of one parameter by Adam (Kingma & Ba 2015, with the decoupled weight decay of Loshchilov & Hutter 2019)
// and by LAMB (You et al. 2020, as in TensorFlow Addons; OneFlow's stock LAMB omits decay from the update's norm).
#include <map>
#include <mutex>

#include "kernel.h"
#include "oneflow/core/framework/user_op_registry_manager.h"
#include "rows.h"

namespace kernels {
namespace {

struct Update {
  explicit Update(Context* ctx)
      : size(count(ctx, "model")),
        model(out(ctx, "model")),
        m(out(ctx, "m")),
        v(out(ctx, "v")),
        gradient(in(ctx, "model_diff")),
        beta1(ctx->Attr<float>("beta1")),
        beta2(ctx->Attr<float>("beta2")),
        epsilon(ctx->Attr<float>("epsilon")),
        decay(ctx->Attr<float>("weight_decay")),
        l1(ctx->Attr<float>("l1")),
        l2(ctx->Attr<float>("l2")),
        rate(scalar(ctx, "learning_rate", ctx->Attr<float>("learning_rate_val"))
             * ctx->Attr<float>("learning_rate_scale")),
        scale(ctx->Attr<double>("scale") * scalar(ctx, "scale_by_tensor", 1.f)),
        correction1(1.f),
        correction2(1.f) {
    if (ctx->Attr<bool>("do_bias_correction")) {
      correction1 = scalar(ctx, "bias_correction1", ctx->Attr<float>("bias_correction1_val"));
      correction2 = scalar(ctx, "bias_correction2", ctx->Attr<float>("bias_correction2_val"));
    }
  }

  static float scalar(Context* ctx, const char* name, float otherwise) {
    return ctx->has_input(name, 0) ? *in(ctx, name) : otherwise;
  }
  // Mixed precision skips a step whose gradients overflowed; --skip_loss_spikes one whose gradient norm is too large.
  static bool skipped(Context* ctx) {
    if (update_left_out()) { return true; }
    return ctx->has_input("skip_if", 0) && *tensor(ctx, "skip_if")->dptr<int64_t>() != 0;
  }

  // Updates both moments of element i.
  inline void move_moments(int64_t i) const {
    const float w = model[i];
    const float g = gradient[i] * scale + l1 * ((w >= 0.f) - (w <= 0.f)) + l2 * w;
    m[i] = beta1 * m[i] + (1.f - beta1) * g;
    v[i] = beta2 * v[i] + (1.f - beta2) * g * g;
  }
  inline float adam_step(float m_i, float v_i) const {
    return m_i / correction1 / (std::sqrt(v_i / correction2) + epsilon);
  }

  const int64_t size;
  float *const model, *const m, *const v;
  const float* const gradient;
  const float beta1, beta2, epsilon, decay, l1, l2, rate, scale;
  float correction1, correction2;
};

void adam_update(Context* ctx) {
  if (Update::skipped(ctx)) { return; }
  const Update u(ctx);
  float* max_v = ctx->Attr<bool>("amsgrad") ? out(ctx, "max_v") : nullptr;
  for_each_block(u.size, [=](int64_t begin, int64_t end) {
    if (max_v) {
      for (int64_t i = begin; i < end; ++i) {
        u.move_moments(i);
        max_v[i] = std::max(max_v[i], u.v[i]);
        u.model[i] -= u.rate * (u.adam_step(u.m[i], max_v[i]) + u.decay * u.model[i]);
      }
    } else {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) {
        u.move_moments(i);
        u.model[i] -= u.rate * (u.adam_step(u.m[i], u.v[i]) + u.decay * u.model[i]);
      }
    }
  });
}

// The squared norms of a parameter and of its update.
struct Squares {
  double weight, step;
};

// u = Adam's step + decay * w; w -= rate * |w| / |u| * u. Without weight decay the trust ratio |w| / |u| is 1.
Squares move_lamb_moments(const Update& u) {
  Squares squares = {0, 0};
  squares.step = sum_over_blocks(u.size, [=](int64_t begin, int64_t end) {
    float steps[kBlock];
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      u.move_moments(i);
      steps[i - begin] = u.adam_step(u.m[i], u.v[i]) + u.decay * u.model[i];
    }
    return row_dot(steps, steps, end - begin);
  });
  if (u.decay != 0.f) {
    squares.weight = sum_over_blocks(u.size, [=](int64_t begin, int64_t end) {
      return row_dot(u.model + begin, u.model + begin, end - begin);
    });
  }
  return squares;
}

void move_lamb_weights(const Update& u, const Squares& squares) {
  const double norm = std::sqrt(squares.weight), step_norm = std::sqrt(squares.step);
  const double ratio = u.decay != 0.f && norm > 0 && step_norm > 0 ? norm / step_norm : 1;
  const float rate = static_cast<float>(u.rate * ratio);
  for_each_block(u.size, [=](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      u.model[i] -= rate * (u.adam_step(u.m[i], u.v[i]) + u.decay * u.model[i]);
    }
  });
}

// Updates of parameters that tensor parallelism divides, by the op's name, so that all ranks have the same order. A
// rank knows only its part of the norms: the job moves the moments, and Python adds up the ranks' parts, and then lets
// the weights move.
struct PendingUpdate {
  Update update;
  Squares squares;
};
std::mutex pending_mutex;
std::map<std::string, PendingUpdate> pending;

class LambUpdate final : public user_op::OpKernel {
 public:
  std::shared_ptr<user_op::OpKernelState> CreateOpKernelState(user_op::KernelInitContext* ctx) const override {
    return std::make_shared<IsDivided>(ctx, "model");
  }

 private:
  using user_op::OpKernel::Compute;
  void Compute(Context* ctx, user_op::OpKernelState* state, const user_op::OpKernelCache*) const override {
    ProfileScope scope(ctx->op_type_name());
    if (Update::skipped(ctx)) { return; }
    const Update update(ctx);
    const Squares squares = move_lamb_moments(update);
    const auto* divided = dynamic_cast<IsDivided*>(state);
    if (divided && divided->value && update.decay != 0.f) {
      std::lock_guard<std::mutex> lock(pending_mutex);
      pending.insert({ctx->op_name(), {update, squares}});
    } else {
      move_lamb_weights(update, squares);
    }
  }
  bool AlwaysComputeWhenAllOutputsEmpty() const override { return false; }
};

// OneFlow's definition of the op lets a parameter be whole only. This adds the signatures of `adam_update`.
oneflow::Maybe<void> divide_like_the_model(user_op::SbpContext* ctx) {
  const auto& shape = ctx->LogicalTensorDesc4InputArgNameAndIndex("model", 0).shape();
  for (int64_t axis = 0; axis < shape.NumAxes(); ++axis) {
    auto builder = ctx->NewBuilder();
    builder.Broadcast(ctx->inputs());
    for (const char* name : {"model", "model_diff", "m", "v"}) { builder.Split(user_op::OpArg(name, 0), axis); }
    builder.Build();
  }
  return oneflow::Maybe<void>::Ok();
}
const bool lamb_can_be_divided = [] {
  const auto* found = user_op::UserOpRegistryMgr::Get().GetOpRegistryResult("lamb_update");
  if (found) { const_cast<user_op::OpRegistryResult*>(found)->get_sbp_fn = divide_like_the_model; }
  return found != nullptr;
}();

// Matches unless the op also updates a half-precision copy of the model, which only CUDA uses.
auto updates() {
  return float_cpu("model") && user_op::HobDataType("model_diff", 0) == DataType::kFloat
         && user_op::HobInputSize("model_copy") == 0;
}

REGISTER("adam_update", adam_update).SetIsMatchedHob(updates());
REGISTER_CLASS("lamb_update", LambUpdate)
    .SetIsMatchedHob(float_cpu("model") && user_op::HobDataType("model_diff", 0) == DataType::kFloat);

}  // namespace
}  // namespace kernels

// The number of pending LAMB updates of divided parameters; fills in this rank's parts of their squared norms, two for
// each, unless `squares` is null.
EXPORTED int64_t kernels_pending_squares(double* squares) {
  std::lock_guard<std::mutex> lock(kernels::pending_mutex);
  for (const auto& [name, one] : kernels::pending) {
    if (!squares) { break; }
    *squares++ = one.squares.weight;
    *squares++ = one.squares.step;
  }
  return kernels::pending.size();
}
// Makes the pending updates, with the squared norms of whole parameters.
EXPORTED void kernels_finish_updates(const double* squares) {
  std::lock_guard<std::mutex> lock(kernels::pending_mutex);
  for (const auto& [name, one] : kernels::pending) {
    kernels::move_lamb_weights(one.update, {squares[0], squares[1]});
    squares += 2;
  }
  kernels::pending.clear();
}
