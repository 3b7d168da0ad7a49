// What XLA calls for convolution.h.

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "convolution.h"
#include "threads.h"

namespace jaxdist {
namespace {

using Array = ffi::Buffer<ffi::F32, 4>;
using Result = ffi::ResultBuffer<ffi::F32, 4>;

// The shapes of an operation; kernel [kh, kw, in, out] and strides are given, padding follows from x and y.
Convolution shapes(const Array& x, const Array& kernel, const Array& y, int64_t stride_height, int64_t stride_width,
                   int64_t top, int64_t left) {
  const auto in = x.dimensions(), k = kernel.dimensions(), out = y.dimensions();
  return {in[0], in[1], in[2], in[3], k[0], k[1], k[3], out[1], out[2], stride_height, stride_width, top, left};
}

ffi::Error wrong(const Convolution& c, const Array& kernel) {
  const auto k = kernel.dimensions();
  if (k[2] == c.inputs && c.batch > 0 && c.stride_height > 0 && c.stride_width > 0 && c.top >= 0 && c.left >= 0)
    return ffi::Error::Success();
  return ffi::Error::InvalidArgument("jaxdist: the shapes are no convolution");
}

using OverImages = void (*)(const Convolution&, const float*, const float*, float*, int64_t, int64_t);

// Images of the result do not depend on each other.
ffi::Future over_images(ffi::ThreadPool& pool, const Convolution& c, OverImages run, const Array& from,
                        const Array& kernel, Result& to) {
  if (auto error = wrong(c, kernel); !error.success()) return failed(std::move(error));
  if (to->element_count() == 0) return done();  // the kernel is larger than the image
  const float *images = from.typed_data(), *k = kernel.typed_data();
  float* results = to->typed_data();
  return spread(
      pool, c.batch, part_for_each_thread(pool, c.batch),
      [=](int64_t, int64_t first, int64_t last) { run(c, images, k, results, first, last); }, [] {});
}

ffi::Future convolve(ffi::ThreadPool pool, Array x, Array kernel, Result y, int64_t stride_height,
                     int64_t stride_width, int64_t top, int64_t left) {
  const Convolution c = shapes(x, kernel, *y, stride_height, stride_width, top, left);
  return over_images(pool, c, has_avx512() ? avx512::forward : avx2::forward, x, kernel, y);
}

ffi::Future convolve_input_gradient(ffi::ThreadPool pool, Array dy, Array kernel, Result dx, int64_t stride_height,
                                    int64_t stride_width, int64_t top, int64_t left) {
  const Convolution c = shapes(*dx, kernel, dy, stride_height, stride_width, top, left);
  return over_images(pool, c, has_avx512() ? avx512::input_gradient : avx2::input_gradient, dy, kernel, dx);
}

ffi::Future convolve_kernel_gradient(ffi::ThreadPool pool, Array x, Array dy, Result dkernel, int64_t stride_height,
                                     int64_t stride_width, int64_t top, int64_t left) {
  const Convolution c = shapes(x, *dkernel, dy, stride_height, stride_width, top, left);
  if (auto error = wrong(c, *dkernel); !error.success()) return failed(std::move(error));
  const float *images = x.typed_data(), *gradients = dy.typed_data();
  float* to = dkernel->typed_data();
  const auto size = static_cast<int64_t>(dkernel->element_count());
  // Parts are as many whatever the number of threads, and are added in their order: so sums have the same bits.
  const int64_t parts = std::min<int64_t>(c.batch, kParts);
  auto sums = std::make_shared<std::vector<float>>(static_cast<std::size_t>((parts - 1) * size));
  return spread(
      pool, c.batch, parts,
      [=](int64_t part, int64_t first, int64_t last) {
        float* own = part == 0 ? to : sums->data() + (part - 1) * size;
        (has_avx512() ? avx512::kernel_gradient : avx2::kernel_gradient)(c, images, gradients, own, first, last);
      },
      [=] {
        for (int64_t part = 1; part < parts; ++part)
          for (int64_t i = 0; i < size; ++i) to[i] += (*sums)[static_cast<std::size_t>((part - 1) * size + i)];
      });
}

auto binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<Array>()
      .Arg<Array>()
      .Ret<Array>()
      .Attr<int64_t>("stride_height")
      .Attr<int64_t>("stride_width")
      .Attr<int64_t>("top")
      .Attr<int64_t>("left");
}

}  // namespace
}  // namespace jaxdist

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxdist_convolve, jaxdist::convolve, jaxdist::binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxdist_convolve_input_gradient, jaxdist::convolve_input_gradient, jaxdist::binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxdist_convolve_kernel_gradient, jaxdist::convolve_kernel_gradient,
                              jaxdist::binding());

// 0: this processor lacks what every kernel needs. 2: AVX2 and FMA; 512: AVX-512, too.
extern "C" int jaxdist_instructions() {
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
  return jaxdist::has_avx512() ? 512 : 2;
}
