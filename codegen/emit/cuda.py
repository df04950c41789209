"""The cuda emitter: CUDA C that needs no header, so that NVRTC takes it as it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from mossnet_tg.codegen.emit.c_source import Dialect
from mossnet_tg.codegen.emit.tir import DType
from mossnet_tg.codegen.kernels.build import Size

# Vectors with operators, memory accesses of 2 to 16 bytes at once, and float16 as storage.
PRELUDE = """
typedef unsigned int uint;
typedef unsigned short ushort;
typedef unsigned char uchar;

template <class T, int N> struct alignas(sizeof(T) * N) vec {
  T s[N];
  vec() = default;  // trivial, so that shared memory may hold it
  __device__ explicit vec(T x) { for (int i = 0; i < N; ++i) s[i] = x; }
  template <class... Ts> __device__ vec(T a, T b, Ts... rest) : s{a, b, rest...} {}
};
#define BINARY(op)                                                                       \\
  template <class T, int N> __device__ vec<T, N> operator op(vec<T, N> a, vec<T, N> b) { \\
    for (int i = 0; i < N; ++i) a.s[i] = a.s[i] op b.s[i];                               \\
    return a;                                                                            \\
  }
BINARY(+) BINARY(-) BINARY(*) BINARY(/) BINARY(%) BINARY(<<) BINARY(>>) BINARY(&) BINARY(|) BINARY(^)
#undef BINARY
#define COMPARE(op)                                                                         \\
  template <class T, int N> __device__ vec<bool, N> operator op(vec<T, N> a, vec<T, N> b) { \\
    vec<bool, N> r;                                                                         \\
    for (int i = 0; i < N; ++i) r.s[i] = a.s[i] op b.s[i];                                  \\
    return r;                                                                               \\
  }
COMPARE(==) COMPARE(!=) COMPARE(<) COMPARE(<=) COMPARE(>) COMPARE(>=) COMPARE(&&) COMPARE(||)
#undef COMPARE
template <class T, int N> __device__ vec<T, N> choose(vec<bool, N> c, vec<T, N> a, vec<T, N> b) {
  for (int i = 0; i < N; ++i) a.s[i] = c.s[i] ? a.s[i] : b.s[i];
  return a;
}
template <class T, class U, int N> __device__ vec<T, N> convert(vec<U, N> x) {
  vec<T, N> r;
  for (int i = 0; i < N; ++i) r.s[i] = (T)x.s[i];
  return r;
}
template <class T, class U> __device__ T bits(U x) {
  static_assert(sizeof(T) == sizeof(U), "");
  T r;
  memcpy(&r, &x, sizeof r);
  return r;
}
#define EACH(function, call)                                              \\
  template <int N> __device__ vec<float, N> function(vec<float, N> x) {   \\
    for (int i = 0; i < N; ++i) x.s[i] = call(x.s[i]);                    \\
    return x;                                                             \\
  }
