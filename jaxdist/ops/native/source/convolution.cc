// The arithmetic of convolution.h for one set of instructions: JAXDIST_INSTRUCTIONS is `avx2` or `avx512`.
//
// In one row of the input, what a pixel of the output reads is contiguous: kw * in numbers, from its first tap on. So a
// row is a matrix product of overlapping rows, and both loops below are that of a matrix product, whose tile of results
// stays in registers:
//
//                 kw * in                        out
//   pixel w    [ x[w .. w+kw) ]             [           ]
//   pixel w+1     [ x[w+1 .. w+1+kw) ]   *  [  kernel   ]    for each of the kh rows
//   pixel w+2        [ ... ]                [           ]
//
//   forward            tile: pixels x outputs; the sum is over kh * kw * in
//   input gradient     forward of dy with the turned kernel; one for each remainder of a stride
//   kernel gradient    tile: (kw * in) x outputs, or its transpose; the sum is over the pixels of some rows
//
// Of the two sides of a product one is broadcast, number by number, and the other is read in vectors.

#include "convolution.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "vector.h"

namespace jaxdist::JAXDIST_INSTRUCTIONS {
namespace {

using std::int64_t;

constexpr int kMostVectors = 3;  // of a tile
// Numbers that are broadcast at a time: a tile, its vectors and the number itself are in registers.
constexpr int most_rows(int vectors) { return std::min((kRegisters - 1 - vectors) / vectors, 16); }
constexpr int64_t kCacheBytes = 28 * 1024;  // of rows that are read again and again: most of a core's first cache

constexpr int64_t kLongRow = 24;  // pixels

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Compilers know nothing of `value` from here on.
template <typename T>
void hide(T& value) {
  __asm__("" : "+r"(value));
}

// `count` in equal parts of at most `most`: their number, and where each begins.
struct Parts {
  int64_t count, number;
  Parts(int64_t count, int64_t most) : count(count), number(divide_up(count, most)) {}
  int64_t begin(int64_t part) const { return part * count / number; }
};

// How many of the last `rows` rows of an array may be read in vectors: as far as one vector beyond a row stays inside.
int64_t rows_in_place(int64_t rows, int64_t numbers) { return rows - divide_up(kLanes, numbers); }

// How a product of `rows` by `vectors` is tiled: the most vectors of a tile.
struct Tiling {
  int most_vectors = 1;
  int64_t cost = 0;  // half cycles for each term of the sum

  Tiling(int64_t rows, int64_t vectors) {
    for (int most = 1; most <= kMostVectors; ++most) {
      int64_t cost = 0;
      const Parts across(vectors, most);
      for (int64_t v = 0; v < across.number; ++v) {
        const int64_t wide = across.begin(v + 1) - across.begin(v);
        const Parts down(rows, most_rows(static_cast<int>(wide)));
        for (int64_t r = 0; r < down.number; ++r) {
          const int64_t high = down.begin(r + 1) - down.begin(r);
          // Two products or two loads a cycle; a sum waits four cycles for the one before.
          cost += std::max({high * wide, high + wide, int64_t{8}});
        }
      }
      if (most == 1 || cost < this->cost) {
        this->cost = cost;
        most_vectors = most;
      }
    }
  }
};

// Rows of one image, with zeros around them, and some numbers more that a vector may read.
class PaddedRows {
 public:
  // `width` pixels from column -left on; so many rows are held at a time.
  PaddedRows(int64_t image_height, int64_t image_width, int64_t channels, int64_t left, int64_t width, int64_t held)
      : image_height_(image_height),
        image_width_(image_width),
        channels_(channels),
        from_(std::max<int64_t>(-left, 0)),
        to_(std::max<int64_t>(left, 0)),
        copied_(std::max<int64_t>(std::min(image_width - from_, width - to_), 0)),
        stride_(divide_up(width * channels, kLanes) * kLanes + kLanes),
        rows_(held, -1),
        numbers_(static_cast<std::size_t>((held + 1) * stride_), 0.0f) {}

  void begin(const float* image) {
    image_ = image;
    std::fill(rows_.begin(), rows_.end(), -1);
  }

  // Valid until as many other rows have been asked for as are held. Rows outside the image are zeros.
  const float* row(int64_t number) {
    const auto held = static_cast<int64_t>(rows_.size());
    if (number < 0 || number >= image_height_) return numbers_.data() + held * stride_;
    const int64_t place = number % held;
    float* found = numbers_.data() + place * stride_;
    if (rows_[static_cast<std::size_t>(place)] != number) {
      rows_[static_cast<std::size_t>(place)] = number;
      std::memcpy(found + to_ * channels_, image_ + (number * image_width_ + from_) * channels_,
                  static_cast<std::size_t>(copied_ * channels_) * sizeof(float));
    }
    return found;
  }

