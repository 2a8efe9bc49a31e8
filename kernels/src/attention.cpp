// Self-attention without the matrix of scores: scores, mask, softmax, dropout and product in tiles of 64 queries and 64
// keys (Dao et al. 2022, "FlashAttention"). The backward pass computes the scores again from the logarithm of each
// query's sum of exponentials. Memory is linear in the number of tokens, and so is time in a layer with a window.
//
// Inputs: query, key, value [B*S, N*D]; `numbers` int32 [B, S]: the number of each token's sequence within its row.
// Tokens attend to the tokens of their own sequence; tokens of number 0 are padding, which neither attends nor is
// attended to. The tokens of a sequence lie one behind the other; padding may lie between them.
// Outputs: context [B*S, N*D], log_sums [B, N, S], and `streams` [B, N, 3]: what the dropout masks of a
// head depend on. With tensor parallelism, a rank has some of the N heads; the attribute `heads` counts all.
//
// The mask of query q and key k in head n of row b is element ((b N + n) S + q) S + k of the layer's masks, as for a
// tensor of scores [B, N, S, S].
#include "attention.h"

#include <limits>

#include "dropout.h"
#include "kernel.h"
#include "rows.h"
#include "small_products.h"

namespace kernels {
namespace {

constexpr int64_t kTile = 64;  // queries or keys
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLowest = -1e30f;  // below every score of a token; finite, so that differences are not NaN

inline int64_t tiles(int64_t size) { return (size + kTile - 1) / kTile; }

struct Settings {
  int64_t batch, length, heads, size;
  int64_t reach;               // how far a token sees to both sides; negative: without a limit
  const float* slopes;         // ALiBi's, of each head; null: none
  float rate;                  // of dropout
  const int32_t* numbers;      // [batch, length]
  const int64_t* streams;      // [batch, heads, 3]

  int64_t hidden() const { return heads * size; }
  float scale() const { return 1.f / std::sqrt(static_cast<float>(size)); }
};

// The tokens of one sequence, from the first to the last: [begin, end) of a row.
struct Sequence {
  int64_t row, begin, end;
};

std::vector<Sequence> sequences_of(const Settings& s) {
  std::vector<Sequence> found;
  for (int64_t row = 0; row < s.batch; ++row) {
    int32_t number = 0;
    for (int64_t i = 0; i < s.length; ++i) {
      const int32_t own = s.numbers[row * s.length + i];
      if (own == 0) { continue; }
      if (own == number) {
        found.back().end = i + 1;
      } else {
        found.push_back({row, i, i + 1});
      }
      number = own;
    }
  }
  return found;
}

// One head of one sequence. Positions count from the sequence's first token.
struct Head {
  Head(const Settings& settings, const Sequence& sequence, int64_t head)
      : s(settings),
        length(sequence.end - sequence.begin),
        width(whole_vectors(settings.size)),
        first_token(sequence.row * settings.length + sequence.begin),
        column(head * settings.size),
        slope(settings.slopes ? settings.slopes[head] : 0.f),
        numbers(settings.numbers + first_token),
        sums_offset((sequence.row * settings.heads + head) * settings.length + sequence.begin) {
    const int64_t* stream = settings.streams + 3 * (sequence.row * settings.heads + head);
    masks = {static_cast<uint64_t>(stream[0]), static_cast<uint64_t>(stream[1]), 0};
    first_mask = stream[2] + sequence.begin * settings.length + sequence.begin;
  }

  const Settings& s;
  int64_t length, width, first_token, column;
  float slope;
  const int32_t* numbers;
  int64_t sums_offset;  // of the first token in log_sums
  MaskStream masks;
  int64_t first_mask;  // the element of the first query and the first key

  // The row of a token in a tensor [B*S, N*D].
  template <class T>
  T* row(T* tensor, int64_t position) const { return tensor + (first_token + position) * s.hidden() + column; }
  int64_t tile_size(int64_t tile) const { return std::min(kTile, length - tile * kTile); }
  int64_t tile_width(int64_t tile) const { return whole_vectors(tile_size(tile)); }

  // The tiles [first, last) that a tile's tokens see.
  int64_t first_seen(int64_t tile) const {
    return s.reach < 0 ? 0 : std::max<int64_t>(0, tile * kTile - s.reach) / kTile;
  }
  int64_t last_seen(int64_t tile) const {
    const int64_t last = tile * kTile + tile_size(tile) - 1;
    return s.reach < 0 ? tiles(length) : std::min(length - 1, last + s.reach) / kTile + 1;
  }

