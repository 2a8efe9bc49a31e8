// The counter-based random masks of dropout, see dropout.cpp.
#pragma once
#include <cstdint>

namespace kernels {

struct MaskStream {
  uint64_t key, step;
  int64_t rank;
};

// The masks of a layer's run within the current step.
MaskStream mask_stream(uint64_t layer, uint64_t run);

// The number of the layer's next run within the current step, for compiled jobs.
uint64_t next_run(uint64_t layer);

// mask[i] for the elements [begin, begin + size) of the whole tensor; each is 0 with probability `rate`.
void draw_mask(const MaskStream& stream, int64_t begin, int64_t size, double rate, uint8_t* mask);

}  // namespace kernels