 private:
  int64_t image_height_, image_width_, channels_, from_, to_, copied_, stride_;
  const float* image_ = nullptr;
  std::vector<int64_t> rows_;
  Floats numbers_;
};

// ---------------------------------------------------------------------------------------------------------- forward

struct Pixels {
  const float* const* rows;  // [kernel_height], each from the first pixel of the tile on
  int64_t offset, height, length, step;  // of the first pixel; numbers of a row for a pixel; between pixels
  const float* panel;        // [height * length][vectors]
  float* to;
  int64_t pixel_stride, channels;  // of the result; channels from `to` on, at least one in the last vector
};

template <int kPixels, int kVectors>
void convolve_pixels(const Pixels& tile) {
  Vector sum[kPixels][kVectors];
#pragma GCC unroll 16
  for (int p = 0; p < kPixels; ++p)
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) sum[p][v] = zero();
  const float* panel = tile.panel;
  // Pixels are 0 to 3 steps from every fourth. Were that known to compilers, they would keep a number for each pixel,
  // more than there are registers.
  constexpr int kFourths = (kPixels + 3) / 4;
  int64_t step = tile.step, three_steps = 3 * step;
  hide(step), hide(three_steps);
  for (int64_t a = 0; a < tile.height; ++a) {
    const float* fourth[kFourths];
#pragma GCC unroll 4
    for (int j = 0; j < kFourths; ++j) {
      fourth[j] = tile.rows[a] + tile.offset + 4 * j * tile.step;
      hide(fourth[j]);
    }
    for (int64_t k = 0; k < tile.length; ++k, panel += kVectors * kLanes) {
      Vector kernel[kVectors];
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) kernel[v] = load(panel + v * kLanes);
#pragma GCC unroll 16
      for (int p = 0; p < kPixels; ++p) {
        const Vector x = broadcast(fourth[p / 4] + (p % 4 == 3 ? three_steps : p % 4 * step));
#pragma GCC unroll 3
        for (int v = 0; v < kVectors; ++v) sum[p][v] = multiply_add(x, kernel[v], sum[p][v]);
      }
#pragma GCC unroll 4
      for (int j = 0; j < kFourths; ++j) ++fourth[j];
    }
  }
  const auto last = static_cast<int>(std::min<int64_t>(tile.channels - (kVectors - 1) * kLanes, kLanes));
#pragma GCC unroll 16
  for (int p = 0; p < kPixels; ++p) {
    float* to = tile.to + p * tile.pixel_stride;
#pragma GCC unroll 3
    for (int v = 0; v + 1 < kVectors; ++v) store(to + v * kLanes, sum[p][v]);
    if (last == kLanes)
      store(to + (kVectors - 1) * kLanes, sum[p][kVectors - 1]);
    else
      store_first(to + (kVectors - 1) * kLanes, sum[p][kVectors - 1], last);
  }
}

// --------------------------------------------------------------------------------------------------- kernel gradient

struct Products {
  const float* const* single;  // rows of the side that is broadcast, and of the one that is read in vectors
  int64_t single_row, single_offset, single_step;  // rows, numbers in each row, and numbers between pixels
  const float* const* wide;
  int64_t wide_row, wide_offset, wide_step;
  int64_t rows, pixels;
  float* sum;
  int64_t sum_stride;
};

