// Dropout whose bits are a hash of counters; jaxdist/ops/dropout.py has the formula.

#pragma once

#include <cstdint>

namespace jaxdist {

// A bijection of 32 bits whose every output bit depends on every input bit (MurmurHash3's finaliser).
inline std::uint32_t mix32(std::uint32_t h) {
  h = (h ^ (h >> 16)) * 0x85EBCA6Bu;
  h = (h ^ (h >> 13)) * 0xC2B2AE35u;
  return h ^ (h >> 16);
}

#define JAXDIST_DECLARE(instructions)                                                                           \
  namespace instructions {                                                                                      \
  /* y[i] = x[i] * scale where the hash of `example` and i is at least `least`, else 0; x [count]. */           \
  void dropout(const float* x, std::int64_t count, std::uint32_t example, std::uint32_t least, float scale,     \
               float* y);                                                                                       \
  }

JAXDIST_DECLARE(avx2)
JAXDIST_DECLARE(avx512)
#undef JAXDIST_DECLARE

}  // namespace jaxdist
