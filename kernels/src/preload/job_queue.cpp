// Mends how OneFlow 0.9.0 keeps count of compiled jobs. Loaded before OneFlow, so that its calls come here first: each
// function below has the name of one of the framework's own, which it calls in turn.
//
// 1. The scheduler starts a job first and notes in a queue that it did afterwards. A job that is over before that, which
//    takes one of microseconds or a crowded machine, took its note from an empty queue: the process crashed, or hung at
//    the next job. Here the end waits until the beginning has been noted.
// 2. While a job runs, the scheduler asks without pause whether it is over, and takes a core's share from the kernels.
//    Here it sleeps until the job ends, and looks up now and then for what else there is to do.
#include <dlfcn.h>

#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>

namespace {

constexpr auto kNap = std::chrono::milliseconds(1);

// Never destroyed: the framework's threads outlive the end of main.
struct State {
  std::mutex mutex;
  std::condition_variable changed;
  std::map<const void*, int> running;  // jobs, by the queue that counts them
};
State& state() {
  static auto& state = *new State;
  return state;
}

// The framework's own function. The library's name holds a hash of its contents: another build is not found.
template <class Function>
Function own(const char* symbol) {
  return reinterpret_cast<Function>(dlsym(dlopen(ONEFLOW_LIBRARY, RTLD_LAZY | RTLD_NOLOAD), symbol));
}

}  // namespace

namespace oneflow {

class NNGraphIf;

namespace vm {

class Stream;
class InstructionStatusBuffer;

class __attribute__((visibility("default"))) LazyJobStreamPolicy {
 public:
  void EnqueueNNGraph(const std::shared_ptr<NNGraphIf>& job);  // notes that a job has begun
  void DequeueNNGraph();                                       // and that one has ended
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
