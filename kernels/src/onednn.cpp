#include "onednn.h"

#include <memory>

#include "kernel.h"

namespace kernels {
namespace onednn {
namespace {

constexpr size_t kMaxPrimitives = 1024;  // a run has a few dozen shapes; this limits memory if there are many more
bool use_bf16 = false;

dnnl_stream_t stream() {
  thread_local dnnl_stream_t stream = [] {
    dnnl_stream_t created = nullptr;
    check(dnnl_stream_create(&created, engine(), dnnl_stream_default_flags), "stream");
    return created;
  }();
  return stream;
}

std::vector<int64_t> row_major(const std::vector<int64_t>& dims) {
  std::vector<int64_t> strides(dims.size(), 1);
  for (size_t i = dims.size(); i-- > 1;) { strides[i - 1] = strides[i] * std::max<int64_t>(dims[i], 1); }
  return strides;
}

}  // namespace

void check(dnnl_status_t status, const char* what) {
  CHECK(status == dnnl_success) << ": oneDNN failed with status " << static_cast<int>(status) << " (" << what << ")";
}

dnnl_engine_t engine() {
  static dnnl_engine_t engine = [] {
    dnnl_engine_t created = nullptr;
    check(dnnl_engine_create(&created, dnnl_cpu, 0), "engine");
    return created;
  }();
  return engine;
}

Layout::Layout(std::vector<int64_t> dims, std::vector<int64_t> strides, dnnl_data_type_t type) {
  check(dnnl_memory_desc_create_with_strides(&desc_, dims.size(), dims.data(), type, strides.data()), "layout");
}
Layout::Layout(std::vector<int64_t> dims, dnnl_data_type_t type) : Layout(dims, row_major(dims), type) {}
Layout Layout::any(std::vector<int64_t> dims, dnnl_data_type_t type) {
  Layout layout;
  check(dnnl_memory_desc_create_with_tag(&layout.desc_, dims.size(), dims.data(), type, dnnl_format_tag_any), "layout");
  return layout;
}
Layout::~Layout() { dnnl_memory_desc_destroy(desc_); }

Attributes::Attributes() {
  check(dnnl_primitive_attr_create(&attributes_), "attributes");
  check(dnnl_primitive_attr_set_scratchpad_mode(attributes_, dnnl_scratchpad_mode_user), "scratchpad mode");
}
Attributes::~Attributes() { dnnl_primitive_attr_destroy(attributes_); }

Primitive::Primitive(dnnl_primitive_desc_t desc) : desc_(desc) {
  check(dnnl_primitive_create(&primitive_, desc_), "primitive");
  scratch_bytes_ = dnnl_memory_desc_get_size(dnnl_primitive_desc_query_md(desc_, dnnl_query_scratchpad_md, 0));
}

Primitive::~Primitive() {
  for (auto& [argument, memory] : memories_) { dnnl_memory_destroy(memory); }
  dnnl_primitive_destroy(primitive_);
  dnnl_primitive_desc_destroy(desc_);
}

void Primitive::run(std::initializer_list<std::pair<int, const void*>> arguments) {
  std::vector<dnnl_exec_arg_t> bound;
  auto bind = [&](int argument, void* data) {
    dnnl_memory_t& memory = memories_[argument];
    if (memory == nullptr) {
      check(dnnl_memory_create(&memory, layout(argument), engine(), DNNL_MEMORY_NONE), "memory");
    }
    check(dnnl_memory_set_data_handle(memory, data), "data");
    bound.push_back({argument, memory});
  };
  for (const auto& [argument, data] : arguments) { bind(argument, const_cast<void*>(data)); }
  if (scratch_bytes_) { bind(DNNL_ARG_SCRATCHPAD, scratch(Scratch::kPrimitive, scratch_bytes_)); }
  check(dnnl_primitive_execute(primitive_, stream(), bound.size(), bound.data()), "execute");
}

const_dnnl_memory_desc_t Primitive::layout(int argument) const {
  return dnnl_primitive_desc_query_md(desc_, dnnl_query_exec_arg_md, argument);
}

Primitive& cached(Key key, const std::function<dnnl_primitive_desc_t()>& make) {
  thread_local std::map<Key, std::unique_ptr<Primitive>> primitives;
  auto found = primitives.find(key);
  if (found == primitives.end()) {
    if (primitives.size() >= kMaxPrimitives) { primitives.clear(); }
    found = primitives.emplace(std::move(key), std::make_unique<Primitive>(make())).first;
  }
  return *found->second;
}

bool bf16() { return use_bf16; }
void set_bf16(bool on) { use_bf16 = on; }

}  // namespace onednn
}  // namespace kernels
