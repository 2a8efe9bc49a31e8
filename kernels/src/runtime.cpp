// State of the plug-in: scratch memory and the profiler; functions that Python calls through ctypes.
#include <cstdlib>
#include <map>
#include <mutex>

#include "kernel.h"
#include "onednn.h"

namespace kernels {
namespace {

constexpr size_t kAlignment = 64;  // bytes of a cache line and of the widest vector

struct Block {
  void* memory = nullptr;
  size_t bytes = 0;
  ~Block() { std::free(memory); }
};

struct OpTime {
  int64_t calls = 0, nanoseconds = 0;
};
bool profiling = false;
std::mutex profile_mutex;
std::map<std::string, OpTime> profile;  // by op type

}  // namespace

void* scratch(Scratch slot, size_t bytes) {
  thread_local Block blocks[static_cast<int>(Scratch::kCount)];
  Block& block = blocks[static_cast<int>(slot)];
  if (block.bytes < bytes) {
    std::free(block.memory);
    block.bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    block.memory = std::aligned_alloc(kAlignment, block.bytes);
    CHECK(block.memory != nullptr) << ": out of memory: cannot allocate " << block.bytes << " bytes of scratch space";
  }
  return block.memory;
}

ProfileScope::ProfileScope(const std::string& op) : op_(profiling ? &op : nullptr) {
  if (op_) { start_ = std::chrono::steady_clock::now(); }
}

ProfileScope::~ProfileScope() {
  if (!op_) { return; }
  const auto elapsed = std::chrono::steady_clock::now() - start_;
  std::lock_guard<std::mutex> lock(profile_mutex);
  OpTime& time = profile[*op_];
  time.calls += 1;
  time.nanoseconds += std::chrono::nanoseconds(elapsed).count();
}

}  // namespace kernels

// The version of the loaded oneDNN, as major * 100 + minor.
EXPORTED int kernels_onednn_version() {
  const dnnl_version_t* version = dnnl_version();
  return version->major * 100 + version->minor;
}

EXPORTED void kernels_set_bf16(int on) { kernels::onednn::set_bf16(on != 0); }
EXPORTED int kernels_bf16() { return kernels::onednn::bf16(); }

EXPORTED void kernels_set_profiling(int on) {
  std::lock_guard<std::mutex> lock(kernels::profile_mutex);
  if (on) { kernels::profile.clear(); }
  kernels::profiling = on != 0;
}

// Calls `report(op, calls, nanoseconds)` for each op that has run since the profiler was switched on.
EXPORTED void kernels_read_profile(void (*report)(const char* op, int64_t calls, int64_t nanoseconds)) {
  std::lock_guard<std::mutex> lock(kernels::profile_mutex);
  for (const auto& [op, time] : kernels::profile) { report(op.c_str(), time.calls, time.nanoseconds); }
}
