// oneDNN through its C API, since liboneflow exports the C++ API of an older oneDNN. A primitive is created once per
// shape and cached.
#pragma once
#include <dnnl.h>

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
#include <utility>
#include <vector>

namespace kernels {
namespace onednn {

void check(dnnl_status_t status, const char* what);
dnnl_engine_t engine();

// A tensor's layout: sizes and strides in elements; row-major if no strides are given.
class Layout {
 public:
  Layout(std::vector<int64_t> dims, std::vector<int64_t> strides, dnnl_data_type_t type = dnnl_f32);
  explicit Layout(std::vector<int64_t> dims, dnnl_data_type_t type = dnnl_f32);
  // Only sizes: the primitive chooses the layout.
  static Layout any(std::vector<int64_t> dims, dnnl_data_type_t type);
  Layout(Layout&& other) : desc_(std::exchange(other.desc_, nullptr)) {}
  Layout(const Layout&) = delete;
  ~Layout();
  operator const_dnnl_memory_desc_t() const { return desc_; }

 private:
  Layout() = default;
  dnnl_memory_desc_t desc_ = nullptr;
};

// A compiled oneDNN primitive, with one memory object per argument.
class Primitive {
 public:
  explicit Primitive(dnnl_primitive_desc_t desc);  // takes ownership of desc
  Primitive(const Primitive&) = delete;
  ~Primitive();
  // Arguments are pairs of oneDNN's DNNL_ARG_* and the data.
  void run(std::initializer_list<std::pair<int, const void*>> arguments);
  // The layout that the primitive expects of an argument.
  const_dnnl_memory_desc_t layout(int argument) const;

 private:
  dnnl_primitive_desc_t desc_;
  dnnl_primitive_t primitive_ = nullptr;
  size_t scratch_bytes_;
  std::map<int, dnnl_memory_t> memories_;  // by argument
};

using Key = std::vector<int64_t>;
// The primitive cached under this key on this thread; `make` describes it the first time.
Primitive& cached(Key key, const std::function<dnnl_primitive_desc_t()>& make);

// Attributes of every primitive here: the caller provides the scratch memory.
class Attributes {
 public:
  Attributes();
  Attributes(const Attributes&) = delete;
  ~Attributes();
  operator dnnl_primitive_attr_t() const { return attributes_; }

 private:
  dnnl_primitive_attr_t attributes_ = nullptr;
};

bool bf16();  // whether matrix products convert their operands to bf16
void set_bf16(bool on);

// First number of each primitive's key.
enum Op : int64_t { kMatmul, kLayerNorm, kReduction, kPackedLinear };

}  // namespace onednn
}  // namespace kernels
