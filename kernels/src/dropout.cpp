// Dropout whose masks are a function of (run seed, step, layer, run of the layer within the step, element), by the
// counter-based generator Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011). So a
// resumed run draws the masks of an uninterrupted one, and each rank draws its part of the masks of the whole batch.
//
// "Layer" means one dropout call of the model. Its number is the low half of `random_mask_like`'s attribute `seed`,
// which is the seed of the generator that the caller passes, in both modes. A graph counts the runs of a layer itself.
// In eager mode the run is the high half of the attribute, so that a layer recomputed for its backward pass draws the
// same mask again. The plain `dropout` op has no such attribute: its layer is a hash of the op's name, which is unique
// in a graph. Eager ops share one name, and their order within the step distinguishes them.
#include <array>
#include <mutex>
#include <unordered_map>

#include "bias.h"
#include "dropout.h"
#include "kernel.h"

namespace kernels {
namespace {

constexpr int kLanes = 16, kGroup = 4 * kLanes;  // elements [64 g, 64 g + 64) come from blocks [16 g, 16 g + 16)

// The four words of 16 consecutive blocks: word w of block first + lane is words[16 w + lane].
void philox(uint64_t key, uint64_t first_block, uint64_t step, uint32_t* words) {
  uint32_t c0[kLanes], c1[kLanes], c2[kLanes], c3[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    c0[lane] = static_cast<uint32_t>(first_block + lane);
    c1[lane] = static_cast<uint32_t>((first_block + lane) >> 32);
    c2[lane] = static_cast<uint32_t>(step);
    c3[lane] = static_cast<uint32_t>(step >> 32);
  }
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
#pragma omp simd
    for (int lane = 0; lane < kLanes; ++lane) {
      const uint64_t even = uint64_t{0xD2511F53} * c0[lane], odd = uint64_t{0xCD9E8D57} * c2[lane];
      c0[lane] = static_cast<uint32_t>(odd >> 32) ^ c1[lane] ^ k0;
      c2[lane] = static_cast<uint32_t>(even >> 32) ^ c3[lane] ^ k1;
      c1[lane] = static_cast<uint32_t>(odd);
      c3[lane] = static_cast<uint32_t>(even);
    }
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  std::memcpy(words, c0, sizeof(c0));
  std::memcpy(words + kLanes, c1, sizeof(c1));
  std::memcpy(words + 2 * kLanes, c2, sizeof(c2));
  std::memcpy(words + 3 * kLanes, c3, sizeof(c3));
}

// Mixes a number into a key (the finalizer of SplitMix64).
uint64_t mix(uint64_t key, uint64_t number) {
  uint64_t z = (key ^ number) + 0x9E3779B97F4A7C15;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

// Set by Python at the beginning of a step; `runs` counts the runs of each layer since then.
struct {
  std::mutex mutex;
  uint64_t seed = 0, step = 0;
  int64_t rank = 0;
  std::unordered_map<uint64_t, uint64_t> runs;  // by layer
} dropout_state;

}  // namespace

MaskStream mask_stream(uint64_t layer, uint64_t run) {
  std::lock_guard<std::mutex> lock(dropout_state.mutex);
  return {mix(mix(dropout_state.seed, layer), run), dropout_state.step, dropout_state.rank};
}

uint64_t next_run(uint64_t layer) {
  std::lock_guard<std::mutex> lock(dropout_state.mutex);
  return dropout_state.runs[layer]++;
}

void draw_mask(const MaskStream& stream, int64_t begin, int64_t size, double rate, uint8_t* mask) {
  const uint64_t threshold = std::llround(rate * 4294967296.0);
  for (int64_t group = begin / kGroup; group * kGroup < begin + size; ++group) {
    uint32_t words[kGroup];
    philox(stream.key, group * kLanes, stream.step, words);
    uint8_t keep[kGroup];
#pragma omp simd
    for (int i = 0; i < kGroup; ++i) { keep[i] = words[i] >= threshold; }
    const int64_t from = std::max(begin, group * kGroup), to = std::min(begin + size, (group + 1) * kGroup);
    std::memcpy(mask + (from - begin), keep + (from - group * kGroup), to - from);
  }
}

namespace {

// `draw_mask` in parallel.
void draw_whole_mask(const MaskStream& stream, int64_t begin, int64_t size, double rate, uint8_t* mask) {
  for_each_block(size, [&](int64_t from, int64_t to) {
    draw_mask(stream, begin + from, to - from, rate, mask + from);
  });
}

// Created when a graph is compiled. In eager mode the kernel receives a state of OneFlow's own instead.
class DropoutState final : public user_op::OpKernelState {
 public:
  DropoutState(user_op::KernelInitContext* ctx, const char* output) : layer(14695981039346656037ull) {
    for (const char letter : ctx->op_name()) {  // FNV-1a; std::hash may change between library versions
      layer = (layer ^ static_cast<unsigned char>(letter)) * 1099511628211ull;
    }
    whole = ctx->parallel_ctx().parallel_num() > 1;
    const auto& shape = ctx->LogicalTensorDesc4ArgNameAndIndex(output, 0)->shape();
    for (int64_t axis = 0; axis < shape.NumAxes(); ++axis) {
      sizes.push_back(shape.At(axis));
      begins.push_back(whole ? split_begin(ctx, output, axis) : 0);
    }
  }

