// Linear layers for inference: their weights are converted and packed once, in the layout that oneDNN's products read
// fastest.
#pragma once
#include <dnnl.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace kernels {

enum class Precision : int64_t { kFloat, kBf16, kInt8 };

// Memory of one array, aligned for the widest vectors.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes);
  Buffer(Buffer&& other);
  Buffer& operator=(Buffer&& other);
  ~Buffer();
  // At least this many bytes, zero at first; growing discards the content.
  void reserve(size_t bytes);
  template <class T>
  T* as() const { return static_cast<T*>(memory_); }

 private:
  void* memory_ = nullptr;
  size_t bytes_ = 0;
};

// Part of a layer's rows: float32 weight [outputs, inputs] and bias [outputs] or null, as in nn.Linear.
struct LinearPart {
  const float *weight, *bias;
  int64_t outputs;
};

// What one dynamic quantization of a row stores: x is about scale * u8 + minimum.
struct RowScale {
  float scale, minimum;
};

// The product x [rows, inputs] times the transposed weight, [rows, outputs].
class PackedLinear {
 public:
  // Several parts read the same input; their outputs are side by side.
  PackedLinear(const std::vector<LinearPart>& parts, int64_t inputs, Precision precision);

  // x is float32 or bf16, as the precision says, and y of type `y_type` includes the bias, and GELU where asked for.
  // int8: x is uint8, and y is the bare sums as float32; finish_row (encoder_rows.h) applies scales and bias.
  void run(const void* x, int64_t rows, void* y, dnnl_data_type_t y_type, bool gelu) const;

  int64_t inputs() const { return inputs_; }
  int64_t outputs() const { return outputs_; }
  Precision precision() const { return precision_; }
  const float* bias() const { return bias_.as<float>(); }  // zero where there is none
  // int8: each output's scale, and the sum of its weights as integers.
  const float* scales() const { return scales_.as<float>(); }
  const float* weight_sums() const { return weight_sums_.as<float>(); }

 private:
  dnnl_primitive_desc_t describe(int64_t rows, const_dnnl_memory_desc_t weights, dnnl_data_type_t y_type,
                                 bool gelu) const;
  dnnl_data_type_t operand_type(bool weights) const;
  void quantize(const float* weights, int8_t* quantized);

  int64_t inputs_, outputs_ = 0;
  Precision precision_;
  bool has_bias_ = false;
  Buffer weights_, bias_, scales_, weight_sums_;
  struct Destroy {
    void operator()(dnnl_memory_desc_t layout) const { dnnl_memory_desc_destroy(layout); }
  };
  std::unique_ptr<dnnl_memory_desc, Destroy> layout_;  // of weights_
};

}  // namespace kernels