EACH(floorf, ::floorf) EACH(fabsf, ::fabsf) EACH(sqrtf, ::sqrtf) EACH(truncf, ::truncf) EACH(exp2f, ::exp2f)
#undef EACH
template <int N, class T> __device__ vec<T, N> load(const T *p) {
  vec<T, N> r;
  for (int i = 0; i < N; ++i) r.s[i] = p[i];
  return r;
}
template <int N, class T> __device__ vec<T, N> load_aligned(const T *p) { return *(const vec<T, N> *)p; }
template <int N, class T> __device__ void store(vec<T, N> x, T *p) {
  for (int i = 0; i < N; ++i) p[i] = x.s[i];
}
template <int N, class T> __device__ void store_aligned(vec<T, N> x, T *p) { *(vec<T, N> *)p = x; }
__device__ inline float widen(ushort h) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
  return f;
}
__device__ inline ushort narrow(float f) {
  ushort h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
  return h;
}
template <int N> __device__ vec<float, N> widen(vec<ushort, N> h) {
  vec<float, N> f;
  for (int i = 0; i < N; ++i) f.s[i] = widen(h.s[i]);
  return f;
}
template <int N> __device__ vec<ushort, N> narrow(vec<float, N> f) {
  vec<ushort, N> h;
  for (int i = 0; i < N; ++i) h.s[i] = narrow(f.s[i]);
  return h;
}
"""

_FUNCTIONS = {"floor": "floorf", "fabs": "fabsf", "sqrt": "sqrtf", "trunc": "truncf", "exp2": "exp2f"}


class Cuda(Dialect):
    """CUDA C: vectors are the prelude's template."""

    name = "cuda"
    restrict = "__restrict__"
    shared = "__shared__"
    barrier = "__syncthreads()"
    scalars: ClassVar[Mapping[tuple[str, int], str]] = {
        ("bool", 8): "bool",
        ("float", 32): "float",
        ("float", 16): "ushort",
        ("int", 32): "int",
        ("int", 16): "short",
        ("int", 8): "signed char",
        ("uint", 32): "uint",
        ("uint", 16): "ushort",
        ("uint", 8): "uchar",
    }

    def signature(self, name: str, block: Size, params: Sequence[str]) -> str:
        threads = block[0] * block[1] * block[2]
        arguments = ",\n    ".join(params)
        return f'extern "C" __global__ void __launch_bounds__({threads}) {name}(\n    {arguments})'

    def pointer(self, dtype: DType, space: str, const: bool) -> str:
        return f"{'const ' if const else ''}{self.type(dtype)} *"

    def position(self, tag: str) -> str:
        return f"(int){tag}"

    def vector(self, dtype: DType) -> str:
        return f"vec<{self.scalars[dtype.kind, dtype.bits]}, {dtype.lanes}>"

    def convert(self, x: str, source: DType, target: DType) -> str:
        if target.lanes > 1:
            return f"convert<{self.scalars[target.kind, target.bits]}>({x})"
        return f"({self.type(target)})({x})"

    def reinterpret(self, x: str, source: DType, target: DType) -> str:
        return f"bits<{self.type(target)}>({x})"

    def make_vector(self, dtype: DType, lanes: Sequence[str]) -> str:
        return f"{self.type(dtype)}({', '.join(lanes)})"

    def splat(self, dtype: DType, x: str) -> str:
        return f"{self.type(dtype)}({x})"

    def lane(self, x: str, index: int) -> str:
        return f"{x}.s[{index}]"

    def select(self, dtype: DType, condition: str, yes: str, no: str) -> str:
        return f"choose({condition}, {yes}, {no})" if dtype.lanes > 1 else f"({condition} ? {yes} : {no})"

    def call(self, dtype: DType, function: str, x: str) -> str:
        return f"{_FUNCTIONS[function]}({x})"

    def load(self, dtype: DType, pointer: str, space: str, aligned: bool) -> str:
        return f"load{'_aligned' if aligned else ''}<{dtype.lanes}>({pointer})"

    def store(self, dtype: DType, pointer: str, x: str, space: str, aligned: bool) -> str:
        return f"store{'_aligned' if aligned else ''}<{dtype.lanes}>({x}, {pointer})"

    def load_half(self, lanes: int, pointer: str, aligned: bool) -> str:
        if lanes == 1:
            return f"widen(*({pointer}))"
        return f"widen(load{'_aligned' if aligned else ''}<{lanes}>({pointer}))"

    def half_arithmetic(self) -> tuple[str, tuple[str, ...]]:
        raise TypeError("float16 is storage in CUDA C here")

    def store_half(self, lanes: int, pointer: str, x: str, aligned: bool) -> str:
        if lanes == 1:
            return f"*({pointer}) = narrow({x})"
        return f"store{'_aligned' if aligned else ''}<{lanes}>(narrow({x}), {pointer})"
