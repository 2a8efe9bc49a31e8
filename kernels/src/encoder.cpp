// BERT's encoder for inference: the weights of a model are packed once, and a batch runs through all layers in one call.
//
// Python calls it through ctypes, not as an op of OneFlow's registry: one call does the whole stack, takes batches
// whose tokens lie one behind the other without padding, and has no tensor that OneFlow would have to know of. Between
// operations activations are bf16 (float32 where the precision is float32); the residual stream is always float32.
#include <memory>
#include <type_traits>

#include "encoder_rows.h"
#include "kernel.h"
#include "packed_linear.h"
#include "sequence_attention.h"

namespace kernels {
namespace {

// As kernels/encoder.py passes it.
struct Shape {
  int64_t layers, hidden, heads, intermediate, vocabulary, positions, segments;
  int64_t pre_norm, rms_norm, gated;
  Activation activation;
  float epsilon;
};

// Parameters of nn.Linear and of LayerNorm as float32 arrays; null where the model has none.
struct Pair {
  const float *weight, *bias;
};
struct LayerParameters {
  Pair query, key, value, attention_output, attention_norm, intermediate, gate, output, output_norm;
};
struct ModelParameters {
  const float *words, *positions, *segments;
  Pair embedding_norm, final_norm, pooler;
};

// How far the tokens of each layer see (negative: without a limit), the cosines and sines of layers without a limit and
// of the others, and ALiBi's slopes; null where the model has none.
struct Positions {
  const int64_t* reach;
  const float *cosines, *sines, *local_cosines, *local_sines, *slopes;
};

constexpr int kLinears = 4;  // of a layer: query-key-value, attention's output, intermediate, output

// Rows of a batch are rounded up to this many, which bounds the number of compiled products.
constexpr int64_t kRowMultiple = 16;

class CopiedNorm {
 public:
  CopiedNorm(const Pair& pair, const Shape& shape)
      : exists_(pair.weight != nullptr), memory_(8 * shape.hidden), shape_(shape) {
    if (pair.weight) { std::memcpy(memory_.as<float>(), pair.weight, 4 * shape.hidden); }
    if (pair.bias) { std::memcpy(memory_.as<float>() + shape.hidden, pair.bias, 4 * shape.hidden); }
  }
  bool exists() const { return exists_; }
  // y [hidden] = the normalized x, which may be y.
  void run(const float* x, float* y) const {
    const float* weight = memory_.as<float>();
    norm_row(x, {weight, weight + shape_.hidden, shape_.epsilon, shape_.rms_norm != 0}, y, shape_.hidden);
  }

 private:
  bool exists_;
  Buffer memory_;  // zero at first
  Shape shape_;
};

struct Layer {
  PackedLinear projections, attention_output, intermediate, output;
  CopiedNorm attention_norm, output_norm;

  Layer(const LayerParameters& p, const Shape& shape, const int64_t* precisions)
      : projections({{p.query.weight, p.query.bias, shape.hidden},
                     {p.key.weight, p.key.bias, shape.hidden},
                     {p.value.weight, p.value.bias, shape.hidden}},
                    shape.hidden, Precision(precisions[0])),
        attention_output({{p.attention_output.weight, p.attention_output.bias, shape.hidden}}, shape.hidden,
                         Precision(precisions[1])),
        intermediate(expansion(p, shape), shape.hidden, Precision(precisions[2])),
        output({{p.output.weight, p.output.bias, shape.hidden}}, shape.intermediate, Precision(precisions[3])),
        attention_norm(p.attention_norm, shape),
        output_norm(p.output_norm, shape) {}

  static std::vector<LinearPart> expansion(const LayerParameters& p, const Shape& shape) {
    std::vector<LinearPart> parts = {{p.intermediate.weight, p.intermediate.bias, shape.intermediate}};
    if (shape.gated) { parts.push_back({p.gate.weight, p.gate.bias, shape.intermediate}); }
    return parts;
  }
};

// Some numbers of every array that was copied, to notice that it was written to.
class Samples {
 public:
  void add(const float* array, int64_t size) {
    for (int64_t i = 0; array != nullptr && i < std::min(size, kSamples); ++i) {
      places_.push_back(array + i * (size - 1) / std::max<int64_t>(1, std::min(size, kSamples) - 1));
      values_.push_back(bits(places_.back()));
    }
  }
  bool hold() const {
    bool same = true;
    for (size_t i = 0; i < places_.size(); ++i) { same &= bits(places_[i]) == values_[i]; }
    return same;
  }

