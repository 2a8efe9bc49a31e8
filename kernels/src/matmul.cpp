// Matrix products, 2-D and batched, through oneDNN; in bf16 mode the operands are converted first and the sums stay
// float32.
#include "bf16.h"
#include "held_weights.h"
#include "kernel.h"
#include "onednn.h"

namespace kernels {
namespace {

struct Matrix {  // dims and strides are those of [..., rows, columns]
  const float* data;
  std::vector<int64_t> dims, strides;

  void transpose() {
    std::swap(dims[dims.size() - 2], dims.back());
    std::swap(strides[strides.size() - 2], strides.back());
  }
};

Matrix row_major(const float* data, std::vector<int64_t> sizes) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t i = sizes.size(); i-- > 1;) { strides[i - 1] = strides[i] * sizes[i]; }
  return {data, std::move(sizes), std::move(strides)};
}

// Adds leading axes of size 1 until there are `rank` axes.
void pad_rank(Matrix& matrix, size_t rank) {
  const size_t missing = rank - matrix.dims.size();
  matrix.dims.insert(matrix.dims.begin(), missing, 1);
  matrix.strides.insert(matrix.strides.begin(), missing, product(matrix.dims, 0, matrix.dims.size()));
}

// The elements rounded to the nearest bf16, ties to even, in the same order. (oneDNN's reorder is three times slower.)
const void* to_bf16(const Matrix& matrix, Scratch slot) {
  const int64_t size = product(matrix.dims, 0, matrix.dims.size());
  auto* converted = static_cast<uint16_t*>(scratch(slot, 2 * size));
  const float* from = matrix.data;
  for_each_block(size, [=](int64_t begin, int64_t end) {
    round_to_bf16(from + begin, converted + begin, end - begin);
  });
  return converted;
}

dnnl_primitive_desc_t describe(const_dnnl_memory_desc_t a, const_dnnl_memory_desc_t b, const_dnnl_memory_desc_t out,
                               double alpha, const float* addend) {
  onednn::Attributes attributes;
  dnnl_post_ops_t post_ops = nullptr;
  onednn::check(dnnl_post_ops_create(&post_ops), "post-ops");
  if (alpha != 1.0) {
    onednn::check(dnnl_post_ops_append_eltwise(post_ops, dnnl_eltwise_linear, alpha, 0.f), "alpha");
  }
  if (addend) { onednn::check(dnnl_post_ops_append_binary(post_ops, dnnl_binary_add, out), "addend"); }
  onednn::check(dnnl_primitive_attr_set_post_ops(attributes, post_ops), "post-ops");
  dnnl_primitive_desc_t desc = nullptr;
  onednn::check(dnnl_matmul_primitive_desc_create(&desc, onednn::engine(), a, b, nullptr, out, attributes), "matmul");
  dnnl_post_ops_destroy(post_ops);
  return desc;
}

// oneDNN's matmul reads b in place. If the row length is a multiple of 4096 bytes, as with BERT's intermediate size, a
// column maps to few cache sets, and large products take twice as long. oneDNN's sgemm copies both operands into panels
// first, which pays off from about this many multiplications on, for any row length.
constexpr int64_t kLarge = 700'000'000;

bool is_large_float_product(const Matrix& a, const Matrix& b) {
  const size_t rank = a.dims.size();
  return !onednn::bf16() && rank == 2 && a.dims[0] * a.dims[1] * b.dims[1] >= kLarge;
}

// `multiply` by sgemm, for two matrices that are each row-major or transposed.
void multiply_packed(const Matrix& a, const Matrix& b, float* result, double alpha, const float* addend) {
  const int64_t rows = a.dims[0], inner = a.dims[1], columns = b.dims[1];
  const auto order = [](const Matrix& matrix) { return matrix.strides[1] == 1 ? 'N' : 'T'; };
  const auto row_length = [](const Matrix& matrix) { return std::max(matrix.strides[0], matrix.strides[1]); };
  if (addend && addend != result) { std::memcpy(result, addend, 4 * rows * columns); }
  onednn::check(dnnl_sgemm(order(a), order(b), rows, columns, inner, static_cast<float>(alpha), a.data, row_length(a),
                           b.data, row_length(b), addend ? 1.f : 0.f, result, columns),
                "sgemm");
}

