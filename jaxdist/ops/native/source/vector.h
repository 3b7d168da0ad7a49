// A vector of floats of the processor that a file is compiled for: 8 with AVX2, 16 with AVX-512.
//
// Nothing here needs aligned addresses. `Floats` are aligned nevertheless: a vector across two cache lines is two loads.

#pragma once

#include <immintrin.h>

#include <cstddef>
#include <new>
#include <vector>

namespace jaxdist::JAXDIST_INSTRUCTIONS {

#if defined(__AVX512F__)

using Vector = __m512;
inline constexpr int kLanes = 16;
inline constexpr int kRegisters = 32;

inline Vector zero() { return _mm512_setzero_ps(); }
inline Vector load(const float* from) { return _mm512_loadu_ps(from); }
inline Vector broadcast(const float* from) { return _mm512_set1_ps(*from); }
inline void store(float* to, Vector v) { _mm512_storeu_ps(to, v); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
inline Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
inline Vector subtract(Vector a, Vector b) { return _mm512_sub_ps(a, b); }

// max(v, 0), and NaN where v is.
inline Vector rectify(Vector v) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(v, zero(), _CMP_NLT_UQ), v); }

// `value` in lanes where `of` is above 0, and 0 in the others.
inline Vector keep_where_positive(Vector of, Vector value) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(of, zero(), _CMP_GT_OQ), value);
}

// Writes the first `count` lanes, of 0 to kLanes.
inline void store_first(float* to, Vector v, int count) {
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1u), v);
}

#else

using Vector = __m256;
inline constexpr int kLanes = 8;
inline constexpr int kRegisters = 16;

inline Vector zero() { return _mm256_setzero_ps(); }
inline Vector load(const float* from) { return _mm256_loadu_ps(from); }
inline Vector broadcast(const float* from) { return _mm256_broadcast_ss(from); }
inline void store(float* to, Vector v) { _mm256_storeu_ps(to, v); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
inline Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
inline Vector subtract(Vector a, Vector b) { return _mm256_sub_ps(a, b); }

// max(v, 0), and NaN where v is.
inline Vector rectify(Vector v) { return _mm256_max_ps(zero(), v); }

// `value` in lanes where `of` is above 0, and 0 in the others.
inline Vector keep_where_positive(Vector of, Vector value) {
  return _mm256_and_ps(_mm256_cmp_ps(of, zero(), _CMP_GT_OQ), value);
}

// Writes the first `count` lanes, of 0 to kLanes.
inline void store_first(float* to, Vector v, int count) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  _mm256_maskstore_ps(to, _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane), v);
}

#endif

template <typename T>
struct Aligned {
  using value_type = T;
  static constexpr std::align_val_t kLine{64};
  Aligned() = default;
  template <typename U>
  Aligned(const Aligned<U>&) {}
  T* allocate(std::size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), kLine)); }
  void deallocate(T* from, std::size_t) { ::operator delete(from, kLine); }
  bool operator==(const Aligned&) const { return true; }
  bool operator!=(const Aligned&) const { return false; }
};

using Floats = std::vector<float, Aligned<float>>;

}  // namespace jaxdist::JAXDIST_INSTRUCTIONS
