"""OpenCL on this machine's device, ours beside tinygrad's own backend, in one run.

    sh setup.sh --test python tests/bench/opencl.py

1. A matrix of 8192 x 2048 in float16 storage times a float32 vector: our kernel, and tinygrad's for the same expression
   (TinyJit; with --beam searched by its BEAM).
2. One decode step of class S (SPEC.md) in float16: our compiled model, and tinygrad: the same graph with the ops' plain
   bodies (`--target tinygrad:CL`), and, kinder to it, the matrix products of the step alone, jitted as one.
3. What the host adds to a launch: the time of a decode step less what the device spent on its kernels.

Rounds alternate; each figure is the median of its rounds. PoCL is the device where no other is named.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # the tests are no installed package

from tests.conformance import opencl as row

# Before anything opens OpenCL: our driver and tinygrad's loader get the same device and no other.
os.environ.setdefault("MOSSNET_OPENCL_LIB", row.pocl() or "libOpenCL.so.1")
os.environ.setdefault("OCL_ICD_VENDORS", os.environ["MOSSNET_OPENCL_LIB"])
os.environ["DEV"] = "CL"

N_OUT, N_IN = 8192, 2048
CLASS_S = {"model_type": "mossnet", "d_model": 256, "n_layer": 8, "vocab_size": 50280}
MIXTURE = {"n_experts": 8, "top_k": 2}


def median_s(run: Callable[[], None], reps: int) -> float:
    """Median seconds of a call, the first of which is not counted."""
    times = []
    for _ in range(reps + 1):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


# ---- ours


def our_matvec(target: str, device: str) -> Callable[[], float]:
    """Seconds that the device spends on one product."""
    from mossnet_tg import ops
    from mossnet_tg.codegen.kernels.dispatch import generate_op
    from mossnet_tg.targets.table import parse_target
    from tests.codegen.one_kernel import OneKernel, schedule

    resolved = parse_target(target, device)
    s = schedule(resolved)
    op = ops.ExpertMatmul(1, 1, 1, N_IN, N_OUT, N_IN, False, False, "none")
    kernel = OneKernel(generate_op("matvec", op, [s.storage["f16"]], s), resolved, (), device)
    rng = np.random.default_rng(0)
    arrays = [np.zeros(p.n, p.dtype) for p in kernel.params]
    for array in arrays[1:3]:
        array[:] = rng.standard_normal(array.size)
    kernel.run(*arrays)
    return lambda: kernel.seconds(10)


def class_s(folder: Path) -> Path:
    import torch

    from mossnet_tg.config import Config
    from mossnet_tg.weights.reference.model import MossNet

    torch.manual_seed(0)
    config = {**CLASS_S, "ssm": MIXTURE, "mlp": {"d_ff": 704, **MIXTURE}}
    MossNet(Config.from_dict(config)).save(folder, dtype=torch.float16)
    return folder


# ---- tinygrad


def tinygrad_matvec() -> Callable[[], float]:
    from tinygrad import Device, Tensor, TinyJit, dtypes

    rng = np.random.default_rng(0)
    weight = Tensor(rng.standard_normal((N_OUT, N_IN)).astype(np.float16)).realize()
    x = Tensor(rng.standard_normal(N_IN).astype(np.float32)).realize()

    @TinyJit
    def product(x: Tensor) -> Tensor:
        return (weight.cast(dtypes.float) @ x).realize()

    for _ in range(3):
        product(x)

    def run() -> None:
        product(x)
        Device["CL"].synchronize()

    return lambda: median_s(run, 10)


def tinygrad_products(shapes: list[tuple[int, int]]) -> Callable[[], float]:
    """All matrix products of a decode step, each on its own vector, in one jit."""
    from tinygrad import Device, Tensor, TinyJit, dtypes

    rng = np.random.default_rng(0)
    weights = [Tensor(rng.standard_normal(shape).astype(np.float16)).realize() for shape in shapes]
    xs = [Tensor(rng.standard_normal(shape[1]).astype(np.float32)).realize() for shape in shapes]

    @TinyJit
    def products(scale: Tensor) -> list[Tensor]:
        out = [w.cast(dtypes.float) @ (x * scale) for w, x in zip(weights, xs, strict=True)]
        Tensor.realize(*out)
        return out

    scale = Tensor([1.0]).realize()
    for _ in range(3):
        products(scale)

    def run() -> None:
        products(scale)
        Device["CL"].synchronize()

    return lambda: median_s(run, 10)


def products_of_a_token(checkpoint_folder: Path) -> list[tuple[int, int]]:
    """[n, k] of every matrix that one token is multiplied with: of mixtures, the selected experts'."""
    from mossnet_tg.weights.checkpoint import Checkpoint
    from mossnet_tg.weights.parameters import parameters

    shapes = []
    for _, _, p in parameters(Checkpoint.open(checkpoint_folder)):
        if p.matrix:
            n, k = p.shape[-2:]
            shapes += [(n, k)] * (MIXTURE["top_k"] if len(p.shape) == 3 else 1)
    return shapes


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--target", default="opencl", show_default=True, help="Ours: opencl, or adreno for its kernels.")
@click.option("--device", default="", help="A part of the device's name.")
@click.option("--beam", default=0, help="tinygrad's BEAM for the product.")
@click.option("--plain", is_flag=True, help="Run tinygrad's uncompiled step too: it takes minutes.")
def main(rounds: int, target: str, device: str, beam: int, plain: bool) -> None:
    """Measure and print a table."""
    from tinygrad.helpers import Context

    from mossnet_tg import Model

    with tempfile.TemporaryDirectory() as name, Context(BEAM=beam):
        folder = class_s(Path(name))
        os.environ["MOSSNET_CACHE_DIR"] = str(folder / "cache")
        model = Model.load(folder, target, device=device)
        session = model.session()
        session.prefill([1, 2, 3])
        shapes = products_of_a_token(folder)
        runs = {
            "matvec, mossnet": our_matvec(target, device),
            "matvec, tinygrad": tinygrad_matvec(),
            "decode, mossnet": lambda: median_s(lambda: session.decode(5, copy=False), 20),
            "decode's products, tinygrad": tinygrad_products(shapes),
        }
        if plain:
            slow = Model.load(folder, "tinygrad:CL").session()
            slow.prefill([1, 2, 3])
            runs["decode, tinygrad"] = lambda: median_s(lambda: slow.decode(5), 1)
        seconds: dict[str, list[float]] = {what: [] for what in runs}
        device_s = []
        for _ in range(rounds):
            for what, run in runs.items():
                seconds[what].append(run())
            device_s.append(float(model.engine.session().profile(0, 10).sum()))
        n_steps = model.engine.info.n_steps[0]
        print(f"device {model.engine.device['name']}, {model.engine.device['driver']}; target {model.meta('target')}")
        for what, times in seconds.items():
            best = statistics.median(times)
            speed = f"{2 * N_OUT * N_IN / best / 1e9:8.1f} GB/s" if what.startswith("matvec") else ""
            print(f"{what:30} {best * 1e6:12.1f} us {speed}")
        step, busy = statistics.median(seconds["decode, mossnet"]), statistics.median(device_s)
        print(f"{'launches of a decode step':30} {n_steps:12}")
        print(f"{'host per launch':30} {(step - busy) / n_steps * 1e6:12.2f} us")


if __name__ == "__main__":
    main()
