// Changes how OneFlow 0.9.0 counts running compiled jobs and assigns their memory. This library is loaded before
// OneFlow and defines functions with the names of OneFlow's own, so that OneFlow calls these, which call the originals.
//
// 1. The scheduler starts a job and adds it to a queue afterwards. A job that ends before it is in the queue (one that
//    takes microseconds, or any on an overloaded machine) is removed from an empty queue, and the process crashes or
//    hangs at the next job. Here removal waits until the job is in the queue.
// 2. While a job runs, the scheduler polls for its end without pause and takes CPU time from the kernels. Here it
//    sleeps until the job ends, and wakes up every millisecond to let the scheduler look for other work.
// 3. OneFlow's planner skips tensors on the CPU. Here kernels/src/memory_plan.cpp assigns their memory first.
#include <dlfcn.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

namespace {

constexpr auto kNap = std::chrono::milliseconds(1);

// Never destroyed, because OneFlow's threads may outlive main.
struct State {
  std::mutex mutex;
  std::condition_variable changed;
  std::map<const void*, int> running;  // number of running jobs by queue
};
State& state() {
  static auto& state = *new State;
  return state;
}

// OneFlow's own function. The library's file name contains a hash, so that this finds only the build it was made for.
template <class Function>
Function own(const char* symbol) {
  return reinterpret_cast<Function>(dlsym(dlopen(ONEFLOW_LIBRARY, RTLD_LAZY | RTLD_NOLOAD), symbol));
}

}  // namespace

namespace oneflow {

class Plan;

}  // namespace oneflow

namespace {

std::atomic<void (*)(oneflow::Plan*)> memory_planner{nullptr};

}  // namespace

// Sets what plans the memory of jobs that are compiled from now on; null leaves it to OneFlow.
extern "C" __attribute__((visibility("default"))) void set_memory_planner(void (*planner)(oneflow::Plan*)) {
  memory_planner = planner;
}

namespace oneflow {

// Called on rank 0 for each job, after its operations are known and before its tensors get memory.
struct __attribute__((visibility("default"))) IntraJobMemSharingUtil {
  using IsReachable = std::function<bool(const std::string&, const std::string&)>;
  static void InferMemBlockId4MemReusedRegst(Plan* plan, const IsReachable& is_reachable);
};

void IntraJobMemSharingUtil::InferMemBlockId4MemReusedRegst(Plan* plan, const IsReachable& is_reachable) {
  static const auto infer = own<void (*)(Plan*, const IsReachable&)>(
      "_ZN7oneflow22IntraJobMemSharingUtil30InferMemBlockId4MemReusedRegstEPNS_4PlanERKSt8functionIFbRKSsS5_EE");
  if (const auto plan_memory = memory_planner.load()) { plan_memory(plan); }
  infer(plan, is_reachable);
}

class NNGraphIf;

namespace vm {

class Stream;
class InstructionStatusBuffer;

class __attribute__((visibility("default"))) LazyJobStreamPolicy {
 public:
  void EnqueueNNGraph(const std::shared_ptr<NNGraphIf>& job);  // called when a job has started
  void DequeueNNGraph();                                       // called when a job has ended
  bool QueryInstructionStatusDone(const Stream& stream, const InstructionStatusBuffer& status) const;
};

void LazyJobStreamPolicy::EnqueueNNGraph(const std::shared_ptr<NNGraphIf>& job) {
  static const auto enqueue = own<void (*)(LazyJobStreamPolicy*, const std::shared_ptr<NNGraphIf>&)>(
      "_ZN7oneflow2vm19LazyJobStreamPolicy14EnqueueNNGraphERKSt10shared_ptrINS_9NNGraphIfEE");
  auto& [mutex, changed, running] = state();
  enqueue(this, job);
  std::lock_guard<std::mutex> lock(mutex);
  ++running[this];
  changed.notify_all();
}

void LazyJobStreamPolicy::DequeueNNGraph() {
  static const auto dequeue =
      own<void (*)(LazyJobStreamPolicy*)>("_ZN7oneflow2vm19LazyJobStreamPolicy14DequeueNNGraphEv");
  auto& [mutex, changed, running] = state();
  std::unique_lock<std::mutex> lock(mutex);
  int& count = running[this];
  changed.wait(lock, [&count] { return count > 0; });
  dequeue(this);
  --count;
  changed.notify_all();
}

bool LazyJobStreamPolicy::QueryInstructionStatusDone(const Stream& stream,
                                                     const InstructionStatusBuffer& status) const {
  static const auto is_done =
      own<bool (*)(const LazyJobStreamPolicy*, const Stream&, const InstructionStatusBuffer&)>(
          "_ZNK7oneflow2vm19LazyJobStreamPolicy26QueryInstructionStatusDoneERKNS0_6StreamERKNS0_"
          "23InstructionStatusBufferE");
  if (is_done(this, stream, status)) { return true; }
  auto& [mutex, changed, running] = state();
  std::unique_lock<std::mutex> lock(mutex);
  const int& count = running[this];
  changed.wait_for(lock, kNap, [&count] { return count == 0; });
  return is_done(this, stream, status);
}

}  // namespace vm
}  // namespace oneflow
