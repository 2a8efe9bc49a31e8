// Weights that nobody writes to while they are held, as in inference: what products in bf16 want of them is made once.
#pragma once
#include <dnnl.h>

namespace kernels {

bool is_held(const float* weights);
// The held weights in the layout and precision that `wanted` describes; `stored` describes how they lie in memory.
const void* packed(const float* weights, const_dnnl_memory_desc_t stored, const_dnnl_memory_desc_t wanted);

}  // namespace kernels