 private:
  static constexpr int64_t kSamples = 8;
  static uint32_t bits(const float* place) {
    uint32_t result;
    std::memcpy(&result, place, 4);
    return result;
  }
  std::vector<const float*> places_;
  std::vector<uint32_t> values_;
};

// Tokens of the sequences of a batch, one sequence behind the other.
struct Tokens {
  const int32_t *ids, *segments, *positions;
  std::vector<int64_t> begins;  // of each sequence, and the end of the last one
  int64_t count() const { return begins.back(); }
};

class Encoder {
 public:
  virtual ~Encoder() = default;
  virtual bool is_current() const = 0;
  // sequence_output [tokens, hidden] is written to the rows of `output` that `rows` names.
  virtual void run(const Tokens& tokens, const int64_t* rows, float* output) = 0;
  // tanh of a linear layer: x [rows, hidden] -> [rows, hidden], both float32.
  virtual void pool(const float* x, int64_t rows, float* pooled) = 0;
};

template <class T>  // of activations: float or Bf16
class TypedEncoder final : public Encoder {
 public:
  TypedEncoder(const Shape& shape, const ModelParameters& model, const Positions& positions,
               const LayerParameters* layers, const int64_t* precisions)
      : shape_(shape),
        model_(model),
        positions_(positions),
        embedding_norm_(model.embedding_norm, shape),
        final_norm_(model.final_norm, shape) {
    for (int64_t i = 0; i < shape.layers; ++i) {
      layers_.emplace_back(layers[i], shape, precisions + kLinears * i);
      sample(layers[i]);
    }
    for (const Pair& norm : {model.embedding_norm, model.final_norm}) { sample(norm, 1, shape.hidden); }
    const Precision precision = std::is_same<T, float>::value ? Precision::kFloat : Precision::kBf16;
    pooler_ = std::make_unique<PackedLinear>(
        std::vector<LinearPart>{{model.pooler.weight, model.pooler.bias, shape.hidden}}, shape.hidden, precision);
    sample(model.pooler, shape.hidden, shape.hidden);
  }

  bool is_current() const override { return samples_.hold(); }

  void run(const Tokens& tokens, const int64_t* rows, float* output) override {
    reserve(tokens.count());
    embed(tokens);
    for (int64_t i = 0; i < shape_.layers; ++i) {
      const Layer& layer = layers_[i];
      attention(layer, tokens, positions_.reach[i]);
      // Where LayerNorm comes first, each half of a layer is followed by the next half's.
      const CopiedNorm* next = i + 1 < shape_.layers ? &layers_[i + 1].attention_norm : nullptr;
      add(tokens.count(), shape_.pre_norm ? &layer.output_norm : &layer.attention_norm,
          layer.intermediate);
      feed_forward(layer, tokens.count());
      const PackedLinear& reader = i + 1 < shape_.layers ? layers_[i + 1].projections : layer.projections;
      add(tokens.count(), shape_.pre_norm ? next : &layer.output_norm, reader);
    }
    finish(tokens.count(), rows, output);
  }

  void pool(const float* x, int64_t rows, float* pooled) override {
    const int64_t padded = padded_rows(rows), hidden = shape_.hidden;
    normed_.reserve(sizeof(T) * padded * hidden);
    raw_.reserve(4 * padded * hidden);
    for (int64_t row = 0; row < rows; ++row) { write_row(x + row * hidden, normed_.as<T>() + row * hidden, hidden); }
    pooler_->run(normed_.as<void>(), padded, raw_.as<void>(), dnnl_f32, false);
    for (int64_t i = 0; i < rows * hidden; ++i) { pooled[i] = std::tanh(raw_.as<float>()[i]); }
  }

 private:
  static int64_t padded_rows(int64_t rows) { return (rows + kRowMultiple - 1) / kRowMultiple * kRowMultiple; }
  static constexpr dnnl_data_type_t type() { return std::is_same<T, float>::value ? dnnl_f32 : dnnl_bf16; }

  void sample(const Pair& pair, int64_t outputs, int64_t inputs) {
    samples_.add(pair.weight, outputs * inputs);
    samples_.add(pair.bias, outputs == 1 ? inputs : outputs);
  }
  void sample(const LayerParameters& p) {
    const int64_t hidden = shape_.hidden, wide = shape_.intermediate;
    for (const Pair& linear : {p.query, p.key, p.value, p.attention_output}) { sample(linear, hidden, hidden); }
    for (const Pair& linear : {p.intermediate, p.gate}) { sample(linear, wide, hidden); }
    sample(p.output, hidden, wide);
    for (const Pair& norm : {p.attention_norm, p.output_norm}) { sample(norm, 1, hidden); }
  }

