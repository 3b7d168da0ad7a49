// What XLA calls for normalization.h. Images [batch, height, width, channels] are rows of channels here.

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "normalization.h"
#include "threads.h"

namespace jaxdist {
namespace {

using Array = ffi::AnyBuffer;
using Vector = ffi::Buffer<ffi::F32, 1>;
using Result = ffi::Result<ffi::AnyBuffer>;
using VectorResult = ffi::ResultBuffer<ffi::F32, 1>;

constexpr int64_t kLeastChannels = 16;  // the lanes of the widest vector

struct Rows {
  int64_t count = 0, channels = 0;

  explicit Rows(const Array& x) {
    const auto dimensions = x.dimensions();
    if (x.element_type() != ffi::F32 || dimensions.size() == 0) return;
    channels = dimensions.back();
    count = channels > 0 ? static_cast<int64_t>(x.element_count()) / channels : 0;
  }
  bool usable() const { return count > 0 && channels >= kLeastChannels; }
  int64_t parts() const { return std::min(count, kParts); }
};

ffi::Error refused() { return ffi::Error::InvalidArgument("jaxdist: the arrays are no float32 images"); }

// Sums of each part in double, [parts][2][channels].
using Sums = std::shared_ptr<std::vector<double>>;

Sums sums_of(const Rows& rows) {
  return std::make_shared<std::vector<double>>(static_cast<std::size_t>(rows.parts() * 2 * rows.channels));
}

ffi::Future moments(ffi::ThreadPool pool, Array x, VectorResult mean, VectorResult variance) {
  const Rows rows(x);
  if (!rows.usable()) return failed(refused());
  const float* from = x.typed_data<float>();
  float *to_mean = mean->typed_data(), *to_variance = variance->typed_data();
  const Sums sums = sums_of(rows);
  return spread(
      pool, rows.count, rows.parts(),
      [=](int64_t part, int64_t first, int64_t last) {
        double* own = sums->data() + part * 2 * rows.channels;
        (has_avx512() ? avx512::moments : avx2::moments)(from + first * rows.channels, last - first, rows.channels,
                                                         own, own + rows.channels);
      },
      [=] {  // Chan, Golub and LeVeque 1983
        for (int64_t c = 0; c < rows.channels; ++c) {
          double middle = 0, squares = 0, before = 0;
          for (int64_t part = 0; part < rows.parts(); ++part) {
            const double* own = sums->data() + part * 2 * rows.channels;
            const auto now = static_cast<double>((part + 1) * rows.count / rows.parts() -
                                                 part * rows.count / rows.parts());
            const double apart = own[c] - middle, all = before + now;
            squares += own[rows.channels + c] + apart * apart * before * now / all;
            middle += apart * now / all;
            before = all;
          }
          to_mean[c] = static_cast<float>(middle);
          to_variance[c] = static_cast<float>(squares / before);
        }
      });
}

ffi::Future normalize(ffi::ThreadPool pool, Array x, Vector u, Vector v, Result y, bool relu) {
  const Rows rows(x);
  if (!rows.usable()) return failed(refused());
  const float* from = x.typed_data<float>();
  float* to = y->typed_data<float>();
  const Affine affine{u.typed_data(), v.typed_data(), relu};
  return spread(
      pool, rows.count, part_for_each_thread(pool, rows.count),
      [=](int64_t, int64_t first, int64_t last) {
        const int64_t at = first * rows.channels;
        (has_avx512() ? avx512::normalize : avx2::normalize)(from + at, last - first, rows.channels, affine, to + at);
      },
      [] {});
}

ffi::Future gradient_sums(ffi::ThreadPool pool, Array x, Array dy, Vector u, Vector v, Vector mean, VectorResult sums,
                          VectorResult products, bool relu) {
  const Rows rows(x);
  if (!rows.usable()) return failed(refused());
  const float *from = x.typed_data<float>(), *gradient = dy.typed_data<float>(), *middle = mean.typed_data();
  float *to_sums = sums->typed_data(), *to_products = products->typed_data();
  const Affine affine{u.typed_data(), v.typed_data(), relu};
  const Sums all = sums_of(rows);
  return spread(
      pool, rows.count, rows.parts(),
      [=](int64_t part, int64_t first, int64_t last) {
        const int64_t at = first * rows.channels;
        double* own = all->data() + part * 2 * rows.channels;
        (has_avx512() ? avx512::gradient_sums : avx2::gradient_sums)(from + at, gradient + at, last - first,
                                                                     rows.channels, affine, middle, own,
                                                                     own + rows.channels);
      },
      [=] {
        for (int64_t c = 0; c < rows.channels; ++c) {
          double sum = 0, product = 0;
          for (int64_t part = 0; part < rows.parts(); ++part) {
            const double* own = all->data() + part * 2 * rows.channels;
            sum += own[c];
            product += own[rows.channels + c];
          }
          to_sums[c] = static_cast<float>(sum);
          to_products[c] = static_cast<float>(product);
        }
      });
}

ffi::Future normalize_gradient(ffi::ThreadPool pool, Array x, Array dy, Vector u, Vector v, Vector a, Vector b,
                               Result dx, bool relu) {
  const Rows rows(x);
  if (!rows.usable()) return failed(refused());
  const float *from = x.typed_data<float>(), *gradient = dy.typed_data<float>();
  const float *of_x = a.typed_data(), *offset = b.typed_data();
  float* to = dx->typed_data<float>();
  const Affine affine{u.typed_data(), v.typed_data(), relu};
  return spread(
      pool, rows.count, part_for_each_thread(pool, rows.count),
      [=](int64_t, int64_t first, int64_t last) {
        const int64_t at = first * rows.channels;
        (has_avx512() ? avx512::normalize_gradient : avx2::normalize_gradient)(
            from + at, gradient + at, last - first, rows.channels, affine, of_x, offset, to + at);
      },
      [] {});
}

auto of_x() { return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Array>(); }

auto of_x_and_dy() { return of_x().Arg<Array>().Arg<Vector>().Arg<Vector>(); }  // and of u and v

auto moments_binding() { return of_x().Ret<Vector>().Ret<Vector>(); }

auto normalize_binding() { return of_x().Arg<Vector>().Arg<Vector>().Ret<Array>().Attr<bool>("relu"); }

auto sums_binding() { return of_x_and_dy().Arg<Vector>().Ret<Vector>().Ret<Vector>().Attr<bool>("relu"); }

auto gradient_binding() { return of_x_and_dy().Arg<Vector>().Arg<Vector>().Ret<Array>().Attr<bool>("relu"); }

}  // namespace
}  // namespace jaxdist

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxdist_moments, jaxdist::moments, jaxdist::moments_binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxdist_normalize, jaxdist::normalize, jaxdist::normalize_binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxdist_gradient_sums, jaxdist::gradient_sums, jaxdist::sums_binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxdist_normalize_gradient, jaxdist::normalize_gradient, jaxdist::gradient_binding());
