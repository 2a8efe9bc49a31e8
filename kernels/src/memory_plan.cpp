// Lets the operations of a compiled job share memory on the CPU, as OneFlow's own planner does on GPUs.
//
// OneFlow 0.9.0 gives every tensor ("register") of a compiled CPU job memory of its own. Here the operations of each
// thread get a fixed order, and registers that are never alive at the same time get the same memory. The changed plan
// says all of it in OneFlow's own terms (memory blocks, offsets and control edges), so that the other ranks, which
// receive the plan of rank 0, need nothing of this.
#include <map>
#include <queue>
#include <set>

#include "kernel.h"
#include "oneflow/core/common/shape.h"
#include "oneflow/core/graph/stream_id.h"
#include "oneflow/core/job/id_manager.h"
#include "oneflow/core/job/plan_util.h"
#include "oneflow/core/register/blob_desc.h"

namespace oneflow {
RegstDescProto* FindOrCreateProducedCtrlRegstDesc(TaskProto* task, const std::string& name);
RegstDescIdSet* FindOrCreateConsumedCtrlRegstDescIdSet(TaskProto* task, const std::string& name);
}  // namespace oneflow

// Where OneFlow keeps its IDMgr. Singleton<IDMgr>::Get() would be a hidden copy of this library's own.
extern __attribute__((visibility("default"))) oneflow::IDMgr* id_manager
    __asm__("_ZZN7oneflow9SingletonINS_5IDMgrEvE7GetPPtrEvE3ptr");

namespace kernels {
namespace {

using oneflow::Plan;
using oneflow::RegstDescProto;
using oneflow::TaskProto;

// OneFlow keeps the shape of a register in a header in front of its data, which sharing would overwrite, unless the
// register has the name of a variable. The name has no other effect on registers of other operations.
constexpr char kSeparateHeader[] = "shared-memory";
constexpr char kControlRegister[] = "out_ctrl_shared_memory";

constexpr int64_t kNotInGroup = -1;

struct Task {
  TaskProto* proto;
  std::vector<int> next;  // tasks that wait for this one in the same step
  int64_t position = kNotInGroup;  // in the order of the current group
};

struct Interval {
  RegstDescProto* tensor;
  int64_t size, begin, end;  // alive from position `begin` to position `end`, both included
  int64_t offset = 0;
};

// How often in a step a task runs, with its thread: tasks with the same key can run in a fixed order.
using GroupKey = std::tuple<int64_t, int64_t, std::vector<int64_t>>;

class Planner {
 public:
  explicit Planner(Plan* plan) : plan_(plan) {
    for (TaskProto& task : *plan->mutable_task()) {
      index_[task.task_id()] = tasks_.size();
      tasks_.push_back({&task});
      for (auto& pair : *task.mutable_produced_regst_desc()) { registers_[pair.second.regst_desc_id()] = &pair.second; }
    }
    connect();
  }

  void run() {
    std::map<GroupKey, std::vector<int>> groups;
    for (size_t i = 0; i < tasks_.size(); ++i) {
      if (can_be_ordered(*tasks_[i].proto)) { groups[key(*tasks_[i].proto)].push_back(i); }
    }
    for (auto& pair : groups) { share(pair.second); }
  }

 private:
  // Edges of data and of control. The parts of a collective operation run together, so each waits for the inputs of all.
  void connect() {
    std::map<std::string, std::vector<int>> collectives;
    for (size_t i = 0; i < tasks_.size(); ++i) {
      const TaskProto& task = *tasks_[i].proto;
      if (task.task_type() == oneflow::TaskType::kCollectiveBoxingGeneric) {
        collectives[op(task).name()].push_back(i);
      }
    }
    for (size_t i = 0; i < tasks_.size(); ++i) {
      for (const auto& pair : tasks_[i].proto->produced_regst_desc()) {
        for (int64_t consumer : pair.second.consumer_task_id()) {
          const int to = index_.at(consumer);
          tasks_[i].next.push_back(to);
          const TaskProto& task = *tasks_[to].proto;
          if (task.task_type() != oneflow::TaskType::kCollectiveBoxingGeneric) { continue; }
          for (int other : collectives[op(task).name()]) { tasks_[i].next.push_back(other); }
        }
      }
    }
  }

  const oneflow::OperatorConf& op(const TaskProto& task) const {
    return oneflow::PlanUtil::GetOpAttribute(plan_, task.job_id(), task.exec_sequence().exec_node(0).kernel_conf())
        .op_conf();
  }

