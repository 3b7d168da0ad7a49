// The arithmetic of normalization.h for one set of instructions: JAXDIST_INSTRUCTIONS is `avx2` or `avx512`.
//
// Rows are taken in blocks that stay in a core's first cache, so that what needs two passes reads memory once. Channels
// are taken in groups of some vectors; where they are no multiple of a vector the last one begins earlier, and computes
// some channels again. Sums of a block are float, and sums of blocks double: rounding does not grow with the batch.

#include "normalization.h"

#include <algorithm>
#include <vector>

#include "vector.h"

namespace jaxdist::JAXDIST_INSTRUCTIONS {
namespace {

using std::int64_t;

constexpr int64_t kBlockBytes = 12 * 1024;
constexpr int kGroup = 4;  // vectors

int64_t rows_of_block(int64_t channels) {
  return std::max<int64_t>(kBlockBytes / (channels * static_cast<int64_t>(sizeof(float))), 1);
}

// Calls `group.template run<n>(channel offsets)` for groups of n vectors that cover all channels; there are at least
// kLanes of them.
template <typename Group>
void for_each_group(int64_t channels, Group group) {
  const int64_t vectors = (channels + kLanes - 1) / kLanes;
  for (int64_t from = 0; from < vectors; from += kGroup) {
    int64_t at[kGroup];
    for (int64_t k = 0; k < kGroup; ++k) at[k] = std::min((from + k) * kLanes, channels - kLanes);
    switch (std::min<int64_t>(vectors - from, kGroup)) {
      case 1: group.template run<1>(at); break;
      case 2: group.template run<2>(at); break;
      case 3: group.template run<3>(at); break;
      default: group.template run<4>(at); break;
    }
  }
}

// Rows that are summed side by side, so that a sum does not wait for the one before.
template <int kVectors>
inline constexpr int kSideBySide = kVectors >= 3 ? 2 : 4;

inline Vector masked(Vector x, Vector dy, Vector u, Vector v, bool relu) {
  return relu ? keep_where_positive(multiply_add(x, u, v), dy) : dy;
}

// sum over a block's rows of x, or of (x - mean)^2
template <bool kSquares>
struct Sums {
  const float* x;
  int64_t rows, channels;
  const float* mean;
  float* to;

  template <int kVectors>
  void run(const int64_t* at) const {
    constexpr int kSide = kSideBySide<kVectors>;
    Vector sum[kSide][kVectors], middle[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      middle[v] = kSquares ? load(mean + at[v]) : zero();
      for (int s = 0; s < kSide; ++s) sum[s][v] = zero();
    }
    const auto take = [&](const float* row, Vector* into) {
      for (int v = 0; v < kVectors; ++v) {
        const Vector value = load(row + at[v]);
        if constexpr (kSquares) {
          const Vector off = subtract(value, middle[v]);
          into[v] = multiply_add(off, off, into[v]);
        } else {
          into[v] = add(into[v], value);
        }
      }
    };
    int64_t r = 0;
    for (; r + kSide <= rows; r += kSide)
      for (int s = 0; s < kSide; ++s) take(x + (r + s) * channels, sum[s]);
    for (; r < rows; ++r) take(x + r * channels, sum[0]);
    for (int v = 0; v < kVectors; ++v) {
      for (int s = 1; s < kSide; ++s) sum[0][v] = add(sum[0][v], sum[s][v]);
      store(to + at[v], sum[0][v]);
    }
  }
};

struct Normalize {
  const float* x;
  int64_t rows, channels;
  Affine affine;
  float* y;

  template <int kVectors>
  void run(const int64_t* at) const {
    Vector u[kVectors], w[kVectors];
    for (int v = 0; v < kVectors; ++v) u[v] = load(affine.u + at[v]), w[v] = load(affine.v + at[v]);
    for (int64_t r = 0; r < rows; ++r)
      for (int v = 0; v < kVectors; ++v) {
        const int64_t place = r * channels + at[v];
        const Vector value = multiply_add(load(x + place), u[v], w[v]);
        store(y + place, affine.relu ? rectify(value) : value);
      }
  }
};

struct GradientSums {
  const float *x, *dy;
  int64_t rows, channels;
  Affine affine;
  const float* mean;
  float *sums, *products;

