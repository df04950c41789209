"""Fixtures of the command line's tests: a tiny model, compiled once, in a cache of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import mossnet_tg
from mossnet_tg.cli.app import app
from mossnet_tg.codegen import moss_file
from mossnet_tg.engine import Library
from tests.devices import Row

Run = Callable[..., Result]
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of compiled models; no test sees the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOSSNET_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights and a tokenizer; no token ends its texts, so that they are as long as asked."""
    torch = pytest.importorskip("torch")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from mossnet_tg.config import Config
    from mossnet_tg.weights.reference.model import MossNet

    folder = tmp_path_factory.mktemp("models") / "tiny"
    experts = {"n_experts": 4, "top_k": 2}
    config = Config.from_dict(
        {
            "model_type": "mossnet",
            "d_model": 24,
            "n_layer": 2,
            "vocab_size": 300,
            "ssm": {**experts, "d_state": 4},
            "mlp": {**experts, "d_ff": 8},
        }
    )
    torch.manual_seed(0)
    model = MossNet(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    model.save(folder)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["the quick brown fox and the lazy dog\n" * 4], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def moss(tiny: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model compiled; it is in the cache after that."""
    from mossnet_tg import Model

    path = Model.load(tiny).path
    assert path is not None and path.parent == cache
    copy = tmp_path_factory.mktemp("compiled") / "model.moss"
    copy.write_bytes(path.read_bytes())
    return copy


# Threads in groups also on a device that is a processor.
GPUS = (Row("opencl", "opencl:simd=0", "pthread"), Row("vulkan", "vulkan", "llvmpipe"))


@pytest.fixture(scope="session", params=GPUS, ids=lambda row: row.name)
def gpu(request: pytest.FixtureRequest) -> Row:
    """A target of GPUs, with a device that this machine has; a row's name is its driver's."""
    row: Row = request.param
    row.require()
    return row


@pytest.fixture(scope="session")
def gpu_device(gpu: Row) -> dict[str, str]:
    """What libmossnet says of that device."""
    return next(d for d in Library.default().devices(gpu.name) if gpu.device in d["name"])


@pytest.fixture(scope="session")
def gpu_moss(gpu: Row, tiny: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model compiled for that target, prefill in chunks of 8; it is in the cache after that."""
    from mossnet_tg import Model

    path = Model.load(tiny, gpu.target, device=gpu.device, chunk=8).path
    assert path is not None
    copy = tmp_path_factory.mktemp(gpu.name) / "model.moss"
    copy.write_bytes(path.read_bytes())
    return copy


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a driver of any GPU."""
    for driver in ("OPENCL", "VULKAN", "CUDA"):
        monkeypatch.setenv(f"MOSSNET_{driver}_LIB", "/nowhere/lib.so")


@pytest.fixture
def with_meta(moss: Path, tmp_path: Path) -> Callable[..., Path]:
    """The compiled model with other values in META."""

    def make(**meta: str) -> Path:
        found = moss_file.read(moss)
        path = tmp_path / "changed.moss"
        weights = moss_file.read_weights(moss)
        moss_file.write(path, dataclasses.replace(found, meta={**found.meta, **meta}), [(0, weights)])
        return path

    return make


@pytest.fixture(scope="session")
def run() -> Run:
    """Runs the program in this process; the result has exit_code, stdout and stderr."""

    def call(*args: str | os.PathLike[str], stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, [os.fspath(a) for a in args], input=stdin)

    return call


@contextlib.contextmanager
def starting() -> Iterator[Start]:
    """Starts the program as processes of its own, which end with the `with`."""
    started: list[subprocess.Popen[bytes]] = []
    inherited = {**os.environ, "PYTHONPATH": str(Path(mossnet_tg.__path__[0]).parent)}

    def call(
        *args: str | os.PathLike[str], closed: int | None = None, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        argv = [sys.executable, "-m", "mossnet_tg.cli", *args]
        if closed is not None:
            argv = ["sh", "-c", f'exec "$@" {closed}>&-', "sh", *argv]
        # Without the tests' environment a child could write to the user's cache.
        assert "MOSSNET_CACHE_DIR" in inherited
        started.append(subprocess.Popen(argv, env={**inherited, **(env or {})}, **{**streams, **options}))
        return started[-1]

    try:
        yield call
    finally:
        for process in started:
            process.kill()
            process.communicate()


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the program as a process of its own, which does not outlive the test."""
    with starting() as call:
        yield call


_HEAVY = ("numpy", "tinygrad", "tvm", "torch", "tokenizers", "tqdm")


@pytest.fixture
def loads() -> Callable[..., set[str]]:
    """Runs the program in a process of its own; which of the packages that take long to import it imported."""

    def call(*argv: str) -> set[str]:
        script = (
            "import sys, mossnet_tg.cli\n"
            f"sys.argv[1:] = {list(argv)!r}\n"
            "try:\n    mossnet_tg.cli.main()\n"
            f"finally:\n    print('loaded', *[m for m in {_HEAVY!r} if m in sys.modules], file=sys.stderr)\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return set(done.stderr.rsplit("loaded", 1)[1].split())

    return call