  // Ordinary operations on the CPU. Operations that read ahead have several registers for an output.
  bool can_be_ordered(const TaskProto& task) const {
    if (task.task_type() != oneflow::TaskType::kNormalForward || task.exec_sequence().exec_node_size() != 1) {
      return false;
    }
    if (oneflow::PlanUtil::GetStreamId(task).device_id().device_type() != DeviceType::kCPU) { return false; }
    for (const auto& pair : task.produced_regst_desc()) {
      if (pair.second.register_num() > 1 || pair.second.min_register_num() > 1) { return false; }
    }
    return op(task).has_user_conf() && !std::get<2>(key(task)).empty();
  }

  // The time shape is that of the outputs, or of the inputs where there is no output; empty if they disagree.
  GroupKey key(const TaskProto& task) const {
    std::set<std::vector<int64_t>> shapes;
    for (const auto& pair : task.produced_regst_desc()) { add_time_shape(pair.second, &shapes); }
    if (shapes.empty()) {
      for (const auto& pair : task.consumed_regst_desc_id()) {
        for (int64_t id : pair.second.regst_desc_id()) { add_time_shape(*registers_.at(id), &shapes); }
      }
    }
    return {task.machine_id(), task.thrd_id(), shapes.size() == 1 ? *shapes.begin() : std::vector<int64_t>()};
  }

  static void add_time_shape(const RegstDescProto& tensor, std::set<std::vector<int64_t>>* shapes) {
    if (!tensor.regst_desc_type().has_data_regst_desc()) { return; }
    const auto& dims = tensor.regst_desc_type().data_regst_desc().time_shape().dim();
    shapes->insert({dims.begin(), dims.end()});
  }

  void share(const std::vector<int>& group) {
    std::vector<int> order = in_order(group);
    if (order.size() < 2) { return; }
    for (size_t i = 0; i < order.size(); ++i) { tasks_[order[i]].position = i; }
    std::vector<Interval> intervals;
    for (int task : order) {
      for (auto& pair : *tasks_[task].proto->mutable_produced_regst_desc()) {
        if (can_share(pair.second)) { intervals.push_back(interval(&pair.second)); }
      }
    }
    if (intervals.size() > 1) {
      place(&intervals);
      const int64_t block = id_manager->NewMemBlockId();
      for (const Interval& interval : intervals) {
        interval.tensor->set_mem_block_id(block);
        interval.tensor->set_mem_block_offset(interval.offset);
        interval.tensor->set_variable_op_name(kSeparateHeader);
      }
      for (size_t i = 0; i + 1 < order.size(); ++i) { run_after(order[i], order[i + 1]); }
      run_after(order.front(), order.back());  // so that the next step starts after the end of this one
      for (int task : changing_rate_after(order)) { run_after(order.back(), task); }
    }
    for (int task : order) { tasks_[task].position = kNotInGroup; }
  }

  // The tasks of a group in the order they will run in; empty if they cannot have one. Tasks that wait for others
  // outside of the group, such as for sums over all ranks, come after those that do not, so that these overlap.
  std::vector<int> in_order(const std::vector<int>& group) const {
    std::vector<char> member(tasks_.size()), changed(tasks_.size());
    std::vector<int> phase(tasks_.size());
    for (int task : group) { member[task] = true; }
    std::vector<char> reached = member;  // by a path from the group
    std::vector<int> rank(tasks_.size());
    int count = 0;
    for (int from : topological_order()) {
      rank[from] = count++;
      if (member[from] && changed[from]) { return {}; }
      for (int to : tasks_[from].next) {
        if (!reached[from]) { continue; }
        reached[to] = true;
        phase[to] = std::max(phase[to], phase[from] + (member[from] && !member[to]));
        changed[to] |= changed[from] || changes_rate(*tasks_[to].proto);
      }
    }
    std::vector<int> order = group;
    std::sort(order.begin(), order.end(), [&](int a, int b) {
      return std::make_pair(phase[a], rank[a]) < std::make_pair(phase[b], rank[b]);
    });
    return order;
  }

  // Whether the task runs several times before its output goes on: what waits for it cannot run in between.
  static bool changes_rate(const TaskProto& task) {
    return task.task_type() == oneflow::TaskType::kAcc || task.task_type() == oneflow::TaskType::kPack;
  }

  // The tasks on the same rank that gather the group's results over the micro-batches of a step. They must wait for
  // the end of the group: OneFlow lets an optimizer update a weight once it has the weight's gradient, although
  // operations of the last micro-batch that come later in the order may still read the weight.
  std::set<int> changing_rate_after(const std::vector<int>& group) const {
    const int64_t machine = tasks_[group.front()].proto->machine_id();
    std::set<int> found;
    std::vector<char> seen(tasks_.size());
    std::vector<int> pending = group;
    while (!pending.empty()) {
      const int from = pending.back();
      pending.pop_back();
      for (int to : tasks_[from].next) {
        if (seen[to]) { continue; }
        seen[to] = true;
        const TaskProto& task = *tasks_[to].proto;
        if (!changes_rate(task)) {
          pending.push_back(to);
        } else if (task.machine_id() == machine) {
          found.insert(to);
        }
      }
    }
    return found;
  }