  // scale * rows [positions, width] of a tile; what pads a row is 0.
  void copy_tile(const float* tensor, int64_t tile, float scale, float* to) const {
    for (int64_t i = 0; i < tile_size(tile); ++i, to += width) {
      const float* from = row(tensor, tile * kTile + i);
#pragma omp simd
      for (int64_t d = 0; d < s.size; ++d) { to[d] = scale * from[d]; }
      std::fill(to + s.size, to + width, 0.f);
    }
  }

  // Scores of a tile of queries or keys (rows) with a tile of the other (columns): adds ALiBi's distances, and removes
  // pairs beyond the reach. Both are symmetric, so that rows may be either.
  void limit(float* scores, int64_t rows_tile, int64_t columns_tile) const {
    const int64_t rows = tile_size(rows_tile), columns = tile_size(columns_tile), stride = tile_width(columns_tile);
    const int64_t distance = (columns_tile - rows_tile) * kTile;  // of column 0 from row 0
    const bool within = s.reach < 0 || std::max(distance + columns - 1, rows - 1 - distance) <= s.reach;
    if (within && slope == 0.f) { return; }
    for (int64_t r = 0; r < rows; ++r) {
      float* row = scores + r * stride;
      if (slope != 0.f) {
#pragma omp simd
        for (int64_t c = 0; c < columns; ++c) { row[c] -= slope * std::fabs(static_cast<float>(distance + c - r)); }
      }
      if (!within) {
        for (int64_t c = 0; c < columns; ++c) {
          if (std::abs(distance + c - r) > s.reach) { row[c] = -kInfinity; }
        }
      }
    }
  }

  // Factors [queries, stride] of dropout: 0, or 1 / (1 - rate).
  void draw_factors(int64_t queries_tile, int64_t keys_tile, int64_t stride, float* factors) const {
    const float kept = s.rate < 1.f ? 1.f / (1.f - s.rate) : 0.f;
    const int64_t keys = tile_size(keys_tile);
    for (int64_t q = 0; q < tile_size(queries_tile); ++q) {
      uint8_t mask[kTile];
      draw_mask(masks, first_mask + (queries_tile * kTile + q) * s.length + keys_tile * kTile, keys, s.rate, mask);
      float* row = factors + q * stride;
#pragma omp simd
      for (int64_t k = 0; k < keys; ++k) { row[k] = kept * static_cast<float>(mask[k]); }
    }
  }
};

// to [columns, whole_vectors(rows)] = the transpose of from [rows, columns], which has `stride` elements from row to row
// and may be read up to whole vectors of rows and columns.
void transpose_tile(const float* from, int64_t stride, int64_t rows, int64_t columns, float* to) {
  const int64_t to_stride = whole_vectors(rows);
  for (int64_t r = 0; r < rows; r += kLanes) {
    for (int64_t c = 0; c < columns; c += kLanes) {
      transpose_block(from + r * stride + c, stride, to + c * to_stride + r, to_stride);
    }
  }
}

// The tile's rows as columns: to [width, tile_width]. `rows` is memory for a tile.
void pack_columns(const Head& head, const float* tensor, int64_t tile, float scale, float* rows, float* to) {
  head.copy_tile(tensor, tile, scale, rows);
  const int64_t size = head.tile_size(tile);
  std::fill_n(rows + size * head.width, (head.tile_width(tile) - size) * head.width, 0.f);
  transpose_tile(rows, head.width, size, head.width, to);
}

// Hands out parts of this thread's scratch memory.
class Memory {
 public:
  explicit Memory(int64_t floats) : next_(scratch_floats(Scratch::kAttention, floats)) {}
  float* take(int64_t floats) { return std::exchange(next_, next_ + floats); }

