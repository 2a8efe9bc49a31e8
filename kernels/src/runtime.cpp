// The plug-in's own state: scratch memory, the profiler, and the functions Python calls through ctypes.
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <map>
#include <mutex>

#include "kernel.h"
#include "onednn.h"

namespace kernels {
namespace {

constexpr size_t kAlignment = 64;  // a cache line, and the widest vector

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

// OneFlow's scheduler runs eager kernels itself, but while a compiled job runs, whose kernels have a thread of their own,
// it asks without pause whether the job is over, and takes a core's share from them. So it becomes an idle thread: it then
// runs where nobody else wants to, and threads that wake up find its core free (a low priority alone does not make them).
// All of graph mode's distance from eager mode was this.
//
// Not for short jobs: the framework's scheduler starts a job first and notes that it did afterwards, and a job that is
// over before that ends the process. A thread that waits for its turn must not be what makes this likely.
constexpr auto kLongKernel = std::chrono::milliseconds(20);  // jobs with such kernels take seconds
std::atomic<pid_t> newest_thread{0}, scheduler{0};

pid_t this_thread() { return syscall(SYS_gettid); }

// Called by the first kernel of each thread.
bool meet_thread() {
  newest_thread = this_thread();
  return true;
}

// Called by each kernel that took long.
void make_way() {
  const pid_t waiting = scheduler;
  if (waiting == 0 || waiting == this_thread()) { return; }
  const sched_param unused = {};
  sched_setscheduler(waiting, SCHED_IDLE, &unused);
  scheduler = 0;  // once is enough
}

}  // namespace

void* scratch(Scratch slot, size_t bytes) {
  thread_local Block blocks[static_cast<int>(Scratch::kCount)];
  Block& block = blocks[static_cast<int>(slot)];
  if (block.bytes < bytes) {
    std::free(block.memory);
    block.bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    block.memory = std::aligned_alloc(kAlignment, block.bytes);
    CHECK(block.memory != nullptr) << ": no memory for " << block.bytes << " bytes of a kernel's scratch space";
  }
  return block.memory;
}

ProfileScope::ProfileScope(const std::string& op)
    : op_(profiling ? &op : nullptr), start_(std::chrono::steady_clock::now()) {
  [[maybe_unused]] thread_local const bool met = meet_thread();
}

ProfileScope::~ProfileScope() {
  const auto elapsed = std::chrono::steady_clock::now() - start_;
  if (elapsed > kLongKernel) { make_way(); }
  if (!op_) { return; }
  std::lock_guard<std::mutex> lock(profile_mutex);
  OpTime& time = profile[*op_];
  time.calls += 1;
  time.nanoseconds += std::chrono::nanoseconds(elapsed).count();
}

}  // namespace kernels

// The version of the oneDNN that answers, as major * 100 + minor.
EXPORTED int kernels_onednn_version() {
  const dnnl_version_t* version = dnnl_version();
  return version->major * 100 + version->minor;
}

EXPORTED void kernels_set_bf16(int on) { kernels::onednn::set_bf16(on != 0); }

// Takes the thread that ran the first kernel, an eager one, for the scheduler's.
EXPORTED void kernels_find_scheduler() { kernels::scheduler = kernels::newest_thread.load(); }

EXPORTED void kernels_set_profiling(int on) {
  std::lock_guard<std::mutex> lock(kernels::profile_mutex);
  if (on) { kernels::profile.clear(); }
  kernels::profiling = on != 0;
}

// Calls `report(op, calls, nanoseconds)` for each op seen since the profiler was switched on.
EXPORTED void kernels_read_profile(void (*report)(const char* op, int64_t calls, int64_t nanoseconds)) {
  std::lock_guard<std::mutex> lock(kernels::profile_mutex);
  for (const auto& [op, time] : kernels::profile) { report(op.c_str(), time.calls, time.nanoseconds); }
}
