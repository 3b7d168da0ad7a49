// Direct 2-D convolution of float32 images with few channels, and its two gradients.
//
//   y[n, h, w, o] = sum_{a, b, i} x[n, h * s + a - p, w * s + b - p, i] * k[a, b, i, o]
//
// Arrays lie as JAX has them: x [batch, height, width, in], k [kh, kw, in, out], y [batch, h', w', out].
//
// The functions are compiled once for each set of instructions, in a namespace of its own.

#pragma once

#include <cstdint>

namespace jaxdist {

struct Convolution {
  std::int64_t batch, height, width, inputs;  // of x
  std::int64_t kernel_height, kernel_width, outputs;
  std::int64_t out_height, out_width;
  std::int64_t stride_height, stride_width, top, left;  // bottom and right follow from the shapes
};


#define JAXDIST_DECLARE(instructions)                                                                  \
  namespace instructions {                                                                             \
  /* Of images `first` to `last` of the batch. */                                                      \
  void forward(const Convolution&, const float* x, const float* kernel, float* y, std::int64_t first,  \
               std::int64_t last);                                                                     \
  void input_gradient(const Convolution&, const float* dy, const float* kernel, float* dx,             \
                      std::int64_t first, std::int64_t last);                                          \
  /* Their sum over these images, without what dk had. */                                              \
  void kernel_gradient(const Convolution&, const float* x, const float* dy, float* dk,                 \
                       std::int64_t first, std::int64_t last);                                         \
  }

JAXDIST_DECLARE(avx2)
JAXDIST_DECLARE(avx512)
#undef JAXDIST_DECLARE

}  // namespace jaxdist