template <int kSingles, int kVectors>
void add_products(const Products& tile) {
  Vector sum[kSingles][kVectors];
#pragma GCC unroll 16
  for (int j = 0; j < kSingles; ++j)
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) sum[j][v] = zero();
  for (int64_t r = 0; r < tile.rows; ++r) {
    const float* single = tile.single[r * tile.single_row] + tile.single_offset;
    const float* wide = tile.wide[r * tile.wide_row] + tile.wide_offset;
    for (int64_t w = 0; w < tile.pixels; ++w, single += tile.single_step, wide += tile.wide_step) {
      Vector right[kVectors];
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) right[v] = load(wide + v * kLanes);
#pragma GCC unroll 16
      for (int j = 0; j < kSingles; ++j) {
        const Vector left = broadcast(single + j);
#pragma GCC unroll 3
        for (int v = 0; v < kVectors; ++v) sum[j][v] = multiply_add(left, right[v], sum[j][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int j = 0; j < kSingles; ++j)
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) {
      // Few terms are summed before they are added: rounding grows with the length of a chain.
      float* to = tile.sum + j * tile.sum_stride + v * kLanes;
      store(to, add(load(to), sum[j][v]));
    }
}

// ------------------------------------------------------------------------- one function for each size of a tile

template <typename Tile>
using Kernel = void (*)(const Tile&);

template <int kVectors, int... kRows>
constexpr Kernel<Pixels> pixel_kernel(int rows, std::integer_sequence<int, kRows...>) {
  constexpr Kernel<Pixels> found[] = {&convolve_pixels<kRows + 1, kVectors>...};
  return found[rows - 1];
}

template <int kVectors, int... kRows>
constexpr Kernel<Products> product_kernel(int rows, std::integer_sequence<int, kRows...>) {
  constexpr Kernel<Products> found[] = {&add_products<kRows + 1, kVectors>...};
  return found[rows - 1];
}

template <int kVectors>
using Rows = std::make_integer_sequence<int, most_rows(kVectors)>;

void run(const Pixels& tile, int64_t rows, int64_t vectors) {
  const int r = static_cast<int>(rows);
  (vectors == 1   ? pixel_kernel<1>(r, Rows<1>())
   : vectors == 2 ? pixel_kernel<2>(r, Rows<2>())
                  : pixel_kernel<3>(r, Rows<3>()))(tile);
}

void run(const Products& tile, int64_t rows, int64_t vectors) {
  const int r = static_cast<int>(rows);
  (vectors == 1   ? product_kernel<1>(r, Rows<1>())
   : vectors == 2 ? product_kernel<2>(r, Rows<2>())
                  : product_kernel<3>(r, Rows<3>()))(tile);
}

// --------------------------------------------------------------------------------------- images by kernels of stride

// A correlation of images with a kernel whose taps begin `top` rows above and `left` columns left of a pixel. Its
// results may lie apart: every second pixel, say.
struct Correlation {
  int64_t height, width, inputs;  // of an image
  int64_t kernel_height, kernel_width, outputs;
  int64_t stride_height, stride_width, top, left;
  int64_t rows, columns;  // of the result
  int64_t row_stride, pixel_stride;  // of the result, in numbers
};

// Rows of few pixels leave tiles half empty. Where a pixel reads no other, some rows are one long row.
Correlation with_long_rows(Correlation c) {
  const bool alone = c.kernel_height == 1 && c.kernel_width == 1 && c.stride_height == 1 && c.stride_width == 1;
  const bool whole = c.top == 0 && c.left == 0 && c.rows == c.height && c.columns == c.width;
  if (!alone || !whole || c.row_stride != c.columns * c.pixel_stride) return c;
  int64_t merged = 1;
  while (merged * c.columns < kLongRow && merged < c.rows)
    do ++merged;
    while (c.rows % merged);
  c.height = c.rows /= merged;
  c.width = c.columns *= merged;
  c.row_stride *= merged;
  return c;
}

// `kernel(a, k, o)` for all a < kernel_height, k < kernel_width * inputs.
template <typename Kernel>
void correlate(const Correlation& given, const float* images, int64_t image_size, Kernel kernel, float* results,
               int64_t result_size, int64_t first, int64_t last) {
  const Correlation c = with_long_rows(given);
  const int64_t length = c.kernel_width * c.inputs, vectors = divide_up(c.outputs, kLanes);
  const Tiling tiling(c.columns, vectors);
  const Parts across(vectors, tiling.most_vectors);
  Floats panels(static_cast<std::size_t>(c.kernel_height * length * vectors * kLanes), 0.0f);
  std::vector<float*> panel_of;
  float* at = panels.data();
  for (int64_t v = 0; v < across.number; ++v) {
    panel_of.push_back(at);
    const int64_t from = across.begin(v) * kLanes, wide = (across.begin(v + 1) - across.begin(v)) * kLanes;
    for (int64_t a = 0; a < c.kernel_height; ++a)
      for (int64_t k = 0; k < length; ++k, at += wide)
        for (int64_t o = 0; o < std::min(wide, c.outputs - from); ++o) at[o] = kernel(a, k, from + o);
  }
  const int64_t padded_width = (c.columns - 1) * c.stride_width + c.kernel_width;
  const bool in_place = c.left == 0 && padded_width <= c.width;  // rows of an image need no padding
  PaddedRows padded(c.height, c.width, c.inputs, c.left, padded_width, std::max(c.kernel_height, c.stride_height));
  std::vector<const float*> rows(static_cast<std::size_t>(c.kernel_height));
  for (int64_t n = first; n < last; ++n) {
    const float* image = images + n * image_size;
    padded.begin(image);
    for (int64_t q = 0; q < c.rows; ++q) {
      for (int64_t a = 0; a < c.kernel_height; ++a) {
        const int64_t row = q * c.stride_height + a - c.top;
        const bool there = in_place && row >= 0 && row < c.height;
        rows[static_cast<std::size_t>(a)] = there ? image + row * c.width * c.inputs : padded.row(row);
      }
      float* row = results + n * result_size + q * c.row_stride;
      for (int64_t v = 0; v < across.number; ++v) {
        const int64_t wide = across.begin(v + 1) - across.begin(v), o = across.begin(v) * kLanes;
        const Parts down(c.columns, most_rows(static_cast<int>(wide)));
        for (int64_t part = 0; part < down.number; ++part) {
          const int64_t w = down.begin(part);
          const int64_t step = c.stride_width * c.inputs;
          run(Pixels{rows.data(), w * step, c.kernel_height, length, step, panel_of[static_cast<std::size_t>(v)],
                     row + w * c.pixel_stride + o, c.pixel_stride, c.outputs - o},
              down.begin(part + 1) - w, wide);
        }
      }
    }
  }
}

}  // namespace

