// What XLA calls for dropout.h.

#include "dropout.h"

#include "threads.h"

namespace jaxdist {
namespace {

ffi::Future dropout(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::Buffer<ffi::U32, 0> key,
                    ffi::Buffer<ffi::U32, 1> positions, ffi::Result<ffi::AnyBuffer> y, int64_t least, float scale) {
  const auto batch = static_cast<int64_t>(positions.element_count());
  const auto shape = x.dimensions();
  if (x.element_type() != ffi::F32 || shape.size() == 0 || shape.front() != batch || batch == 0)
    return failed(ffi::Error::InvalidArgument("jaxdist: the arrays are no float32 examples"));
  const int64_t size = static_cast<int64_t>(x.element_count()) / batch;
  const float* from = x.typed_data<float>();
  const std::uint32_t* examples = positions.typed_data();
  const std::uint32_t layer = *key.typed_data(), limit = static_cast<std::uint32_t>(least);
  float* to = y->typed_data<float>();
  return spread(
      pool, batch, part_for_each_thread(pool, batch),
      [=](int64_t, int64_t first, int64_t last) {
        for (int64_t n = first; n < last; ++n)
          (has_avx512() ? avx512::dropout : avx2::dropout)(from + n * size, size, mix32(layer + mix32(examples[n])),
                                                           limit, scale, to + n * size);
      },
      [] {});
}

auto binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<ffi::AnyBuffer>()
      .Arg<ffi::Buffer<ffi::U32, 0>>()
      .Arg<ffi::Buffer<ffi::U32, 1>>()
      .Ret<ffi::AnyBuffer>()
      .Attr<int64_t>("least")
      .Attr<float>("scale");
}

}  // namespace
}  // namespace jaxdist

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxdist_dropout, jaxdist::dropout, jaxdist::binding());
