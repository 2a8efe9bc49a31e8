// Weights that are not modified while they are held, as in inference: bf16 products convert and repack them only once.
#pragma once
#include <dnnl.h>

namespace kernels {

bool is_held(const float* weights);
// The held weights in the layout and precision that `wanted` describes; `stored` describes the weights themselves.
const void* packed(const float* weights, const_dnnl_memory_desc_t stored, const_dnnl_memory_desc_t wanted);

}  // namespace kernels
