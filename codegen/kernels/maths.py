"""Elementary functions as TensorIR expressions: branch-free polynomials, so that they vectorise and need no libm.

Each takes and gives a float32 expression; intermediate values are bound where the IR builder stands, so that a value
used twice is computed once. Errors are against correctly rounded results over the stated domain.
"""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T

from mossnet_tg.codegen.kernels.build import Expr
from mossnet_tg.ops import LOG2E

LOWEST = -3.4028234663852886e38  # the lowest float32, where a maximum begins
LN2 = 0.6931471805599453


def f32(value: float) -> Expr:
    return T.float32(value)


def exp2(x: Expr) -> Expr:
    """2^x, relative error below 2e-7; 0 below -126.5, infinity from 127.5 on, NaN for NaN."""
    # In this order of operands both let NaN through.
    x = T.bind(T.min(f32(128.0), T.max(f32(-127.0), x)))
    n = T.bind(T.floor(x + f32(0.5)))
    r = T.bind(x - n)
    p = f32(1.535336188319500e-4)
    for c in (
        1.339887440266574e-3,
        9.618437357674640e-3,
        5.550332471162809e-2,
        2.402264791363012e-1,
        6.931472028550421e-1,
        1.0,
    ):
        p = p * r + f32(c)
    return p * T.reinterpret("float32", T.shift_left(T.cast(n, "int32") + 127, 23))


def short_exp2(x: Expr) -> Expr:
    """2^x for x <= 0, relative error below 2e-7 down to -125, where it stays; NaN for NaN."""
    x = T.bind(T.max(f32(-125.0), x))
    n = T.bind(T.floor(x + f32(0.5)))
    r = T.bind(x - n)
    p = f32(1.326472731307149e-3)
    for c in (9.671512991189957e-3, 5.550733581185341e-2, 2.4022242426872253e-1, 6.931470036506653e-1, 1.0):
        p = p * r + f32(c)
    # p is between 0.7 and 1.5: its exponent takes n without leaving its range.
    return T.reinterpret("float32", T.reinterpret("int32", p) + T.shift_left(T.cast(n, "int32"), 23))


# What the recurrence may take for its decay, 2^x for x <= 0; the last is the device's own, where it has one.
DECAYS = (exp2, short_exp2, T.exp2)


def exp(x: Expr) -> Expr:
    """e^x, relative error below 1e-6 for |x| < 20 and growing with |x|."""
    return exp2(x * f32(LOG2E))


def log2(x: Expr) -> Expr:
    """log2(x) for normal x > 0, absolute error below 2e-7 or relative below 2e-7, whichever is larger."""
    bits = T.bind(T.reinterpret("int32", x))
    # The mantissa in [sqrt(1/2), sqrt(2)): 0x3504f3 is sqrt(2)'s fraction.
    n = T.bind(T.shift_right(bits - 0x3F3504F3, 23))
    m = T.bind(T.reinterpret("float32", bits - T.shift_left(n, 23)) - f32(1.0))
    p = f32(7.0376836292e-2)
    for c in (
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    ):
        p = p * m + f32(c)
    natural = m - f32(0.5) * m * m + m * m * m * p
    return T.cast(n, "float32") + natural * f32(LOG2E)


def log2_1p(u: Expr) -> Expr:
    """log2(1 + u) for u >= 0, relative error below 5e-7 also where u vanishes beside 1."""
    u = T.bind(u)
    w = T.bind(u + f32(1.0))
    lost = u - (w - f32(1.0))
    return log2(w) + lost / w * f32(LOG2E)


def sigmoid(x: Expr) -> Expr:
    return f32(1.0) / (f32(1.0) + exp(-x))


def silu(x: Expr) -> Expr:
    x = T.bind(x)
    return x * sigmoid(x)


def softplus(x: Expr) -> Expr:
    """log(1 + e^x), relative error below 1e-6, without overflow."""
    x = T.bind(x)
    return T.max(f32(0.0), x) + log2_1p(exp(-T.abs(x))) * f32(LN2)


def sin(x: Expr) -> Expr:
    """sin(x), absolute error below 3e-7 for |x| < 1e5 (pi/2 is taken off in three exact parts)."""
    x = T.bind(x)
    q = T.bind(T.floor(x * f32(0.6366197723675814) + f32(0.5)))
    r = T.bind(x - q * f32(1.5703125) - q * f32(4.837512969970703125e-4) - q * f32(7.549789948768648e-8))
    r2 = T.bind(r * r)
    s = f32(-1.9515295891e-4)
    for c in (8.3321608736e-3, -1.6666654611e-1):
        s = s * r2 + f32(c)
    s = s * r2 * r + r
    c_ = f32(2.443315711809948e-5)
    for c in (-1.388731625493765e-3, 4.166664568298827e-2):
        c_ = c_ * r2 + f32(c)
    c_ = c_ * r2 * r2 - f32(0.5) * r2 + f32(1.0)
    quadrant = T.bind(T.bitwise_and(T.cast(q, "int32"), 3))
    value = T.bind(T.Select(T.bitwise_and(quadrant, 1) == 0, s, c_))
    return T.Select(quadrant < 2, value, -value)
