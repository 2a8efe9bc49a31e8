// Replaces a header that OneFlow's headers include but its wheel lacks: the type of Python's gradient functions.
#pragma once
#include <functional>
#include <memory>

#include "oneflow/core/framework/tensor_tuple.h"

namespace oneflow {
namespace one {

class FunctionAutoGradCaptureState;

struct AutogradFunctionBase {
  using FType = std::function<std::shared_ptr<TensorTuple>(const std::shared_ptr<FunctionAutoGradCaptureState>&,
                                                           const TensorTuple&)>;
};

}  // namespace one
}  // namespace oneflow