  // Draws this rank's part, of shape `part`, of the mask of a global tensor: the last axis that is split and those
  // behind it are contiguous in the whole mask.
  void draw(const MaskStream& stream, const std::vector<int64_t>& part, double rate, uint8_t* mask) const {
    int64_t last = part.size() - 1;
    while (last > 0 && part[last] == sizes[last]) { --last; }
    const int64_t inner = product(part, last + 1, part.size()), run = part[last] * inner;
    for (int64_t i = 0, runs = product(part, 0, last); i < runs; ++i) {
      int64_t rest = i, begin = begins[last] * inner, stride = sizes[last] * inner;
      for (int64_t axis = last; axis-- > 0;) {
        begin += (begins[axis] + rest % part[axis]) * stride;
        rest /= part[axis];
        stride *= sizes[axis];
      }
      draw_whole_mask(stream, begin, run, rate, mask + i * run);
    }
  }

  uint64_t layer;      // a hash of the op's name
  bool whole = false;  // the tensor is a global one of these sizes, and this rank's part begins at `begins`
  std::vector<int64_t> sizes, begins;
};

// Draws the mask of the tensor `name`. Without a global tensor, every rank holds an equal part of the batch.
void draw(Context* ctx, const DropoutState* state, const MaskStream& stream, const char* name, uint8_t* mask) {
  const int64_t size = count(ctx, name);
  const float rate = ctx->Attr<float>("rate");
  if (state && state->whole) {
    state->draw(stream, dims(ctx, name), rate, mask);
  } else {
    draw_whole_mask(stream, stream.rank * size, size, rate, mask);
  }
}

class RandomMaskLike final : public user_op::OpKernel {
 public:
  std::shared_ptr<user_op::OpKernelState> CreateOpKernelState(user_op::KernelInitContext* ctx) const override {
    return std::make_shared<DropoutState>(ctx, "out");
  }

 private:
  using user_op::OpKernel::Compute;
  void Compute(Context* ctx, user_op::OpKernelState* state, const user_op::OpKernelCache*) const override {
    ProfileScope scope(ctx->op_type_name());
    const auto* own = dynamic_cast<DropoutState*>(state);
    const uint64_t seed = ctx->Attr<int64_t>("seed"), layer = seed & 0xFFFFFFFF;
    const MaskStream stream = mask_stream(layer, own ? next_run(layer) : seed >> 32);
    draw(ctx, own, stream, "out", reinterpret_cast<uint8_t*>(ctx->Tensor4ArgNameAndIndex("out", 0)->mut_dptr<bool>()));
  }
  bool AlwaysComputeWhenAllOutputsEmpty() const override { return false; }
};

// y = mask * scale * x (+ addend)
void mask_and_scale(const float* x, const uint8_t* mask, float scale, const float* addend, float* y, int64_t size) {
  for_each_block(size, [=](int64_t begin, int64_t end) {
    if (addend) {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) { y[i] = x[i] * (scale * static_cast<float>(mask[i])) + addend[i]; }
    } else {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) { y[i] = x[i] * (scale * static_cast<float>(mask[i])); }
    }
  });
}

class Dropout final : public user_op::OpKernel {
 public:
  std::shared_ptr<user_op::OpKernelState> CreateOpKernelState(user_op::KernelInitContext* ctx) const override {
    return std::make_shared<DropoutState>(ctx, "out");
  }