 private:
  float* next_;
};

void forward_head(const Head& head, const float* query, const float* key, const float* value, float* context,
                  float* log_sums) {
  const int64_t count = tiles(head.length), width = head.width, tile_floats = kTile * width;
  Memory memory((2 * count + 3) * tile_floats + 2 * kTile * kTile);
  float *keys = memory.take(count * tile_floats), *values = memory.take(count * tile_floats);
  float *queries = memory.take(tile_floats), *sums = memory.take(tile_floats), *rows = memory.take(tile_floats);
  float *scores = memory.take(kTile * kTile), *factors = memory.take(kTile * kTile);
  for (int64_t tile = 0; tile < count; ++tile) {
    pack_columns(head, key, tile, 1.f, rows, keys + tile * tile_floats);
    head.copy_tile(value, tile, 1.f, values + tile * tile_floats);
  }
  for (int64_t tile = 0; tile < count; ++tile) {
    const int64_t size = head.tile_size(tile);
    head.copy_tile(query, tile, head.s.scale(), queries);
    std::fill_n(sums, size * width, 0.f);
    float highest[kTile], total[kTile];
    std::fill_n(highest, kTile, kLowest);
    std::fill_n(total, kTile, 0.f);
    for (int64_t other = head.first_seen(tile); other < head.last_seen(tile); ++other) {
      const int64_t seen = head.tile_size(other), stride = head.tile_width(other);
      multiply(size, queries, width, keys + other * tile_floats, stride, head.s.size, scores);
      head.limit(scores, tile, other);
      for (int64_t k = 0; k < seen; ++k) {
        if (head.numbers[other * kTile + k] == 0) {
          for (int64_t q = 0; q < size; ++q) { scores[q * stride + k] = -kInfinity; }
        }
      }
      if (head.s.rate > 0.f) { head.draw_factors(tile, other, stride, factors); }
      for (int64_t q = 0; q < size; ++q) {
        float *row = scores + q * stride, *sum = sums + q * width;
        const float before = highest[q];
        highest[q] = std::max(before, row_max(row, seen));
        const float shrink = fast_exp(before - highest[q]);
        total[q] = total[q] * shrink + row_exp_sum(row, highest[q], row, seen);
        if (shrink != 1.f) {
#pragma omp simd
          for (int64_t d = 0; d < width; ++d) { sum[d] *= shrink; }
        }
        if (head.s.rate > 0.f) {
          const float* factor = factors + q * stride;
#pragma omp simd
          for (int64_t k = 0; k < seen; ++k) { row[k] *= factor[k]; }
        }
      }
      multiply<true>(size, scores, stride, values + other * tile_floats, width, seen, sums);
    }
    for (int64_t q = 0; q < size; ++q) {
      const int64_t position = tile * kTile + q;
      const bool attends = head.numbers[position] != 0;
      const float inverse = attends ? 1.f / total[q] : 0.f;
      float* to = head.row(context, position);
#pragma omp simd
      for (int64_t d = 0; d < head.s.size; ++d) { to[d] = inverse * sums[q * width + d]; }
      log_sums[head.sums_offset + position] = attends ? highest[q] + std::log(total[q]) : kInfinity;
    }
  }
}

struct Gradients {
  float *query, *key, *value;  // [B*S, N*D]
};

void backward_head(const Head& head, const float* query, const float* key, const float* value, const float* context,
                   const float* log_sums, const float* slope_of_context, const Gradients& gradients) {
  const int64_t count = tiles(head.length), width = head.width, tile_floats = kTile * width;
  const int64_t square = kTile * kTile;
  Memory memory((5 * count + 5) * tile_floats + 2 * count * kTile + 4 * square);
  // Of all queries: rows and columns of scaled queries and of the context's gradients; the queries' gradients.
  float *queries = memory.take(count * tile_floats), *query_columns = memory.take(count * tile_floats);
  float *slopes = memory.take(count * tile_floats), *slope_columns = memory.take(count * tile_floats);
  float* query_gradients = memory.take(count * tile_floats);
  float *sums = memory.take(count * kTile), *deltas = memory.take(count * kTile);
  float *keys = memory.take(tile_floats), *values = memory.take(tile_floats), *rows = memory.take(tile_floats);
  float *key_gradients = memory.take(tile_floats), *value_gradients = memory.take(tile_floats);
  float *probs = memory.take(square), *slope_of_probs = memory.take(square);
  float *factors = memory.take(square), *turned = memory.take(square);
  for (int64_t tile = 0; tile < count; ++tile) {
    const int64_t offset = tile * tile_floats;
    pack_columns(head, query, tile, head.s.scale(), rows, query_columns + offset);
    std::memcpy(queries + offset, rows, 4 * tile_floats);
    pack_columns(head, slope_of_context, tile, 1.f, rows, slope_columns + offset);
    std::memcpy(slopes + offset, rows, 4 * tile_floats);
    for (int64_t q = tile * kTile; q < std::min(head.length, (tile + 1) * kTile); ++q) {
      deltas[q] = row_dot(head.row(context, q), head.row(slope_of_context, q), head.s.size);
      sums[q] = log_sums[head.sums_offset + q];
    }
  }
  for (int64_t q = head.length; q < count * kTile; ++q) {  // what pads the last tile has no probabilities
    deltas[q] = 0.f;
    sums[q] = kInfinity;
  }
  std::fill_n(query_gradients, count * tile_floats, 0.f);
  for (int64_t tile = 0; tile < count; ++tile) {  // of keys
    const int64_t size = head.tile_size(tile);
    head.copy_tile(key, tile, 1.f, keys);
    head.copy_tile(value, tile, 1.f, values);
    std::fill_n(key_gradients, tile_floats, 0.f);
    std::fill_n(value_gradients, tile_floats, 0.f);
    for (int64_t other = head.first_seen(tile); other < head.last_seen(tile); ++other) {  // of queries
      const int64_t seen = head.tile_size(other), stride = head.tile_width(other), offset = other * tile_floats;
      multiply(size, keys, width, query_columns + offset, stride, head.s.size, probs);  // [keys, queries]
      head.limit(probs, tile, other);
      multiply(size, values, width, slope_columns + offset, stride, head.s.size, slope_of_probs);
      if (head.s.rate > 0.f) {
        head.draw_factors(other, tile, kTile, turned);
        transpose_tile(turned, kTile, seen, size, factors);  // [keys, queries]
      }
      for (int64_t k = 0; k < size; ++k) {
        float *prob = probs + k * stride, *slope = slope_of_probs + k * stride;
        const float *sum = sums + other * kTile, *delta = deltas + other * kTile, *factor = factors + k * stride;
        if (head.numbers[tile * kTile + k] == 0) { std::fill_n(prob, stride, -kInfinity); }
        if (head.s.rate > 0.f) {
#pragma omp simd
          for (int64_t q = 0; q < stride; ++q) {
            const float p = fast_exp(prob[q] - sum[q]);
            prob[q] = p * factor[q];
            slope[q] = p * (factor[q] * slope[q] - delta[q]);
          }
        } else {
#pragma omp simd
          for (int64_t q = 0; q < stride; ++q) {
            prob[q] = fast_exp(prob[q] - sum[q]);
            slope[q] = prob[q] * (slope[q] - delta[q]);
          }
        }
      }
      multiply<true>(size, probs, stride, slopes + offset, width, seen, value_gradients);
      multiply<true>(size, slope_of_probs, stride, queries + offset, width, seen, key_gradients);
      transpose_tile(slope_of_probs, stride, size, seen, turned);  // [queries, keys]
      multiply<true>(seen, turned, whole_vectors(size), keys, width, size, query_gradients + offset);
    }
    for (int64_t k = 0; k < size; ++k) {
      std::memcpy(head.row(gradients.key, tile * kTile + k), key_gradients + k * width, 4 * head.s.size);
      std::memcpy(head.row(gradients.value, tile * kTile + k), value_gradients + k * width, 4 * head.s.size);
    }
  }
  const float scale = head.s.scale();
  for (int64_t q = 0; q < head.length; ++q) {
    float *to = head.row(gradients.query, q), *from = query_gradients + q * width;
#pragma omp simd
    for (int64_t d = 0; d < head.s.size; ++d) { to[d] = scale * from[d]; }
  }
}

// Sets the rows of padding to 0 in a tensor [B*S, N*D].
void clear_padding(const Settings& s, float* tensor) {
#pragma omp parallel for schedule(static)
  for (int64_t token = 0; token < s.batch * s.length; ++token) {
    if (s.numbers[token] == 0) { std::fill_n(tensor + token * s.hidden(), s.hidden(), 0.f); }
  }
}

// Runs `body(head)` for every head of every sequence, in parallel. Each writes its own part of the outputs, so that
// results do not depend on the number of threads.
template <class Body>
void for_each_head(const Settings& s, Body body) {
  const std::vector<Sequence> sequences = sequences_of(s);
  const int64_t count = sequences.size();
#pragma omp parallel for collapse(2) schedule(dynamic, 1)
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t head = 0; head < s.heads; ++head) { body(Head(s, sequences[i], head)); }
  }
}

