// What all handlers need: which instructions there are, and work spread over XLA's own threads.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <utility>

#include "xla/ffi/api/ffi.h"

namespace jaxdist {

namespace ffi = xla::ffi;
using std::int64_t;

// Parts of a sum over a batch: as many whatever the number of threads, so that sums have the same bits.
inline constexpr int64_t kParts = 8;

inline bool has_avx512() {
  static const bool found = [] {
    const char* without = std::getenv("JAXDIST_NATIVE_AVX2");  // both can be tested on one machine
    return __builtin_cpu_supports("avx512f") && (without == nullptr || *without == 0);
  }();
  return found;
}

inline ffi::Future done() {
  ffi::Promise promise;
  promise.SetAvailable();
  return ffi::Future(promise);
}

inline ffi::Future failed(ffi::Error error) {
  ffi::Promise promise;
  promise.SetError(std::move(error));
  return ffi::Future(promise);
}

// Calls `part(p, first, last)` for `parts` equal parts of `count`, on all threads of the pool, and `end()` after the
// last. Does not wait where there are several threads.
template <typename Part, typename End>
ffi::Future spread(ffi::ThreadPool& pool, int64_t count, int64_t parts, Part part, End end) {
  if (pool.num_threads() <= 1 || parts <= 1) {
    for (int64_t p = 0; p < parts; ++p) part(p, p * count / parts, (p + 1) * count / parts);
    end();
    return done();
  }
  ffi::CountDownPromise all(parts);
  ffi::Future future(all);
  auto left = std::make_shared<std::atomic<int64_t>>(parts);
  for (int64_t p = 0; p < parts; ++p)
    pool.Schedule([=]() mutable {
      part(p, p * count / parts, (p + 1) * count / parts);
      if (left->fetch_sub(1, std::memory_order_acq_rel) == 1) end();
      all.CountDown(1);
    });
  return future;
}

// One for each thread, where the results do not depend on how many there are.
inline int64_t part_for_each_thread(const ffi::ThreadPool& pool, int64_t count) {
  return std::clamp<int64_t>(pool.num_threads(), 1, count);
}

}  // namespace jaxdist
