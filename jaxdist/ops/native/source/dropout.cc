// The loop of dropout.h for one set of instructions, which compilers make vectors of: JAXDIST_INSTRUCTIONS is `avx2` or
// `avx512`.

#include "dropout.h"

namespace jaxdist::JAXDIST_INSTRUCTIONS {

void dropout(const float* __restrict x, std::int64_t count, std::uint32_t example, std::uint32_t least, float scale,
             float* __restrict y) {
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint32_t bits = mix32(example + static_cast<std::uint32_t>(i) * 0x9E3779B9u);
    const float scaled = x[i] * scale;
    y[i] = bits >= least ? scaled : 0.0f;
  }
}

}  // namespace jaxdist::JAXDIST_INSTRUCTIONS