// Where this rank's rows and heads begin in the whole batch; known only in compiled jobs.
class AttentionState final : public user_op::OpKernelState {
 public:
  explicit AttentionState(user_op::KernelInitContext* ctx)
      : whole(ctx->parallel_ctx().parallel_num() > 1),
        first_row(split_begin(ctx, "numbers", 0)),
        first_head(split_begin(ctx, "log_sums", 1)) {}
  bool whole;
  int64_t first_row, first_head;
};

Settings settings_of(Context* ctx, const AttentionState* state, const int64_t* streams) {
  const std::vector<int64_t> numbers = dims(ctx, "numbers");
  const int64_t heads = dims(ctx, "log_sums")[1];
  const auto& slopes = ctx->Attr<std::vector<float>>("slopes");
  return {numbers[0],
          numbers[1],
          heads,
          dims(ctx, "query")[1] / heads,
          ctx->Attr<int64_t>("reach"),
          slopes.empty() ? nullptr : slopes.data() + state->first_head,
          ctx->Attr<float>("rate"),
          tensor(ctx, "numbers")->dptr<int32_t>(),
          streams};
}

class Attention final : public user_op::OpKernel {
 public:
  std::shared_ptr<user_op::OpKernelState> CreateOpKernelState(user_op::KernelInitContext* ctx) const override {
    return std::make_shared<AttentionState>(ctx);
  }

