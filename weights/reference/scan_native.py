"""The routed-expert recurrence compiled from scan.c, with its gradient: what makes training on a CPU bearable.

It does what `scan.routed_scan` does for discretization "mamba". Only `train.py` uses it.
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mossnet_tg.errors import MossnetError
from mossnet_tg.weights.reference.scan import Slots

_C_TYPE = {torch.float32: "float", torch.float64: "double"}
_CHUNK = 32  # tokens between kept states: with top-2 and N 16 the scratch of a chunk is 256 KiB, inside any L2


class NativeScanError(MossnetError):
    """scan.c could not be compiled here."""


def compiler() -> str | None:
    """The C compiler that would be used, or None when there is none."""
    return shutil.which("cc") or shutil.which("gcc")


@functools.cache
def _library(dtype: torch.dtype) -> ctypes.CDLL:
    """scan.c compiled for this machine and loaded; the file is gone again once it is mapped."""
    cc = compiler()
    if cc is None:
        raise NativeScanError("no C compiler in PATH, expected cc or gcc", "install one, or pass --scan torch")
    source = Path(__file__).with_name("scan.c")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "scan.so"
        flags = ["-O3", "-march=native", "-fno-math-errno", "-Wno-psabi", "-shared", "-fPIC"]
        command = [cc, *flags, f"-DREAL={_C_TYPE[dtype]}", str(source), "-o", str(out), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise NativeScanError(f"{cc} refused scan.c: {done.stderr.strip()[:500]}", "pass --scan torch")
        return ctypes.CDLL(str(out))


def _call(name: str, dtype: torch.dtype, sizes: tuple[int, ...], tensors: list[Tensor]) -> None:
    """Call a function of scan.c; every tensor must be contiguous and stay alive until it returns."""
    assert all(t.is_contiguous() for t in tensors)
    function = getattr(_library(dtype), name)
    function.restype = None
    function(*map(ctypes.c_int64, sizes), *(ctypes.c_void_p(t.data_ptr()) for t in tensors))


class _RoutedScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        delta: Tensor,
        b: Tensor,
        c: Tensor,
        x: Tensor,
        a: Tensor,
        gate: Tensor,
        expert: Tensor,
        row: Tensor,
        state: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Layouts of scan.c: a (X/LANES, E, N, LANES), state (B, X/LANES, E, N, LANES)."""
        sizes = (*expert.shape, a.shape[1], x.shape[2], a.shape[2], _CHUNK)
        inputs = [t.contiguous() for t in (expert, row, gate, delta, b, c, x, a)]
        last = state.clone(memory_format=torch.contiguous_format)
        starts = last.new_empty(len(last), -(-expert.shape[1] // _CHUNK), *last.shape[1:])
        y = torch.empty_like(inputs[6])
        _call("scan_forward", x.dtype, sizes, [*inputs, last, starts, y])
        ctx.sizes = sizes
        ctx.save_for_backward(*inputs, starts)
        return y, last

    @staticmethod
    def backward(ctx: Any, g_y: Tensor, g_last: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, starts = ctx.saved_tensors
        _, _, gate, delta, b, c, x, a = inputs
        g_state = g_last.clone(memory_format=torch.contiguous_format)
        grads = [torch.zeros_like(t) for t in (gate, delta, b, c, x, a)]
        _call("scan_backward", x.dtype, ctx.sizes, [*inputs, starts, g_y.contiguous(), g_state, *grads])
        g_gate, g_delta, g_b, g_c, g_x, g_a = grads
        return g_delta, g_b, g_c, g_x, g_a, g_gate, None, None, g_state


def native_scan(
    delta: Tensor, b: Tensor, c: Tensor, x: Tensor, a: Tensor, gate: Tensor, slots: Slots, state: Tensor
) -> tuple[Tensor, Tensor]:
    """`scan.routed_scan` with the same shapes, compiled; float32 and float64."""
    channels, lanes = x.shape[-1], 64 // x.dtype.itemsize
    pad = -channels % lanes

    def blocked(v: Tensor) -> Tensor:
        """(.., E, X, N) -> (.., X/LANES, E, N, LANES)."""
        return torch.unflatten(functional.pad(v, (0, 0, 0, pad)), -2, (-1, lanes)).movedim(-3, -4).transpose(-1, -2)

    y, last = _RoutedScan.apply(  # type: ignore[no-untyped-call]
        functional.pad(delta, (0, pad)),
        b,
        c,
        functional.pad(x, (0, pad)),
        blocked(a),
        gate,
        slots.expert.int(),
        slots.row.int(),
        blocked(state),
    )
    last = last.transpose(-1, -2).movedim(-4, -3).flatten(-3, -2)  # (B, E, X, N)
    return y[..., :channels], last[..., :channels, :]