  // All tasks, each after those it waits for; of several possible ones OneFlow's first.
  std::vector<int> topological_order() const {
    std::vector<int> waits(tasks_.size()), order;
    for (const Task& task : tasks_) {
      for (int to : task.next) { ++waits[to]; }
    }
    const auto later = [this](int a, int b) { return order_in_graph(a) > order_in_graph(b); };
    std::priority_queue<int, std::vector<int>, decltype(later)> ready(later);
    for (size_t i = 0; i < tasks_.size(); ++i) {
      if (waits[i] == 0) { ready.push(i); }
    }
    while (!ready.empty()) {
      const int task = ready.top();
      ready.pop();
      order.push_back(task);
      for (int to : tasks_[task].next) {
        if (--waits[to] == 0) { ready.push(to); }
      }
    }
    return order;
  }
  int64_t order_in_graph(int task) const { return tasks_[task].proto->task_set_info().order_in_graph(); }

  bool can_share(const RegstDescProto& tensor) const {
    if (!tensor.regst_desc_type().has_data_regst_desc() || !tensor.enable_reuse_mem() || tensor.register_num() != 1
        || tensor.mem_block_id() != -1 || tensor.mem_block_offset() != -1
        || tensor.mem_case().device_type() != DeviceType::kCPU || tensor.mem_case().has_pinned_device_type()
        || tensor.has_force_inplace_consumed_regst_desc_id()) {
      return false;
    }
    const auto& blobs = tensor.regst_desc_type().data_regst_desc().lbi2blob_desc();
    if (blobs.size() != 1 || blobs[0].blob_desc().is_dynamic() || !oneflow::IsPODDataType(blobs[0].blob_desc().data_type())) {
      return false;
    }
    for (int64_t consumer : tensor.consumer_task_id()) {
      if (tasks_[index_.at(consumer)].position == kNotInGroup) { return false; }
    }
    return true;
  }

  Interval interval(RegstDescProto* tensor) const {
    const auto& blob = tensor->regst_desc_type().data_regst_desc().lbi2blob_desc(0).blob_desc();
    Interval result = {tensor, static_cast<int64_t>(oneflow::BlobDesc(blob).AlignedByteSizeOfBlobBody())};
    result.begin = result.end = tasks_[index_.at(tensor->producer_task_id())].position;
    for (int64_t consumer : tensor->consumer_task_id()) {
      result.end = std::max(result.end, tasks_[index_.at(consumer)].position);
    }
    return result;
  }

  // Gives each the lowest free offset, the largest first.
  static void place(std::vector<Interval>* intervals) {
    std::stable_sort(intervals->begin(), intervals->end(),
                     [](const Interval& a, const Interval& b) { return a.size > b.size; });
    std::vector<const Interval*> placed;  // by offset
    for (Interval& one : *intervals) {
      for (const Interval* other : placed) {
        if (other->begin > one.end || other->end < one.begin) { continue; }
        if (one.offset + one.size <= other->offset) { break; }
        one.offset = std::max(one.offset, other->offset + other->size);
      }
      const auto by_offset = [](const Interval* a, const Interval* b) { return a->offset < b->offset; };
      placed.insert(std::upper_bound(placed.begin(), placed.end(), &one, by_offset), &one);
    }
  }

  // A control edge: `to` runs after `from` in each step, and `from` runs again only after `to`.
  void run_after(int from, int to) {
    TaskProto *source = tasks_[from].proto, *target = tasks_[to].proto;
    for (const auto& pair : source->produced_regst_desc()) {
      for (int64_t consumer : pair.second.consumer_task_id()) {
        if (consumer == target->task_id()) { return; }
      }
    }
    RegstDescProto* control = oneflow::FindOrCreateProducedCtrlRegstDesc(source, kControlRegister);
    control->add_consumer_task_id(target->task_id());
    registers_[control->regst_desc_id()] = control;
    oneflow::FindOrCreateConsumedCtrlRegstDescIdSet(target, "in_ctrl")->add_regst_desc_id(control->regst_desc_id());
    tasks_[from].next.push_back(to);
  }

  Plan* plan_;
  std::vector<Task> tasks_;
  std::map<int64_t, int> index_;                  // of a task by its id
  std::map<int64_t, RegstDescProto*> registers_;  // by id
};

}  // namespace
}  // namespace kernels

// Called by preload/job_queue.cpp when rank 0 has compiled a job, before memory is assigned.
EXPORTED void kernels_plan_memory(oneflow::Plan* plan) { kernels::Planner(plan).run(); }
