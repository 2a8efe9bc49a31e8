// Replaces glog when compiling OneFlow's headers, because the wheel hides glog's symbols and ships only part of its
// headers. A failed check prints its condition and aborts. Other messages are dropped.
#pragma once
#include <cstdlib>
#include <iostream>
#include <utility>

namespace glog_stand_in {

struct Silent {
  template <class T> Silent& operator<<(const T&) { return *this; }
  Silent& operator<<(std::ostream& (*)(std::ostream&)) { return *this; }
};
struct Fatal {
  ~Fatal() { std::cerr << std::endl; std::abort(); }
  template <class T> Fatal& operator<<(const T& value) { std::cerr << value; return *this; }
  Fatal& operator<<(std::ostream& (*value)(std::ostream&)) { std::cerr << value; return *this; }
};
struct Swallow { template <class T> void operator&(T&&) {} };
template <class T> T NotNull(T&& pointer) { if (pointer == nullptr) { std::abort(); } return std::forward<T>(pointer); }
using INFO = Silent;
using WARNING = Silent;
using ERROR = Silent;
using FATAL = Fatal;

}  // namespace glog_stand_in

#define LOG(severity) ::glog_stand_in::severity()
#define LOG_IF(severity, condition) !(condition) ? (void)0 : ::glog_stand_in::Swallow() & LOG(severity)
#define PLOG(severity) LOG(severity)
#define DLOG(severity) ::glog_stand_in::Silent()
#define VLOG(level) ::glog_stand_in::Silent()
#define VLOG_IS_ON(level) false
#define CHECK(condition) (condition) ? (void)0 : ::glog_stand_in::Swallow() & ::glog_stand_in::Fatal() << #condition
#define CHECK_EQ(a, b) CHECK((a) == (b))
#define CHECK_NE(a, b) CHECK((a) != (b))
#define CHECK_LE(a, b) CHECK((a) <= (b))
#define CHECK_LT(a, b) CHECK((a) < (b))
#define CHECK_GE(a, b) CHECK((a) >= (b))
#define CHECK_GT(a, b) CHECK((a) > (b))
#define CHECK_NOTNULL(pointer) ::glog_stand_in::NotNull(pointer)
#define CHECK_STREQ(a, b) CHECK(std::string(a) == std::string(b))
#define CHECK_STRNE(a, b) CHECK(std::string(a) != std::string(b))
#define PCHECK(condition) CHECK(condition)
#define DCHECK(condition) while (false) CHECK(condition)
#define DCHECK_EQ(a, b) DCHECK((a) == (b))
#define DCHECK_NE(a, b) DCHECK((a) != (b))
#define DCHECK_LE(a, b) DCHECK((a) <= (b))
#define DCHECK_LT(a, b) DCHECK((a) < (b))
#define DCHECK_GE(a, b) DCHECK((a) >= (b))
#define DCHECK_GT(a, b) DCHECK((a) > (b))
#define DCHECK_NOTNULL(pointer) (pointer)
