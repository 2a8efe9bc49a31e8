#include "held_weights.h"

#include <atomic>
#include <cstdlib>
#include <map>
#include <mutex>
#include <utility>

#include "kernel.h"
#include "onednn.h"

namespace kernels {
namespace {

struct Packed {
  dnnl_memory_desc_t from = nullptr, layout = nullptr;  // `from` tells a square matrix from its transpose
  void* data = nullptr;

  Packed(const_dnnl_memory_desc_t stored, const_dnnl_memory_desc_t wanted) {
    onednn::check(dnnl_memory_desc_clone(&from, stored), "layout");
    onednn::check(dnnl_memory_desc_clone(&layout, wanted), "layout");
    const size_t bytes = (dnnl_memory_desc_get_size(layout) + 63) / 64 * 64;
    data = std::aligned_alloc(64, bytes);
    CHECK(data != nullptr) << ": out of memory: cannot allocate " << bytes << " bytes for packed weights";
  }
  Packed(Packed&& other)
      : from(std::exchange(other.from, nullptr)),
        layout(std::exchange(other.layout, nullptr)),
        data(std::exchange(other.data, nullptr)) {}
  ~Packed() {
    dnnl_memory_desc_destroy(from);
    dnnl_memory_desc_destroy(layout);
    std::free(data);
  }
};

struct Weights {
  int holders = 0;
  std::vector<Packed> packed;  // one or two layouts, since the best one depends on the rows of the other operand
};

std::mutex mutex;
std::map<const float*, Weights> held;
std::atomic<bool> any_held{false};

}  // namespace

bool is_held(const float* weights) {
  if (!any_held) { return false; }
  std::lock_guard<std::mutex> lock(mutex);
  return held.count(weights) > 0;
}

const void* packed(const float* weights, const_dnnl_memory_desc_t stored, const_dnnl_memory_desc_t wanted) {
  std::lock_guard<std::mutex> lock(mutex);
  std::vector<Packed>& all = held[weights].packed;
  for (const Packed& each : all) {
    if (dnnl_memory_desc_equal(each.from, stored) && dnnl_memory_desc_equal(each.layout, wanted)) { return each.data; }
  }
  all.emplace_back(stored, wanted);
  dnnl_primitive_desc_t reorder = nullptr;
  onednn::check(dnnl_reorder_primitive_desc_create(&reorder, stored, onednn::engine(), wanted, onednn::engine(),
                                                   onednn::Attributes()), "reorder");
  onednn::Primitive(reorder).run({{DNNL_ARG_FROM, weights}, {DNNL_ARG_TO, all.back().data}});
  return all.back().data;
}

}  // namespace kernels

// Promises that the matrix at this address is not modified until it has been released as often as it was held.
EXPORTED void kernels_hold_weights(const float* weights) {
  std::lock_guard<std::mutex> lock(kernels::mutex);
  kernels::held[weights].holders += 1;
  kernels::any_held = true;
}

EXPORTED void kernels_release_weights(const float* weights) {
  std::lock_guard<std::mutex> lock(kernels::mutex);
  const auto found = kernels::held.find(weights);
  if (found != kernels::held.end() && --found->second.holders == 0) { kernels::held.erase(found); }
  kernels::any_held = !kernels::held.empty();
}