 private:
  using user_op::OpKernel::Compute;
  void Compute(Context* ctx, user_op::OpKernelState* state, const user_op::OpKernelCache*) const override {
    ProfileScope scope(ctx->op_type_name());
    auto* streams = ctx->Tensor4ArgNameAndIndex("streams", 0)->mut_dptr<int64_t>();
    const auto* own = dynamic_cast<AttentionState*>(state);
    const Settings s = settings_of(ctx, own, streams);
    fill_streams(ctx, own, s, streams);
    const float *query = in(ctx, "query"), *key = in(ctx, "key"), *value = in(ctx, "value");
    float *context = out(ctx, "context"), *log_sums = out(ctx, "log_sums");
    std::fill_n(log_sums, s.batch * s.heads * s.length, kInfinity);
    for_each_head(s, [=](const Head& head) { forward_head(head, query, key, value, context, log_sums); });
    clear_padding(s, context);
  }
  bool AlwaysComputeWhenAllOutputsEmpty() const override { return false; }

  static void fill_streams(Context* ctx, const AttentionState* state, const Settings& s, int64_t* streams) {
    const uint64_t seed = ctx->Attr<int64_t>("seed"), layer = seed & 0xFFFFFFFF;
    const bool draws = s.rate > 0.f;
    const uint64_t run = !draws ? 0 : ctx->Attr<bool>("compiled") ? next_run(layer) : seed >> 32;
    const MaskStream stream = mask_stream(layer, run);
    const int64_t first_row = state->whole ? state->first_row : stream.rank * s.batch;
    const int64_t all_heads = ctx->Attr<int64_t>("heads");
    for (int64_t i = 0; i < s.batch * s.heads; ++i, streams += 3) {
      const int64_t head = (first_row + i / s.heads) * all_heads + state->first_head + i % s.heads;
      streams[0] = stream.key;
      streams[1] = stream.step;
      streams[2] = head * s.length * s.length;
    }
  }
};

void attention_grad(Context* ctx, const AttentionState* state) {
  const Settings s = settings_of(ctx, state, tensor(ctx, "streams")->dptr<int64_t>());
  const float *query = in(ctx, "query"), *key = in(ctx, "key"), *value = in(ctx, "value");
  const float *context = in(ctx, "context"), *log_sums = in(ctx, "log_sums"), *slope = in(ctx, "dcontext");
  const Gradients gradients = {out(ctx, "dquery"), out(ctx, "dkey"), out(ctx, "dvalue")};
  for_each_head(s, [=](const Head& head) {
    backward_head(head, query, key, value, context, log_sums, slope, gradients);
  });
  for (float* gradient : {gradients.query, gradients.key, gradients.value}) { clear_padding(s, gradient); }
}

class AttentionGrad final : public user_op::OpKernel {
 public:
  std::shared_ptr<user_op::OpKernelState> CreateOpKernelState(user_op::KernelInitContext* ctx) const override {
    return std::make_shared<AttentionState>(ctx);
  }

 private:
  using user_op::OpKernel::Compute;
  void Compute(Context* ctx, user_op::OpKernelState* state, const user_op::OpKernelCache*) const override {
    ProfileScope scope(ctx->op_type_name());
    attention_grad(ctx, dynamic_cast<AttentionState*>(state));
  }
  bool AlwaysComputeWhenAllOutputsEmpty() const override { return false; }
};

REGISTER_CLASS(kAttention, Attention).SetIsMatchedHob(float_cpu("query"));
REGISTER_CLASS(kAttentionGrad, AttentionGrad).SetIsMatchedHob(float_cpu("query"));

}  // namespace
}  // namespace kernels