  void reserve(int64_t tokens) {
    const int64_t rows = padded_rows(tokens), hidden = shape_.hidden, wide = shape_.intermediate;
    const int64_t expanded = layers_.front().intermediate.outputs();
    residual_.reserve(4 * rows * hidden);
    normed_.reserve(sizeof(T) * rows * hidden);
    projected_.reserve(4 * rows * 3 * hidden);
    context_.reserve(sizeof(T) * rows * hidden);
    expanded_.reserve(sizeof(T) * rows * wide);
    raw_.reserve(4 * rows * std::max(hidden, expanded));
    quantized_.reserve(rows * std::max(hidden, wide));
    scales_.reserve(sizeof(RowScale) * rows);
  }

  float* row_scratch(int64_t size) const { return scratch_floats(Scratch::kRows, size); }

  // Gives a finished row to the layer that reads it: as T, or quantized.
  void hand_over(const float* row, int64_t index, int64_t size, const PackedLinear& reader, T* to) {
    if (reader.precision() == Precision::kInt8) {
      scales_.as<RowScale>()[index] = quantize_row(row, quantized_.as<uint8_t>() + index * size, size);
    } else {
      write_row(row, to + index * size, size);
    }
  }

  // The product of `layer` with rows that were handed over to it; x are those rows where it does not read int8.
  RawRows multiply(const PackedLinear& layer, const T* x, int64_t rows, void* y, dnnl_data_type_t y_type, bool gelu) {
    const bool int8 = layer.precision() == Precision::kInt8;
    const void* input = int8 ? quantized_.as<void>() : static_cast<const void*>(x);
    layer.run(input, padded_rows(rows), y, int8 ? dnnl_f32 : y_type, gelu && !int8);
    return {static_cast<const float*>(y), &layer, int8 ? scales_.as<RowScale>() : nullptr};
  }

  void embed(const Tokens& tokens) {
    const int64_t hidden = shape_.hidden, count = tokens.count();
    const CopiedNorm& first = layers_.front().attention_norm;
#pragma omp parallel for schedule(static)
    for (int64_t token = 0; token < count; ++token) {
      float* row = residual_.as<float>() + token * hidden;
      std::fill_n(row, hidden, 0.f);
      add_embedding(model_.words, tokens.ids[token], shape_.vocabulary, row);
      add_embedding(model_.segments, tokens.segments[token], shape_.segments, row);
      add_embedding(model_.positions, tokens.positions[token], shape_.positions, row);
      if (embedding_norm_.exists()) { embedding_norm_.run(row, row); }
      const float* read = row;
      if (shape_.pre_norm && first.exists()) {
        float* normed = row_scratch(hidden);
        first.run(row, normed);
        read = normed;
      }
      hand_over(read, token, hidden, layers_.front().projections, normed_.as<T>());
    }
  }

  // A row outside the table counts as zero, as in OneFlow's gather.
  void add_embedding(const float* table, int64_t index, int64_t rows, float* sum) const {
    if (table == nullptr || index < 0 || index >= rows) { return; }
    const float* row = table + index * shape_.hidden;
#pragma omp simd
    for (int64_t i = 0; i < shape_.hidden; ++i) { sum[i] += row[i]; }
  }

  void attention(const Layer& layer, const Tokens& tokens, int64_t reach) {
    const Positions& p = positions_;
    const bool local = reach >= 0;
    const AttentionShape shape = {shape_.heads, shape_.hidden / shape_.heads, reach, p.slopes,
                                  {local ? p.local_cosines : p.cosines, local ? p.local_sines : p.sines,
                                   tokens.positions}};
    const RawRows raw =
        multiply(layer.projections, normed_.as<T>(), tokens.count(), projected_.as<void>(), type(), false);
    if (raw.scales) {
      attend(raw, shape, tokens.begins, context_.as<T>());
    } else {
      attend(projected_.as<T>(), shape, tokens.begins, context_.as<T>());
    }
    if (layer.attention_output.precision() == Precision::kInt8) { quantize(context_.as<T>(), tokens.count(), shape_.hidden); }
    raw_rows_ = multiply(layer.attention_output, context_.as<T>(), tokens.count(), raw_.as<void>(), dnnl_f32, false);
  }

