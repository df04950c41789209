"""Writes the seeds: `python -m tests.fuzz.seeds`, after a change of a format, whose readers refuse the old ones."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
import torch

from mossnet_tg.codegen import moss_file
from mossnet_tg.engine import CompiledModel
from mossnet_tg.targets.frames import Request, text
from tests.fuzz.harness import HERE
from tests.runtime.toy import toy, write_toy
from tests.text import kinds

SAMPLING = struct.pack("<4f2IQ", 0, 1, 0, 1, 0, 0, 0)


def models(folder: Path) -> None:
    write_toy(folder / "small.moss", toy())
    write_toy(folder / "large.moss", toy(chunk=9))
    write_toy(folder / "no_score.moss", toy(with_score=False))
    kind = "few bytes"
    first = dataclasses.replace(toy(eos="3,1"), tokenizer=kinds.tokenizer_json(kind), text=kinds.section(kind))
    kernels = [dataclasses.replace(k, block=(32, 2, 1), local_bytes=1024) for k in first.kernels]
    gpu = dataclasses.replace(first, kernels=kernels, meta={**first.meta, "driver": "opencl"})
    path = write_toy(folder / "variants.moss", toy())
    weights = moss_file.read_weights(path).copy()
    moss_file.write(path, first, [(0, weights)], [gpu, toy(chunk=2)])


def states(folder: Path, model: Path) -> None:
    session = CompiledModel(model, allow_native=True).session()
    session.prefill([1, 2, 3])
    (folder / "small.state").write_bytes(session.save())


def texts(folder: Path) -> None:
    for kind in ("stripping", "llama3", "few bytes"):
        (folder / f"{kind.replace(' ', '_')}.text").write_bytes(kinds.section(kind))


def checkpoints(folder: Path) -> None:
    torch.manual_seed(0)
    shapes = {"a": (2,), "b": (2, 2), "c": (0, 16), "d.weight": (), "é🙂": (3, 1, 2)}
    for dtype, metadata in ((torch.float32, {"format": "pt"}), (torch.bfloat16, None)):
        tensors = {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}
        name = str(dtype).removeprefix("torch.")
        safetensors.torch.save_file(tensors, folder / f"{name}.safetensors", metadata)


def talk(model: bytes, state: bytes) -> Iterator[tuple[Request, bytes]]:
    """One request of each kind, each with an answer."""
    digest, one = hashlib.sha256(model).digest(), struct.pack("<I", 1)
    id_ = struct.pack("<II", 1, 5)
    yield Request.HELLO, b""
    yield Request.DEVICES, text("cpu")
    yield Request.READ_BANDWIDTH, struct.pack("<QII", 1 << 20, 1, 1)
    yield Request.HAS, digest + struct.pack("<Q", len(model))
    yield Request.PUT, digest + struct.pack("<QQ", len(model), 0) + model
    yield Request.LOAD, struct.pack("<II", 1, 0) + text(f"{digest.hex()}.moss") + 3 * text("")
    yield Request.META, one + text("config")
    yield Request.TOKENIZER, one
    yield Request.DEVICE, one
    yield Request.BANDWIDTH, one + struct.pack("<QI", 1 << 20, 1)
    yield Request.SESSION, one + bytes(4)
    yield Request.PREFILL, one + struct.pack("<3i", 1, 2, 3)
    yield Request.DECODE, id_
    yield Request.LOGITS, one
    yield Request.SAMPLER, SAMPLING
    yield Request.ACCEPT, id_
    yield Request.PICK, struct.pack("<II", 1, 1)
    yield Request.PICK_FROM, one + struct.pack("<4f", 0, 2, 1, -1)
    yield Request.SCORE, one + struct.pack("<4i", 4, 3, 2, 1)
    yield Request.POSITION, one
    yield Request.FORK, one
    yield Request.SAVE, one
    yield Request.RESTORE, one + state
    yield Request.RUN, struct.pack("<4I", 1, 0, 0, 1)
    yield Request.READ, struct.pack("<IIQ", 1, 3, 8)
    yield Request.WRITE, struct.pack("<II", 1, 3) + bytes(8)
    yield Request.PROFILE, struct.pack("<3I", 1, 0, 1)
    yield Request.RESET, one
    yield Request.DECODE, id_


def main() -> None:
    folders = {name: HERE / "seeds" / name for name in ("moss", "state", "text", "safetensors", "requests")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    small = folders["moss"] / "small.moss"
    models(folders["moss"])
    states(folders["state"], small)
    texts(folders["text"])
    checkpoints(folders["safetensors"])
    said = talk(small.read_bytes(), (folders["state"] / "small.state").read_bytes())
    stream = b"".join(struct.pack("<4s4I", b"MNRP", kind, i, 0, len(p)) + p for i, (kind, p) in enumerate(said))
    (folders["requests"] / "talk.frames").write_bytes(stream)


if __name__ == "__main__":
    main()