 private:
  using user_op::OpKernel::Compute;
  void Compute(Context* ctx, user_op::OpKernelState* state, const user_op::OpKernelCache*) const override {
    ProfileScope scope(ctx->op_type_name());
    const auto* own = dynamic_cast<DropoutState*>(state);
    const uint64_t layer = own ? own->layer : 0;
    const MaskStream stream = mask_stream(layer, next_run(layer));
    const int64_t size = count(ctx, "out");
    const float rate = ctx->Attr<float>("rate");
    auto* mask = reinterpret_cast<uint8_t*>(ctx->Tensor4ArgNameAndIndex("mask", 0)->mut_dptr<bool>());
    draw(ctx, own, stream, "out", mask);
    mask_and_scale(in(ctx, "in"), mask, rate < 1.f ? 1.f / (1.f - rate) : 0.f, in_or_null(ctx, "_add_to_output"),
                   out(ctx, "out"), size);
  }
  bool AlwaysComputeWhenAllOutputsEmpty() const override { return false; }
};

void dropout_grad(Context* ctx) {
  mask_and_scale(in(ctx, "dy"), mask_of(ctx, "mask"), ctx->Attr<float>("scale"), nullptr, out(ctx, "dx"),
                 count(ctx, "dx"));
}

void bias_add(Context* ctx) {
  const float *a = in(ctx, "a"), *b = in(ctx, "b");
  float* result = out(ctx, "out");
  for_each_biased_row(ctx, b, [=](int64_t begin, int64_t size, const float* bias, auto step) {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) { result[begin + i] = a[begin + i] + bias[i * step]; }
  });
}

// out = mask * scale * (a + bias) (+ addend)
void fused_bias_add_mask_scale(Context* ctx) {
  const float *a = in(ctx, "a"), *b = in(ctx, "b"), *addend = in_or_null(ctx, "_add_to_output");
  const uint8_t* mask = mask_of(ctx, "mask");
  const float scale = ctx->Attr<float>("scale");
  float* result = out(ctx, "out");
  for_each_biased_row(ctx, b, [=](int64_t begin, int64_t size, const float* bias, auto step) {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) {
      result[begin + i] = (a[begin + i] + bias[i * step]) * (scale * static_cast<float>(mask[begin + i]));
    }
    if (addend) {
#pragma omp simd
      for (int64_t i = 0; i < size; ++i) { result[begin + i] += addend[begin + i]; }
    }
  });
}

auto bool_cpu(const char* argument) {
  return user_op::HobDeviceType() == DeviceType::kCPU && user_op::HobDataType(argument, 0) == DataType::kBool;
}

REGISTER_CLASS("random_mask_like", RandomMaskLike).SetIsMatchedHob(bool_cpu("out"));
REGISTER_CLASS("dropout", Dropout)
    .SetIsMatchedHob(float_cpu("out"))
    .SetInplaceProposalFn(may_overwrite("out", "in"));
REGISTER("dropout_grad", dropout_grad)
    .SetIsMatchedHob(float_cpu("dx"))
    .SetInplaceProposalFn(may_overwrite("dx", "dy"));
REGISTER("bias_add", bias_add).SetIsMatchedHob(float_cpu("out")).SetInplaceProposalFn(may_overwrite("out", "a"));
REGISTER("fused_bias_add_mask_scale", fused_bias_add_mask_scale)
    .SetIsMatchedHob(float_cpu("out"))
    .SetInplaceProposalFn(may_overwrite("out", "a"));

}  // namespace
}  // namespace kernels

EXPORTED void kernels_begin_dropout_step(uint64_t seed, int64_t rank, uint64_t step) {
  auto& state = kernels::dropout_state;
  std::lock_guard<std::mutex> lock(state.mutex);
  state.seed = seed;
  state.rank = rank;
  state.step = step;
  state.runs.clear();
}

// Philox's four words of one block, for tests against published values.
EXPORTED void kernels_philox(uint64_t key, uint64_t block, uint64_t step, uint32_t* four_words) {
  uint32_t words[kernels::kGroup];
  kernels::philox(key, block, step, words);
  for (int i = 0; i < 4; ++i) { four_words[i] = words[kernels::kLanes * i]; }
}
