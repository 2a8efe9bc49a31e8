// The names of attention's ops, which OneFlow does not have (attention_op.cpp defines them, attention.cpp computes them).
#pragma once

namespace kernels {

constexpr const char* kAttention = "bert_attention";
constexpr const char* kAttentionGrad = "bert_attention_grad";

}  // namespace kernels
