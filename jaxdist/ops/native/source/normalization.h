// The passes of batch normalisation over float32 arrays [rows, channels], with ReLU in them.
//
//   forward    y  = x * u + v                     (then max(y, 0))
//   backward   g  = dy (where y > 0)
//              dx = g * u + x * a + b
//
// y is not read again: x * u + v is computed a second time, with the same rounding.

#pragma once

#include <cstdint>

namespace jaxdist {

// Channels' numbers of the passes: [channels] each.
struct Affine {
  const float *u, *v;
  bool relu;
};

#define JAXDIST_DECLARE(instructions)                                                                     \
  namespace instructions {                                                                                \
  /* mean and sum of squared differences from it, of each channel; each [channels]. */                    \
  void moments(const float* x, std::int64_t rows, std::int64_t channels, double* mean, double* squares);  \
  void normalize(const float* x, std::int64_t rows, std::int64_t channels, Affine, float* y);             \
  /* sum of g, and of g * (x - mean), of each channel. */                                                 \
  void gradient_sums(const float* x, const float* dy, std::int64_t rows, std::int64_t channels, Affine,   \
                     const float* mean, double* sums, double* products);                                  \
  void normalize_gradient(const float* x, const float* dy, std::int64_t rows, std::int64_t channels,      \
                          Affine, const float* a, const float* b, float* dx);                             \
  }

JAXDIST_DECLARE(avx2)
JAXDIST_DECLARE(avx512)
#undef JAXDIST_DECLARE

}  // namespace jaxdist