void forward(const Convolution& c, const float* x, const float* kernel, float* y, int64_t first, int64_t last) {
  const int64_t length = c.kernel_width * c.inputs;
  const Correlation whole{c.height, c.width, c.inputs, c.kernel_height, c.kernel_width, c.outputs, c.stride_height,
                          c.stride_width, c.top, c.left, c.out_height, c.out_width, c.out_width * c.outputs,
                          c.outputs};
  const auto at = [&](int64_t a, int64_t k, int64_t o) { return kernel[(a * length + k) * c.outputs + o]; };
  correlate(whole, x, c.height * c.width * c.inputs, at, y, c.out_height * c.out_width * c.outputs, first, last);
}

// Rows h = stride * q + remainder of dx read rows of dy by every stride-th row of the kernel:
//
//   dx[h] = sum_m dy[q + (remainder + top - r) / stride - m] * k[r + stride * m],   r = (remainder + top) mod stride
//
// and columns alike.
void input_gradient(const Convolution& c, const float* dy, const float* kernel, float* dx, int64_t first,
                    int64_t last) {
  const int64_t size = c.height * c.width * c.inputs, dy_size = c.out_height * c.out_width * c.outputs;
  const int64_t sh = c.stride_height, sw = c.stride_width;
  for (int64_t h = 0; h < std::min(sh, c.height); ++h) {
    const int64_t r = (h + c.top) % sh, taps_high = r < c.kernel_height ? (c.kernel_height - 1 - r) / sh + 1 : 0;
    for (int64_t w = 0; w < std::min(sw, c.width); ++w) {
      const int64_t s = (w + c.left) % sw, taps_wide = s < c.kernel_width ? (c.kernel_width - 1 - s) / sw + 1 : 0;
      const int64_t rows = divide_up(c.height - h, sh), columns = divide_up(c.width - w, sw);
      const int64_t row_stride = sh * c.width * c.inputs, pixel_stride = sw * c.inputs;
      float* to = dx + (h * c.width + w) * c.inputs;
      if (taps_high * taps_wide == 0) {  // no tap has read these
        for (int64_t n = first; n < last; ++n)
          for (int64_t q = 0; q < rows; ++q)
            for (int64_t p = 0; p < columns; ++p)
              std::fill_n(to + n * size + q * row_stride + p * pixel_stride, c.inputs, 0.0f);
        continue;
      }
      const Correlation part{c.out_height, c.out_width, c.outputs, taps_high, taps_wide, c.inputs, 1, 1,
                             taps_high - 1 - (h + c.top - r) / sh, taps_wide - 1 - (w + c.left - s) / sw, rows, columns,
                             row_stride, pixel_stride};
      const auto turned = [&](int64_t a, int64_t k, int64_t i) {
        const int64_t tap_high = r + sh * (taps_high - 1 - a);
        const int64_t tap_wide = s + sw * (taps_wide - 1 - k / c.outputs);
        return kernel[((tap_high * c.kernel_width + tap_wide) * c.inputs + i) * c.outputs + k % c.outputs];
      };
      correlate(part, dy, dy_size, turned, to, size, first, last);
    }
  }
}