// out = alpha * a b (+ addend); a [..., M, K], b [..., K, N], out [..., M, N] row-major; batch axes of size 1 broadcast.
void multiply(const Matrix& a, const Matrix& b, float* result, const std::vector<int64_t>& out_dims, double alpha,
              const float* addend) {
  if (a.dims.back() == 0) {  // a sum over nothing
    const int64_t size = product(out_dims, 0, out_dims.size());
    if (addend) {
      std::memcpy(result, addend, 4 * size);
    } else {
      std::fill_n(result, size, 0.f);
    }
    return;
  }
  if (is_large_float_product(a, b)) { return multiply_packed(a, b, result, alpha, addend); }
  const bool bf16 = onednn::bf16(), held = bf16 && is_held(b.data);  // packing float32 weights gains nothing
  int64_t alpha_bits;
  std::memcpy(&alpha_bits, &alpha, sizeof(alpha));
  onednn::Key key = {onednn::kMatmul, bf16,       held, addend != nullptr,
                     alpha_bits,      static_cast<int64_t>(out_dims.size())};
  for (const Matrix* matrix : {&a, &b}) {
    key.insert(key.end(), matrix->dims.begin(), matrix->dims.end());
    key.insert(key.end(), matrix->strides.begin(), matrix->strides.end());
  }
  const dnnl_data_type_t operand = bf16 ? dnnl_bf16 : dnnl_f32;
  auto& primitive = onednn::cached(key, [&] {
    const onednn::Layout a_layout(a.dims, a.strides, operand), out(out_dims);
    if (held) { return describe(a_layout, onednn::Layout::any(b.dims, operand), out, alpha, addend); }
    return describe(a_layout, onednn::Layout(b.dims, b.strides, operand), out, alpha, addend);
  });
  const void* left = bf16 ? to_bf16(a, Scratch::kLeft) : a.data;
  const void* right = held   ? packed(b.data, onednn::Layout(b.dims, b.strides), primitive.layout(DNNL_ARG_WEIGHTS))
                      : bf16 ? to_bf16(b, Scratch::kRight)
                             : b.data;
  const int addend_argument =
      DNNL_ARG_ATTR_MULTIPLE_POST_OP(alpha == 1.0 ? 0 : 1) | DNNL_ARG_SRC_1;
  if (addend) {
    primitive.run(
        {{DNNL_ARG_SRC, left}, {DNNL_ARG_WEIGHTS, right}, {DNNL_ARG_DST, result}, {addend_argument, addend}});
  } else {
    primitive.run({{DNNL_ARG_SRC, left}, {DNNL_ARG_WEIGHTS, right}, {DNNL_ARG_DST, result}});
  }
}

// matmul, batch_matmul and broadcast_matmul: a and b have 2 or more axes and are transposed if the attributes say so.
void matmul(Context* ctx) {
  Matrix a = row_major(in(ctx, "a"), dims(ctx, "a"));
  Matrix b = row_major(in(ctx, "b"), dims(ctx, "b"));
  std::vector<int64_t> out_dims = dims(ctx, "out");
  const bool transpose_a = ctx->Attr<bool>("transpose_a");
  if (b.dims.size() == 2 && !transpose_a) {  // all rows of a are multiplied by the same b: one 2-D product
    const int64_t rows = product(a.dims, 0, a.dims.size() - 1);
    a = row_major(a.data, {rows, a.dims.back()});
    out_dims = {rows, out_dims.back()};
  }
  if (transpose_a) { a.transpose(); }
  if (ctx->Attr<bool>("transpose_b")) { b.transpose(); }
  pad_rank(a, out_dims.size());
  pad_rank(b, out_dims.size());
  multiply(a, b, out(ctx, "out"), out_dims, ctx->Attr<double>("alpha"), in_or_null(ctx, "_add_to_output"));
}

// The gradient of a 2-D b broadcast over a batch: a [..., M, K], b [..., M, N] -> out [K, N], summed over the batch.
void broadcast_matmul_grad_b(Context* ctx) {
  const auto flat = [&](const char* name) {
    const std::vector<int64_t> sizes = dims(ctx, name);
    return row_major(in(ctx, name), {product(sizes, 0, sizes.size() - 1), sizes.back()});
  };
  Matrix a = flat("a");
  a.transpose();
  multiply(a, flat("b"), out(ctx, "out"), dims(ctx, "out"), ctx->Attr<double>("alpha"),
           in_or_null(ctx, "_add_to_output"));
}

REGISTER("matmul", matmul).SetIsMatchedHob(float_cpu("a"));
REGISTER("batch_matmul", matmul).SetIsMatchedHob(float_cpu("a"));
REGISTER("broadcast_matmul", matmul).SetIsMatchedHob(float_cpu("a"));
REGISTER("broadcast_matmul_grad_b", broadcast_matmul_grad_b).SetIsMatchedHob(float_cpu("a"));

}  // namespace
}  // namespace kernels
