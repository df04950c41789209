"""MossNet models, compiled: from a checkpoint to text on this machine, on a phone, in an app.

from mossnet_tg import Model

model = Model.load()                      # the bundled demo; or a checkpoint folder, or a model.moss
for piece in model.generate("def fibonacci(n):", max_tokens=64):
    print(piece, end="")

logits = model.logits([1, 2, 3])          # float32 [n_tokens, vocab]
session = model.session()                 # prefill, decode, save, restore, fork
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mossnet_tg.errors import ArtifactError, DeviceError, MossnetError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mossnet_tg.codegen.moss_file import MossFile
    from mossnet_tg.codegen.options import CompileOptions
    from mossnet_tg.config import Config
    from mossnet_tg.engine import CompiledModel, Ids, Session
    from mossnet_tg.generate import Stats
    from mossnet_tg.remote import RemoteModel, RemoteSession, Runner
    from mossnet_tg.sampling import SamplingParams
    from mossnet_tg.tokenizer import Tokenizer
    from mossnet_tg.weights.checkpoint import Checkpoint

__all__ = ["ArtifactError", "DeviceError", "Model", "MossnetError", "UsageError"]


def __getattr__(name: str) -> str:
    """`__version__`, looked up when it is asked for: it takes longer than the rest of this import."""
    if name != "__version__":
        raise AttributeError(f"module 'mossnet_tg' has no attribute '{name}'")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("mossnet-tg")
    except PackageNotFoundError:  # a source tree on the path
        return "0+source"


Progress = Callable[[str], None]


class Model:
    """A model, ready to run. Make one with `Model.load`; sessions of several threads may share it."""

    def __init__(
        self,
        engine: CompiledModel | RemoteModel | Any,
        config: Config,
        tokenizer_json: bytes | None,
        eos_ids: tuple[int, ...],
        n_threads: int,
    ) -> None:
        self.engine = engine
        self.config = config
        self.eos_ids = eos_ids
        self.path: Path | None = None  # of the model.moss, where there is one
        self.was_compiled = False  # now, and not found in the cache
        self._tokenizer_json = tokenizer_json
        self._n_threads = n_threads

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        target: str | None = None,
        *,
        n_threads: int = 0,
        device: str = "",
        chunk: int = 128,
        context: int = 4096,
        weights: str = "",
        allow_native: bool = False,
        progress: Progress = lambda step: None,
    ) -> Model:
        """Load a checkpoint (compiled first, unless it is in the cache), a model.moss, or with None the bundled demo.

        `target` is `cpu`, `adreno`, `opencl`, `vulkan`, `cuda` with options (see `mossnet-tg targets`), or
        `tinygrad:DEVICE`, which runs the uncompiled graph for debugging. `device` is `[DRIVER:]NAME`, a part of the
        GPU's name (`"pthread"`, `"opencl:pthread"`); without it the best one is taken. Before it may stand a place:
        `ssh:[USER@]HOST` or `adb:SERIAL`, alone or with a slash between (`"adb:/opencl:adreno"`); then the model is
        compiled here and runs there. Without a target that of the device's driver is taken, or `cpu`; on a phone with
        an Adreno GPU `adreno`. `weights` converts the checkpoint's matrices ("f32", "f16", "bf16", "q8" or "q4"; ""
        leaves them). `n_threads` 0 takes every CPU the process may use. The code of a model.moss runs with
        the caller's rights where it runs on the processor (target cpu, and GPU targets whose device is one): it needs
        `allow_native`. `progress` is told the steps of a compilation, and of the way to another machine. Raises
        MossnetError; DeviceError when the model is compiled and there is nothing to run it on.
        """
        from mossnet_tg.targets import devices
        from mossnet_tg.targets.transport import split_place
        from mossnet_tg.weights.checkpoint import DEMO, Checkpoint, is_checkpoint

        place, device = split_place(device)
        if path is not None and Path(path).is_file() and not is_checkpoint(path):
            if (target, chunk, context, weights) != (None, 128, 4096, ""):
                raise UsageError(
                    f"{os.fspath(path)}: target, chunk, context and weights of a compiled model cannot be changed"
                )
            return cls._load_file(path, allow_native, n_threads, device, host_at(place, progress), progress)
        checkpoint = Checkpoint.open(DEMO if path is None else path).with_weights(weights)
        if target is not None and target.partition(":")[0] == "tinygrad":
            if given := place or device:
                raise UsageError(f"target {target} names its device itself, and '{given}' was given beside it")
            return cls._load_plain(checkpoint, target.partition(":")[2] or "PYTHON", context)
        from mossnet_tg.codegen.options import CompileOptions

        plan, host = CompileOptions(chunk, context), host_at(place, progress)
        target = target or devices.default_target(device, host)
        return cls._load_checkpoint(checkpoint, target, device, plan, n_threads, host, progress)

    @classmethod
    def _load_checkpoint(
        cls,
        checkpoint: Checkpoint,
        target: str,
        device: str,
        options: CompileOptions,
        n_threads: int,
        host: Runner | None,
        progress: Progress,
    ) -> Model:
        """The checkpoint compiled, from the cache or now."""
        from mossnet_tg.codegen.cache import cached, discard_damaged
        from mossnet_tg.codegen.remedy import remedied
        from mossnet_tg.codegen.tune.shelf import lookup
        from mossnet_tg.targets import devices
        from mossnet_tg.targets.table import KINDS, parse_target

        resolved = parse_target(target, device, host)
        resolved.require_host(host)
        kind = KINDS[resolved.kind]
        name = kind.wanted(device, host)
        resolved = remedied(resolved, name, host)
        found = lookup(resolved, name, host)
        was_compiled = False

        def compiling(step: str) -> None:
            nonlocal was_compiled
            was_compiled = True
            progress(step)

        compiled = cached(checkpoint, resolved, options, compiling, found)
        try:
            try:
                model = cls._load_compiled(compiled, True, n_threads, name, host, progress)
            except ArtifactError:
                if not discard_damaged(compiled):
                    raise
                compiled = cached(checkpoint, resolved, options, compiling, found)
                model = cls._load_compiled(compiled, True, n_threads, name, host, progress)
        except DeviceError as e:
            said = "compiled, not run"
            if host is not None and host.is_lost:
                raise DeviceError(f"{said}: {e}", e.hint) from None
            raise devices.explained(e, said, str(compiled), kind.driver, name, device, kind.remedy, host) from None
        model.was_compiled = was_compiled
        return model

    @classmethod
    def _load_file(
        cls,
        path: str | os.PathLike[str],
        allow_native: bool,
        n_threads: int,
        device: str,
        host: Runner | None,
        progress: Progress,
    ) -> Model:
        """A model.moss, on a device that suits what it was compiled for."""
        from mossnet_tg.codegen import moss_file
        from mossnet_tg.targets import devices
        from mossnet_tg.targets.table import KINDS

        file, variants = os.fspath(path), moss_file.read_all(path)
        if len(variants) > 1:
            driver, name = devices.split(device)
            return cls._load_compiled(path, allow_native, n_threads, name, host, progress, driver)
        meta = variants[0].meta
        driver = meta.get("driver", "")
        kind = KINDS.get(meta.get("target", "").partition(":")[0]) or KINDS.get(driver)
        name = devices.wanted(f"{file}:", driver, kind.device if kind else "", device, host)
        try:
            return cls._load_compiled(path, allow_native, n_threads, name, host, progress)
        except DeviceError as e:
            if host is not None and host.is_lost:
                raise
            remedy = kind.remedy if kind else ""
            raise devices.explained(e, file, file, driver, name, device, remedy, host) from None

    @classmethod
    def _load_compiled(
        cls,
        path: str | os.PathLike[str],
        allow_native: bool,
        n_threads: int,
        device: str,
        host: Runner | None,
        progress: Progress,
        driver: str = "",
    ) -> Model:
        from mossnet_tg.codegen.cache import program_folder
        from mossnet_tg.config import Config
        from mossnet_tg.engine import CompiledModel

        engine: CompiledModel | RemoteModel
        if host is None:
            folder = program_folder()
            engine = CompiledModel(path, allow_native=allow_native, device=device, cache_dir=folder, driver=driver)
        else:
            engine = host.load(path, allow_native=allow_native, device=device, driver=driver, progress=progress)
        config = Config.from_json(engine.meta("config") or "", f"{os.fspath(path)}: config")
        eos = tuple(int(i) for i in (engine.meta("eos") or "").split(",") if i.isdecimal())
        if any(i >= config.vocab_size for i in eos):
            raise ArtifactError(f"{os.fspath(path)}: eos is {eos}, expected ids below vocab_size = {config.vocab_size}")
        model = cls(engine, config, engine.tokenizer, eos, n_threads)
        model.path = Path(path)
        return model

    @classmethod
    def _load_plain(cls, checkpoint: Any, device: str, context: int) -> Model:
        from mossnet_tg.plain import PlainModel
        from mossnet_tg.weights.parameters import parameters, value_f32

        values = {prefix + name: value_f32(checkpoint, prefix, p) for prefix, name, p in parameters(checkpoint)}
        engine = PlainModel(checkpoint.config, values, device, context)
        return cls(engine, checkpoint.config, checkpoint.tokenizer_json, checkpoint.eos_ids, 0)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer; UsageError when the checkpoint came without one."""
        from mossnet_tg.tokenizer import Tokenizer

        if self._tokenizer_json is None:
            raise UsageError(
                "the model has no tokenizer", "put its tokenizer.json beside config.json, or work with token ids"
            )
        return Tokenizer.from_json(self._tokenizer_json)

    def meta(self, key: str) -> str | None:
        """A value of the model.moss's META (docs/format.md); None where there is none."""
        value: str | None = None if self.path is None else self.engine.meta(key)
        return value

    @property
    def compiled(self) -> MossFile:
        """What its model.moss holds, of the variant in use. Not for a model that runs uncompiled."""
        from mossnet_tg.codegen import moss_file

        assert self.path is not None
        return moss_file.read_all(self.path)[int(self.engine.device.get("variant", 0))]

    @property
    def max_context(self) -> int:
        """The tokens that a session can hold, where attention without a window bounds them; 0: no limit."""
        bounded: Any = self.engine if self.path is None else self.engine.info
        return int(bounded.max_context)

    def session(self) -> Session | RemoteSession:
        """A new sequence: prefill, decode, score, reset; of compiled models also save, restore and fork."""
        session = self.engine.session(*([self._n_threads] if self._n_threads else []))
        return cast("Session | RemoteSession", session)

    def logits(self, ids: Ids) -> npt.NDArray[np.float32]:
        """The logits after each of `ids`, float32 [n_tokens, vocab]."""
        return self.session().score(ids)

    def generate(
        self,
        prompt: str | Ids,
        *,
        max_tokens: int | None = None,
        sampling: SamplingParams | None = None,
        stop: Sequence[str] = (),
        stats: Stats | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[str]:
        """The text that follows `prompt`, in pieces as it comes (see `mossnet_tg.generate.generate_text`)."""
        from mossnet_tg.generate import generate_text
        from mossnet_tg.sampling import SamplingParams

        sampler = self.engine.sampler(sampling or SamplingParams())
        return generate_text(
            self.session(),
            sampler,
            self.tokenizer,
            prompt if isinstance(prompt, str) else [int(i) for i in prompt],
            max_tokens=max_tokens,
            eos_ids=self.eos_ids,
            stop=stop,
            stats=stats,
            progress=progress,
        )


def host_at(place: str, progress: Progress) -> Runner | None:
    """The machine at a place; None for this one."""
    if not place:
        return None
    from mossnet_tg.remote import Runner

    progress(f"connecting to {place}")
    return Runner.at(place, progress)