  void feed_forward(const Layer& layer, int64_t tokens) {
    const int64_t wide = shape_.intermediate, outputs = layer.intermediate.outputs();
    const bool int8 = layer.intermediate.precision() == Precision::kInt8;
    const bool fused = shape_.activation == Activation::kGelu && !shape_.gated && !int8;
    void* target = fused ? expanded_.as<void>() : raw_.as<void>();
    const RawRows raw = multiply(layer.intermediate, normed_.as<T>(), tokens, target, type(), fused);
    if (!fused) {
#pragma omp parallel for schedule(static)
      for (int64_t token = 0; token < tokens; ++token) {
        float* row = row_scratch(outputs);
        if (int8) {
          finish_row(raw, token, 0, outputs, row);
        } else {
          read_row(raw_.as<T>() + token * outputs, row, outputs);
        }
        activate_row(shape_.activation, row, wide);
        if (shape_.gated) {
#pragma omp simd
          for (int64_t i = 0; i < wide; ++i) { row[i] *= row[wide + i]; }
        }
        hand_over(row, token, wide, layer.output, expanded_.as<T>());
      }
    } else if (layer.output.precision() == Precision::kInt8) {
      quantize(expanded_.as<T>(), tokens, wide);
    }
    raw_rows_ = multiply(layer.output, expanded_.as<T>(), tokens, raw_.as<void>(), dnnl_f32, false);
  }

  void quantize(const T* x, int64_t rows, int64_t width) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; ++row) {
      float* values = row_scratch(width);
      read_row(x + row * width, values, width);
      scales_.as<RowScale>()[row] = quantize_row(values, quantized_.as<uint8_t>() + row * width, width);
    }
  }

  // Adds a product to the residual stream, normalizes, and hands the rows over to the next layer. Where LayerNorm comes
  // after, the stream goes on with the normalized rows.
  void add(int64_t tokens, const CopiedNorm* norm, const PackedLinear& reader) {
    const int64_t hidden = shape_.hidden;
#pragma omp parallel for schedule(static)
    for (int64_t token = 0; token < tokens; ++token) {
      float *sum = row_scratch(hidden), *residual = residual_.as<float>() + token * hidden;
      finish_row(raw_rows_, token, 0, hidden, sum);
#pragma omp simd
      for (int64_t i = 0; i < hidden; ++i) { sum[i] += residual[i]; }
      if (shape_.pre_norm || norm == nullptr) { read_row(sum, residual, hidden); }
      if (norm == nullptr) { continue; }
      norm->run(sum, sum);
      if (!shape_.pre_norm) { read_row(sum, residual, hidden); }
      hand_over(sum, token, hidden, reader, normed_.as<T>());
    }
  }

  void finish(int64_t tokens, const int64_t* rows, float* output) {
    const int64_t hidden = shape_.hidden;
#pragma omp parallel for schedule(static)
    for (int64_t token = 0; token < tokens; ++token) {
      const float* row = residual_.as<float>() + token * hidden;
      float* target = output + rows[token] * hidden;
      if (final_norm_.exists()) {
        final_norm_.run(row, target);
      } else {
        read_row(row, target, hidden);
      }
    }
  }

  const Shape shape_;
  const ModelParameters model_;
  const Positions positions_;
  CopiedNorm embedding_norm_, final_norm_;
  std::vector<Layer> layers_;
  std::unique_ptr<PackedLinear> pooler_;
  Samples samples_;
  Buffer residual_, normed_, projected_, context_, expanded_, raw_, quantized_, scales_;
  RawRows raw_rows_ = {};
};

}  // namespace
}  // namespace kernels

// Packs a model's weights; `precisions` has four for each layer, and `low` says whether other activations are bf16.
EXPORTED void* kernels_encoder_create(const kernels::Shape* shape, const kernels::ModelParameters* model,
                                      const kernels::Positions* positions, const kernels::LayerParameters* layers,
                                      const int64_t* precisions, int low) {
  if (low) { return new kernels::TypedEncoder<kernels::Bf16>(*shape, *model, *positions, layers, precisions); }
  return new kernels::TypedEncoder<float>(*shape, *model, *positions, layers, precisions);
}

EXPORTED void kernels_encoder_destroy(void* encoder) { delete static_cast<kernels::Encoder*>(encoder); }

EXPORTED int kernels_encoder_is_current(const void* encoder) {
  return static_cast<const kernels::Encoder*>(encoder)->is_current();
}

EXPORTED void kernels_encoder_run(void* encoder, const int32_t* ids, const int32_t* segments, const int32_t* positions,
                                  const int64_t* begins, int64_t sequences, const int64_t* rows, float* output) {
  const kernels::Tokens tokens = {ids, segments, positions, {begins, begins + sequences + 1}};
  static_cast<kernels::Encoder*>(encoder)->run(tokens, rows, output);
}

EXPORTED void kernels_encoder_pool(void* encoder, const float* x, int64_t rows, float* pooled) {
  static_cast<kernels::Encoder*>(encoder)->pool(x, rows, pooled);
}