  template <int kVectors>
  void run(const int64_t* at) const {
    Vector sum[kVectors], product[kVectors];
    for (int v = 0; v < kVectors; ++v) sum[v] = product[v] = zero();
    for (int64_t r = 0; r < rows; ++r)
      for (int v = 0; v < kVectors; ++v) {
        const int64_t place = r * channels + at[v];
        const Vector value = load(x + place);
        const Vector g =
            masked(value, load(dy + place), load(affine.u + at[v]), load(affine.v + at[v]), affine.relu);
        sum[v] = add(sum[v], g);
        product[v] = multiply_add(g, subtract(value, load(mean + at[v])), product[v]);
      }
    for (int v = 0; v < kVectors; ++v) store(sums + at[v], sum[v]), store(products + at[v], product[v]);
  }
};

struct Gradient {
  const float *x, *dy;
  int64_t rows, channels;
  Affine affine;
  const float *a, *b;
  float* dx;

  template <int kVectors>
  void run(const int64_t* at) const {
    for (int64_t r = 0; r < rows; ++r)
      for (int v = 0; v < kVectors; ++v) {
        const int64_t place = r * channels + at[v];
        const Vector value = load(x + place), u = load(affine.u + at[v]);
        const Vector g = masked(value, load(dy + place), u, load(affine.v + at[v]), affine.relu);
        store(dx + place, multiply_add(g, u, multiply_add(value, load(a + at[v]), load(b + at[v]))));
      }
  }
};

}  // namespace

void moments(const float* x, int64_t rows, int64_t channels, double* mean, double* squares) {
  const auto size = static_cast<std::size_t>(channels);
  std::vector<float> sum(size), middle(size), off(size);
  std::fill_n(mean, channels, 0.0);
  std::fill_n(squares, channels, 0.0);
  const int64_t block = rows_of_block(channels);
  for (int64_t r = 0; r < rows; r += block) {
    const int64_t count = std::min(block, rows - r);
    const float* from = x + r * channels;
    for_each_group(channels, Sums<false>{from, count, channels, nullptr, sum.data()});
    for (std::size_t c = 0; c < size; ++c) middle[c] = sum[c] / static_cast<float>(count);
    for_each_group(channels, Sums<true>{from, count, channels, middle.data(), off.data()});
    // Chan, Golub and LeVeque 1983, of this block and those before it. `middle` is rounded: what it is off the block's
    // mean is taken from the squares.
    const double before = static_cast<double>(r), now = static_cast<double>(count), all = before + now;
    for (std::size_t c = 0; c < size; ++c) {
      const double own = static_cast<double>(sum[c]) / now, rounded = own - static_cast<double>(middle[c]);
      const double apart = own - mean[c];
      squares[c] += static_cast<double>(off[c]) - now * rounded * rounded + apart * apart * before * now / all;
      mean[c] += apart * now / all;
    }
  }
}

void normalize(const float* x, int64_t rows, int64_t channels, Affine affine, float* y) {
  const int64_t block = rows_of_block(channels);
  for (int64_t r = 0; r < rows; r += block)
    for_each_group(channels,
                   Normalize{x + r * channels, std::min(block, rows - r), channels, affine, y + r * channels});
}

void gradient_sums(const float* x, const float* dy, int64_t rows, int64_t channels, Affine affine, const float* mean,
                   double* sums, double* products) {
  const auto size = static_cast<std::size_t>(channels);
  std::vector<float> sum(size), product(size);
  std::fill_n(sums, channels, 0.0);
  std::fill_n(products, channels, 0.0);
  const int64_t block = rows_of_block(channels);
  for (int64_t r = 0; r < rows; r += block) {
    const int64_t at = r * channels;
    for_each_group(channels, GradientSums{x + at, dy + at, std::min(block, rows - r), channels, affine, mean,
                                          sum.data(), product.data()});
    for (std::size_t c = 0; c < size; ++c) {
      sums[c] += static_cast<double>(sum[c]);
      products[c] += static_cast<double>(product[c]);
    }
  }
}

void normalize_gradient(const float* x, const float* dy, int64_t rows, int64_t channels, Affine affine, const float* a,
                        const float* b, float* dx) {
  const int64_t block = rows_of_block(channels);
  for (int64_t r = 0; r < rows; r += block) {
    const int64_t at = r * channels;
    for_each_group(channels,
                   Gradient{x + at, dy + at, std::min(block, rows - r), channels, affine, a, b, dx + at});
  }
}

}  // namespace jaxdist::JAXDIST_INSTRUCTIONS