void kernel_gradient(const Convolution& c, const float* x, const float* dy, float* dk, int64_t first, int64_t last) {
  const int64_t length = c.kernel_width * c.inputs;  // of a row of the kernel, for one output
  const Tiling by_output(length, divide_up(c.outputs, kLanes)), by_input(c.outputs, divide_up(length, kLanes));
  const bool outputs_wide = by_output.cost <= by_input.cost;
  const Tiling& tiling = outputs_wide ? by_output : by_input;
  const int64_t singles = outputs_wide ? length : c.outputs;
  const int64_t vectors = divide_up(outputs_wide ? c.outputs : length, kLanes), sum_stride = vectors * kLanes;
  Floats sum(static_cast<std::size_t>(c.kernel_height * singles * sum_stride), 0.0f);

  const int64_t padded_width = (c.out_width - 1) * c.stride_width + c.kernel_width;
  const int64_t single_row = outputs_wide ? padded_width * c.inputs : c.out_width * c.outputs;
  const int64_t row_bytes = (single_row + c.out_width * tiling.most_vectors * kLanes) * 4;
  const Parts groups(c.out_height, std::clamp<int64_t>(kCacheBytes / row_bytes, 1, c.out_height));
  const int64_t group = divide_up(c.out_height, groups.number);
  const int64_t held = (group - 1) * c.stride_height + c.kernel_height;
  PaddedRows padded(c.height, c.width, c.inputs, c.left, padded_width, held);
  // Vectors may read beyond a row, so copies stand for the last rows. Others are copied for their padding only.
  PaddedRows padded_dy(c.out_height, c.out_width, c.outputs, 0, c.out_width, group);
  const bool x_padded = c.left > 0 || padded_width > c.width;
  std::vector<const float*> rows(static_cast<std::size_t>(held)), dy_rows(static_cast<std::size_t>(group));

  for (int64_t n = first; n < last; ++n) {
    const float* dy_image = dy + n * c.out_height * c.out_width * c.outputs;
    const float* x_image = x + n * c.height * c.width * c.inputs;
    const int64_t safe = rows_in_place((c.batch - n) * c.height, c.width * c.inputs);
    const int64_t safe_dy = rows_in_place((c.batch - n) * c.out_height, c.out_width * c.outputs);
    padded.begin(x_image);
    padded_dy.begin(dy_image);
    for (int64_t part = 0; part < groups.number; ++part) {
      const int64_t q = groups.begin(part), count = groups.begin(part + 1) - q;
      for (int64_t r = 0; r < (count - 1) * c.stride_height + c.kernel_height; ++r) {
        const int64_t row = q * c.stride_height + r - c.top;
        const bool copied = x_padded || row < 0 || row >= std::min(safe, c.height);
        rows[static_cast<std::size_t>(r)] = copied ? padded.row(row) : x_image + row * c.width * c.inputs;
      }
      for (int64_t r = 0; r < count; ++r)
        dy_rows[static_cast<std::size_t>(r)] =
            q + r >= safe_dy ? padded_dy.row(q + r) : dy_image + (q + r) * c.out_width * c.outputs;
      for (int64_t a = 0; a < c.kernel_height; ++a) {
        const Parts across(vectors, tiling.most_vectors);
        for (int64_t v = 0; v < across.number; ++v) {
          const int64_t wide = across.begin(v + 1) - across.begin(v), from = across.begin(v) * kLanes;
          const Parts down(singles, most_rows(static_cast<int>(wide)));
          for (int64_t d = 0; d < down.number; ++d) {
            const int64_t j = down.begin(d);
            Products tile{};
            tile.rows = count;
            tile.pixels = c.out_width;
            tile.sum = sum.data() + (a * singles + j) * sum_stride + from;
            tile.sum_stride = sum_stride;
            const float* const* images = rows.data() + a;
            const int64_t step = c.stride_width * c.inputs;
            if (outputs_wide) {
              tile.single = images, tile.single_row = c.stride_height, tile.single_offset = j, tile.single_step = step;
              tile.wide = dy_rows.data(), tile.wide_row = 1, tile.wide_offset = from, tile.wide_step = c.outputs;
            } else {
              tile.single = dy_rows.data(), tile.single_row = 1, tile.single_offset = j, tile.single_step = c.outputs;
              tile.wide = images, tile.wide_row = c.stride_height, tile.wide_offset = from, tile.wide_step = step;
            }
            run(tile, down.begin(d + 1) - j, wide);
          }
        }
      }
    }
  }
  for (int64_t a = 0; a < c.kernel_height; ++a)
    for (int64_t k = 0; k < length; ++k)
      for (int64_t o = 0; o < c.outputs; ++o)
        dk[(a * length + k) * c.outputs + o] =
            sum[static_cast<std::size_t>(outputs_wide ? (a * singles + k) * sum_stride + o
                                                      : (a * singles + o) * sum_stride + k)];
}

}  // namespace jaxdist::JAXDIST_INSTRUCTIONS
