// Runs the kernels on arrays of exact size, with shapes at random, beside plain loops; built with sanitizers by
// test_compiler.py. Prints the first difference and ends with 1, or prints how many shapes it has tried.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "convolution.h"
#include "dropout.h"
#include "normalization.h"

namespace {

using jaxdist::Affine;
using jaxdist::Convolution;
using std::int64_t;
using Numbers = std::vector<float>;

std::mt19937_64 bits(7);

int64_t one_of(int64_t first, int64_t last) { return std::uniform_int_distribution<int64_t>(first, last)(bits); }

Numbers some(int64_t count) {
  std::normal_distribution<float> normal;
  Numbers made(static_cast<std::size_t>(count));
  for (float& number : made) number = normal(bits);
  return made;
}

void check(const char* name, const Numbers& found, const std::vector<double>& wanted) {
  double most = 1e-3, off = 0;
  for (double number : wanted) most = std::max(most, std::fabs(number));
  for (std::size_t i = 0; i < wanted.size(); ++i) off = std::max(off, std::fabs(wanted[i] - double{found[i]}));
  if (off <= 1e-5 * most) return;
  std::printf("%s is off by %g of %g\n", name, off, most);
  std::exit(1);
}

void convolution(bool wide) {
  Convolution c{};
  c.batch = one_of(1, 3), c.inputs = one_of(1, 37), c.outputs = one_of(1, 37);
  c.kernel_height = one_of(1, 4), c.kernel_width = one_of(1, 4);
  c.stride_height = one_of(1, 3), c.stride_width = one_of(1, 3);
  const bool padded = one_of(0, 1) == 1;  // rows are read in place without
  c.top = padded ? one_of(0, c.kernel_height) : 0, c.left = padded ? one_of(0, c.kernel_width) : 0;
  const int64_t bottom = padded ? one_of(0, c.kernel_height) : 0, right = padded ? one_of(0, c.kernel_width) : 0;
  c.height = one_of(std::max<int64_t>(c.kernel_height - c.top - bottom, 1), 11);
  c.width = one_of(std::max<int64_t>(c.kernel_width - c.left - right, 1), 20);
  c.out_height = (c.height + c.top + bottom - c.kernel_height) / c.stride_height + 1;
  c.out_width = (c.width + c.left + right - c.kernel_width) / c.stride_width + 1;
  const Numbers x = some(c.batch * c.height * c.width * c.inputs);
  const Numbers k = some(c.kernel_height * c.kernel_width * c.inputs * c.outputs);
  const Numbers dy = some(c.batch * c.out_height * c.out_width * c.outputs);
  std::vector<double> y(dy.size()), dx(x.size()), dk(k.size());
  for (int64_t n = 0; n < c.batch; ++n)
    for (int64_t p = 0; p < c.out_height; ++p)
      for (int64_t q = 0; q < c.out_width; ++q)
        for (int64_t a = 0; a < c.kernel_height; ++a)
          for (int64_t b = 0; b < c.kernel_width; ++b) {
            const int64_t h = p * c.stride_height + a - c.top, w = q * c.stride_width + b - c.left;
            if (h < 0 || h >= c.height || w < 0 || w >= c.width) continue;
            for (int64_t i = 0; i < c.inputs; ++i)
              for (int64_t o = 0; o < c.outputs; ++o) {
                const auto at_x = static_cast<std::size_t>(((n * c.height + h) * c.width + w) * c.inputs + i);
                const auto at_k = static_cast<std::size_t>(((a * c.kernel_width + b) * c.inputs + i) * c.outputs + o);
                const auto at_y = static_cast<std::size_t>(((n * c.out_height + p) * c.out_width + q) * c.outputs + o);
                y[at_y] += double{x[at_x]} * double{k[at_k]};
                dx[at_x] += double{dy[at_y]} * double{k[at_k]};
                dk[at_k] += double{dy[at_y]} * double{x[at_x]};
              }
          }
  Numbers found_y(y.size(), NAN), found_dx(dx.size(), NAN), found_dk(dk.size(), NAN);
  using namespace jaxdist;
  (wide ? avx512::forward : avx2::forward)(c, x.data(), k.data(), found_y.data(), 0, c.batch);
  (wide ? avx512::input_gradient : avx2::input_gradient)(c, dy.data(), k.data(), found_dx.data(), 0, c.batch);
  (wide ? avx512::kernel_gradient : avx2::kernel_gradient)(c, x.data(), dy.data(), found_dk.data(), 0, c.batch);
  check("y", found_y, y);
  check("dx", found_dx, dx);
  check("dk", found_dk, dk);
}

void normalization(bool wide) {
  const int64_t rows = one_of(1, 900), channels = one_of(16, 90);
  const auto size = static_cast<std::size_t>(channels);
  const Numbers x = some(rows * channels), dy = some(rows * channels), u = some(channels), v = some(channels);
  const Numbers a = some(channels), b = some(channels);
  const Affine affine{u.data(), v.data(), one_of(0, 1) == 1};
  std::vector<double> mean(size), squares(size), sums(size), products(size), y(x.size()), dx(x.size());
  std::vector<double> means(size), off(size), sum(size), product(size);
  using namespace jaxdist;
  (wide ? avx512::moments : avx2::moments)(x.data(), rows, channels, means.data(), off.data());
  const Numbers middle(means.begin(), means.end());
  (wide ? avx512::gradient_sums : avx2::gradient_sums)(x.data(), dy.data(), rows, channels, affine, middle.data(),
                                                       sum.data(), product.data());
  for (std::size_t i = 0; i < x.size(); ++i) mean[i % size] += double{x[i]} / static_cast<double>(rows);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::size_t c = i % size;
    squares[c] += std::pow(double{x[i]} - mean[c], 2);
    const float normal = std::fmaf(x[i], u[c], v[c]);
    const double g = affine.relu && !(normal > 0) ? 0 : double{dy[i]};
    sums[c] += g;
    products[c] += g * (double{x[i]} - double{middle[c]});
    y[i] = affine.relu ? std::max(double{normal}, 0.0) : double{normal};
    dx[i] = g * double{u[c]} + double{x[i]} * double{a[c]} + double{b[c]};
  }
  Numbers found(x.size(), NAN), gradient(x.size(), NAN);
  (wide ? avx512::normalize : avx2::normalize)(x.data(), rows, channels, affine, found.data());
  (wide ? avx512::normalize_gradient : avx2::normalize_gradient)(x.data(), dy.data(), rows, channels, affine, a.data(),
                                                                 b.data(), gradient.data());
  check("mean", Numbers(means.begin(), means.end()), mean);
  check("squares", Numbers(off.begin(), off.end()), squares);
  check("sums", Numbers(sum.begin(), sum.end()), sums);
  check("products", Numbers(product.begin(), product.end()), products);
  check("normalised", found, y);
  check("its gradient", gradient, dx);
}

void dropout(bool wide) {
  using namespace jaxdist;
  const Numbers x = some(one_of(1, 200));
  Numbers found(x.size(), NAN);
  std::vector<double> y(x.size());
  const auto example = static_cast<std::uint32_t>(bits()), least = static_cast<std::uint32_t>(bits());
  for (std::size_t i = 0; i < x.size(); ++i)
    y[i] = jaxdist::mix32(example + static_cast<std::uint32_t>(i) * 0x9E3779B9u) >= least ? double{x[i]} * 1.25 : 0;
  (wide ? avx512::dropout : avx2::dropout)(x.data(), static_cast<int64_t>(x.size()), example, least, 1.25f,
                                           found.data());
  check("dropout", found, y);
}

}  // namespace

int main() {
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
    std::printf("no AVX2\n");
    return 2;
  }
  for (int wide = 0; wide <= (__builtin_cpu_supports("avx512f") ? 1 : 0); ++wide)
    for (int shape = 0; shape < 150; ++shape) {
      convolution(wide == 1);
      normalization(wide == 1);
      dropout(wide == 1);
    }
  std::printf("150 shapes\n");
  return 0;
}
