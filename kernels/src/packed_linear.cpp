#include "packed_linear.h"

#include <sys/mman.h>

#include <cstdlib>
#include <utility>

#include "kernel.h"
#include "onednn.h"

namespace kernels {
namespace {

// The row count that the layout of weights is chosen for; other counts accept it.
constexpr int64_t kTypicalRows = 128;
constexpr size_t kHugePage = 2 << 20;

}  // namespace

Buffer::Buffer(size_t bytes) { reserve(bytes); }
Buffer::Buffer(Buffer&& other)
    : memory_(std::exchange(other.memory_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
Buffer& Buffer::operator=(Buffer&& other) {
  std::swap(memory_, other.memory_);
  std::swap(bytes_, other.bytes_);
  return *this;
}
Buffer::~Buffer() { std::free(memory_); }
void Buffer::reserve(size_t bytes) {
  if (bytes <= bytes_) { return; }
  std::free(memory_);
  const size_t alignment = bytes < kHugePage ? 64 : kHugePage;
  bytes_ = (bytes + alignment - 1) / alignment * alignment;
  memory_ = std::aligned_alloc(alignment, bytes_);
  CHECK(memory_ != nullptr) << ": no memory for " << bytes_ << " bytes of the encoder's weights or activations";
  if (alignment == kHugePage) { madvise(memory_, bytes_, MADV_HUGEPAGE); }  // weights are read from end to end
  std::memset(memory_, 0, bytes_);
}

PackedLinear::PackedLinear(const std::vector<LinearPart>& parts, int64_t inputs, Precision precision)
    : inputs_(inputs), precision_(precision) {
  for (const LinearPart& part : parts) { outputs_ += part.outputs, has_bias_ |= part.bias != nullptr; }
  Buffer joined(4 * outputs_ * inputs_);
  bias_.reserve(4 * outputs_);
  int64_t row = 0;
  for (const LinearPart& part : parts) {
    std::memcpy(joined.as<float>() + row * inputs_, part.weight, 4 * part.outputs * inputs_);
    if (part.bias) { std::memcpy(bias_.as<float>() + row, part.bias, 4 * part.outputs); }
    row += part.outputs;
  }
  const onednn::Layout any = onednn::Layout::any({inputs_, outputs_}, operand_type(true));
  const dnnl_data_type_t y_type = precision == Precision::kBf16 ? dnnl_bf16 : dnnl_f32;
  const onednn::Primitive typical(describe(kTypicalRows, any, y_type, false));
  dnnl_memory_desc_t layout = nullptr;
  onednn::check(dnnl_memory_desc_clone(&layout, typical.layout(DNNL_ARG_WEIGHTS)), "layout");
  layout_.reset(layout);
  weights_.reserve(dnnl_memory_desc_get_size(layout));

  const bool int8 = precision == Precision::kInt8;
  Buffer quantized;
  if (int8) {
    quantized.reserve(outputs_ * inputs_);
    quantize(joined.as<float>(), quantized.as<int8_t>());
  }
  const onednn::Layout stored({inputs_, outputs_}, {1, inputs_}, int8 ? dnnl_s8 : dnnl_f32);
  dnnl_primitive_desc_t reorder = nullptr;
  onednn::check(dnnl_reorder_primitive_desc_create(&reorder, stored, onednn::engine(), layout, onednn::engine(),
                                                   onednn::Attributes()), "reorder");
  const void* from = int8 ? quantized.as<void>() : joined.as<void>();
  onednn::Primitive(reorder).run({{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, weights_.as<void>()}});
}

dnnl_data_type_t PackedLinear::operand_type(bool weights) const {
  switch (precision_) {
    case Precision::kFloat: return dnnl_f32;
    case Precision::kBf16: return dnnl_bf16;
    default: return weights ? dnnl_s8 : dnnl_u8;
  }
}

// Symmetric, with one scale for each output: 127 is the largest magnitude.
void PackedLinear::quantize(const float* weights, int8_t* quantized) {
  scales_.reserve(4 * outputs_);
  weight_sums_.reserve(4 * outputs_);
#pragma omp parallel for schedule(static)
  for (int64_t n = 0; n < outputs_; ++n) {
    const float* row = weights + n * inputs_;
    float largest = 0.f;
    for (int64_t k = 0; k < inputs_; ++k) { largest = std::max(largest, std::fabs(row[k])); }
    const float scale = largest / 127.f, inverse = largest > 0.f ? 127.f / largest : 0.f;
    int64_t sum = 0;
    for (int64_t k = 0; k < inputs_; ++k) {
      const int8_t rounded = static_cast<int8_t>(std::lrintf(row[k] * inverse));
      quantized[n * inputs_ + k] = rounded;
      sum += rounded;
    }
    scales_.as<float>()[n] = scale;
    weight_sums_.as<float>()[n] = sum;
  }
}

dnnl_primitive_desc_t PackedLinear::describe(int64_t rows, const_dnnl_memory_desc_t weights, dnnl_data_type_t y_type,
                                             bool gelu) const {
  const bool int8 = precision_ == Precision::kInt8;
  const onednn::Layout x({rows, inputs_}, operand_type(false)), bias({1, outputs_}), y({rows, outputs_}, y_type);
  onednn::Attributes attributes;
  dnnl_post_ops_t post_ops = nullptr;
  onednn::check(dnnl_post_ops_create(&post_ops), "post-ops");
  if (gelu) { onednn::check(dnnl_post_ops_append_eltwise(post_ops, dnnl_eltwise_gelu_erf, 0.f, 0.f), "GELU"); }
  onednn::check(dnnl_primitive_attr_set_post_ops(attributes, post_ops), "post-ops");
  const const_dnnl_memory_desc_t bias_layout = has_bias_ && !int8 ? static_cast<const_dnnl_memory_desc_t>(bias) : nullptr;
  dnnl_primitive_desc_t desc = nullptr;
  onednn::check(dnnl_matmul_primitive_desc_create(&desc, onednn::engine(), x, weights, bias_layout, y, attributes),
                "packed product");
  dnnl_post_ops_destroy(post_ops);
  return desc;
}

void PackedLinear::run(const void* x, int64_t rows, void* y, dnnl_data_type_t y_type, bool gelu) const {
  onednn::Key key = {onednn::kPackedLinear, static_cast<int64_t>(precision_), rows, inputs_, outputs_, y_type, gelu,
                     has_bias_};
  auto& primitive = onednn::cached(std::move(key), [&] { return describe(rows, layout_.get(), y_type, gelu); });
  const void* weights = weights_.as<void>();
  if (has_bias_ && precision_ != Precision::kInt8) {
    primitive.run({{DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, weights}, {DNNL_ARG_DST, y}, {DNNL_ARG_BIAS, bias_.as<void>()}});
  } else {
    primitive.run({{DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, weights}, {DNNL_ARG_DST, y}});
  }
}

}  // namespace kernels
