// Attention as operations of OneFlow: their shapes and their placement, and a function that calls them from Python, as
// OneFlow's own Python functions reach only operations that were compiled into it. Python knows the gradient
// (modeling/attention.py).
#include <utility>

#include "attention.h"
#include "kernel.h"
#include "oneflow/core/framework/mutable_attr_map.h"
#include "oneflow/core/framework/op_builder.h"
#include "oneflow/core/job/lazy_mode.h"

// What this file needs of OneFlow's op_interpreter.h and op_interpreter_util.h, which include headers that the wheel
// lacks.
namespace oneflow {
namespace one {
struct OpExprInterpContext {
  explicit OpExprInterpContext(const AttrMap& given) : attributes(given) {}
  AttrMap attributes;
  Optional<Symbol<Device>> device;
  Optional<Symbol<ParallelDesc>> parallel_desc;
  Optional<Symbol<NdSbp>> nd_sbp;
  std::shared_ptr<user_op::OpKernelState> state;
};
struct OpInterpUtil {
  template <class T>
  static Maybe<T> Dispatch(const OpExpr& op, const TensorTuple& inputs, const OpExprInterpContext& context);
};
}  // namespace one
}  // namespace oneflow

namespace kernels {
namespace {

using oneflow::Maybe;
using oneflow::Shape;
namespace one = oneflow::one;
using Names = std::vector<std::string>;

struct Op {
  const char* name;
  Names inputs, outputs;
};
const Op ops[] = {
    {kAttention, {"query", "key", "value", "numbers"}, {"context", "log_sums", "streams"}},
    {kAttentionGrad,
     {"query", "key", "value", "numbers", "context", "log_sums", "streams", "dcontext"},
     {"dquery", "dkey", "dvalue"}},
};

Maybe<void> infer_shapes(user_op::InferContext* ctx) {
  const Shape &query = ctx->InputShape("query", 0), &numbers = ctx->InputShape("numbers", 0);
  for (const auto& [name, index] : ctx->outputs()) { ctx->SetOutputShape(name, index, query); }
  if (ctx->has_output("log_sums", 0)) {
    ctx->SetOutputShape("log_sums", 0, Shape({numbers.At(0), ctx->Attr<int64_t>("heads"), numbers.At(1)}));
    ctx->SetOutputShape("streams", 0, Shape({numbers.At(0), ctx->Attr<int64_t>("heads"), 3}));
  }
  return Maybe<void>::Ok();
}

Maybe<void> infer_types(user_op::InferContext* ctx) {
  for (const auto& [name, index] : ctx->outputs()) {
    ctx->SetOutputDType(name, index, name == "streams" ? DataType::kInt64 : ctx->InputDType("query", 0));
  }
  return Maybe<void>::Ok();
}

// All tensors are split by rows, or by heads, of which ranks have equal numbers, or all are whole.
Maybe<void> split(user_op::SbpContext* ctx) {
  ctx->NewBuilder().Split(ctx->inputs(), 0).Split(ctx->outputs(), 0).Build();
  if (ctx->Attr<int64_t>("heads") % ctx->hierarchy_value() == 0) {
    ctx->NewBuilder()
        .Split(ctx->inputs(), 1)
        .Broadcast(user_op::OpArg("numbers", 0))
        .Split(ctx->outputs(), 1)
        .Build();
  }
  return Maybe<void>::Ok();
}

user_op::OpRegistry definition(const Op& op) {
  auto registry = user_op::UserOpRegistryMgr::Get().CheckAndGetOpRegistry(op.name);
  for (const std::string& input : op.inputs) { registry.Input(input); }
  for (const std::string& output : op.outputs) { registry.Output(output); }
  registry.Attr<int64_t>("heads").Attr<int64_t>("reach").Attr<std::vector<float>>("slopes").Attr<float>("rate");
  registry.Attr<int64_t>("seed").Attr<bool>("compiled");
  return registry.SupportCpuOnly()
      .SetLogicalTensorDescInferFn(infer_shapes)  // OneFlow derives the shapes of a rank's parts
      .SetDataTypeInferFn(infer_types)
      .SetGetSbpFn(split);
}

using Definition = user_op::UserOpRegisterTrigger<user_op::OpRegistry>;
auto attention = definition(ops[0]), attention_grad = definition(ops[1]);
Definition attention_registered(attention), attention_grad_registered(attention_grad);

std::shared_ptr<one::UserOpExpr> build(const Op& op) {
  one::OpBuilder builder(op.name);
  for (const std::string& input : op.inputs) { builder.Input(input); }
  for (const std::string& output : op.outputs) { builder.Output(output); }
  return CHECK_JUST(builder.Build());
}

}  // namespace
}  // namespace kernels

// OneFlow's Python tensor begins like this.
struct PythonTensor {
  void* head[2];
  std::shared_ptr<oneflow::one::Tensor> tensor;
};

// Calls an op of `ops` on Python's tensors.
//   slopes: ALiBi's, one of each head, or null.
//   seed: the number of the dropout call, and in its high half that of the forward pass.
//   wrap: makes a Python tensor of a shared pointer to a tensor. It needs the interpreter's lock, as does this function.
//   outputs: receives new Python tensors.
// Returns whether it worked; if not, it has printed why.
EXPORTED int kernels_attention(int op_number, void* const* tensors, int64_t heads, int64_t reach, const float* slopes,
                               float rate, int64_t seed, void* (*wrap)(const std::shared_ptr<oneflow::one::Tensor>&),
                               void** outputs) {
  using namespace kernels;
  static const std::shared_ptr<one::UserOpExpr> built[] = {build(ops[0]), build(ops[1])};
  one::TensorTuple inputs;
  for (size_t i = 0; i < ops[op_number].inputs.size(); ++i) {
    inputs.emplace_back(static_cast<const PythonTensor*>(tensors[i])->tensor);
  }
  oneflow::MutableAttrMap attributes({"heads", "reach", "slopes", "rate", "seed", "compiled"});
  attributes.SetAttr("heads", heads);
  attributes.SetAttr("reach", reach);
  attributes.SetAttr("slopes", slopes ? std::vector<float>(slopes, slopes + heads) : std::vector<float>());
  attributes.SetAttr("rate", rate);
  attributes.SetAttr("seed", seed);
  attributes.SetAttr("compiled", oneflow::LazyMode::is_enabled());
  try {
    const auto results = one::OpInterpUtil::Dispatch<one::TensorTuple>(
                             *built[op_number], inputs, one::OpExprInterpContext(oneflow::AttrMap(attributes)))
                             .GetPtrOrThrow();
    for (size_t i = 0; i < results->size(); ++i) { outputs[i] = wrap(results->at(i)); }
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 0;
  }
}
