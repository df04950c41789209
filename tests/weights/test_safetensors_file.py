"""The strict reader of one .safetensors file: equal to the format's own library, or a clear refusal."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from mossnet_tg.weights.safetensors_file import DTYPE_BITS, CheckpointError, SafetensorsFile, read_json


def build(header: str | bytes | Mapping[str, object], content: bytes = b"") -> bytes:
    """A file of `header` (JSON text, or what it should hold) and the tensors' bytes."""
    if isinstance(header, Mapping):
        header = json.dumps(header)
    if isinstance(header, str):
        header = header.encode()
    return len(header).to_bytes(8, "little") + header + content


def entry(dtype: object, shape: object, begin: object, end: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def read(tmp_path: Path, content: bytes) -> SafetensorsFile:
    path = tmp_path / "x.safetensors"
    path.unlink(missing_ok=True)  # a new file: an earlier mapping stays valid
    path.write_bytes(content)
    return SafetensorsFile.open(path)


def refusal(tmp_path: Path, content: bytes) -> str:
    with pytest.raises(CheckpointError) as e:
        read(tmp_path, content)
    assert "x.safetensors" in str(e.value)
    return str(e.value)


def library(content: bytes) -> dict[str, tuple[str, list[int], bytes]]:
    """What the format's own library reads: dtype, shape and bytes by name."""
    found: list[tuple[str, dict[str, Any]]] = safetensors.deserialize(content)  # type: ignore[no-untyped-call]
    return {name: (t["dtype"], t["shape"], bytes(t["data"])) for name, t in found}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_equal_the_library(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    shapes = {"a": (3, 5), "scalar": (), "empty": (0, 7), "five": (2, 1, 3, 1, 2), "b.ü🙂": (257,)}
    tensors = {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors", {"format": "pt"})
    file = SafetensorsFile.open(tmp_path / "x.safetensors")
    assert file.metadata == {"format": "pt"}
    assert set(file.tensors) == set(tensors)
    for name, t in tensors.items():
        view = file.tensors[name]
        assert view.shape == tuple(t.shape) and view.n_elements == t.numel()
        assert view.dtype == {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}[dtype]
        assert not view.content.flags.writeable and not view.raw.flags.writeable
        assert view.content.tobytes() == t.reshape(-1).view(torch.uint8).numpy().tobytes()
        got = view.f32()
        assert got.dtype == np.float32 and got.flags.aligned
        np.testing.assert_array_equal(got, t.float().numpy())


def test_every_16_bit_pattern(tmp_path: Path) -> None:
    bits = np.arange(65536, dtype="<u2")
    file = read(
        tmp_path,
        build({"f": entry("F16", [65536], 0, 131072), "b": entry("BF16", [65536], 131072, 262144)}, 2 * bits.tobytes()),
    )
    signed = torch.from_numpy(bits.view(np.int16).copy())
    np.testing.assert_array_equal(file.tensors["f"].f32(), signed.view(torch.float16).float().numpy())
    np.testing.assert_array_equal(file.tensors["b"].f32(), signed.view(torch.bfloat16).float().numpy())


@pytest.mark.parametrize("pad", range(4))
def test_unaligned_content(tmp_path: Path, pad: int) -> None:
    values = np.arange(6, dtype="<f4")
    file = read(tmp_path, build(json.dumps({"a": entry("F32", [2, 3], 0, 24)}) + " " * pad, values.tobytes()))
    np.testing.assert_array_equal(file.tensors["a"].raw, values.reshape(2, 3))
    assert file.tensors["a"].f32().flags.aligned


def test_all_dtypes_are_known_but_only_weights_are_read(tmp_path: Path) -> None:
    for dtype, bits in DTYPE_BITS.items():
        content = build({"a": entry(dtype, [8], 0, bits)}, bytes(bits))
        library(content)
        view = read(tmp_path, content).tensors["a"]
        if dtype in ("F32", "F16", "BF16"):
            assert view.f32().shape == (8,)
        else:
            with pytest.raises(CheckpointError, match=f"'a' is {dtype.lower()}, expected f32, f16, bf16"):
                view.f32()


def test_tensors_may_stand_in_any_order_and_views_outlive_the_file(tmp_path: Path) -> None:
    header = {"z": entry("F32", [1], 4, 8), "e": entry("F32", [0], 4, 4), "a": entry("F32", [1], 0, 4)}
    file = read(tmp_path, build(header, np.array([1, 2], "<f4").tobytes()))
    a, z = file.tensors["a"], file.tensors["z"]
    file.path.unlink()
    del file
    assert (a.f32()[0], z.f32()[0]) == (1, 2)


GOOD = {"a": entry("F32", [2], 0, 8), "b": entry("F16", [2, 2], 8, 16)}
TWICE = '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
TWICE_INSIDE = '{"a":{"dtype":"F32","shape":[3],"shape":[2],"data_offsets":[0,8]}}'

# name -> (file, parts of the message: which tensor, what was found, what was expected)
BROKEN: dict[str, tuple[bytes, list[str]]] = {
    "empty": (b"", ["0 bytes", "at least the 8"]),
    "short": (b"\2\0\0\0", ["4 bytes"]),
    "header beyond the file": ((99).to_bytes(8, "little") + b"{}", ["99", "only 2 bytes"]),
    "header too long": ((1 << 40).to_bytes(8, "little") + b"{}", ["1099511627776", "100000000"]),
    "header length of all ones": (b"\xff" * 8 + b"{}", ["18446744073709551615"]),
    "no header": (bytes(8), ["header begins with b''"]),
    "not an object": (build("[]"), ["header begins with b'[]'"]),
    "space before": (build(" {}"), ["header begins with b' {}'"]),
    "not JSON": (build("{x}"), ["not JSON"]),
    "two values": (build("{}{}"), ["not JSON"]),
    "not UTF-8": (build(b'{"\xff":1}'), ["not JSON", "utf-8"]),
    "half a surrogate pair": (build('{"\\ud800":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'), ["surrogate"]),
    "deep": (build('{"a":' + "[" * 200000 + "]" * 200000 + "}"), ["not JSON", "recursion"]),
    "NaN": (build('{"a":NaN}'), ["NaN"]),
    "huge number": (build('{"a":' + "9" * 6000 + "}"), ["64-bit"]),
    "huge float": (build('{"a":1e999}'), ["not finite"]),
    "duplicate tensor": (build(TWICE, bytes(8)), ["'a'", "twice"]),
    "duplicate key of a tensor": (build(TWICE_INSIDE, bytes(8)), ["'shape'", "twice"]),
    "duplicate metadata": (build('{"__metadata__":{"k":"1","k":"2"}}'), ["'k'", "twice"]),
    "metadata of numbers": (build('{"__metadata__":{"k":1}}'), ["__metadata__", '{"k": 1}']),
    "metadata null": (build('{"__metadata__":null}'), ["__metadata__", "null"]),
    "entry null": (build('{"a":null}'), ["'a'", "null", "data_offsets"]),
    "entry without shape": (build({"a": {"dtype": "F32", "data_offsets": [0, 0]}}), ["'a'", "shape"]),
    "entry with more": (build({"a": {**entry("F32", [2], 0, 8), "strides": [1]}}, bytes(8)), ["'a'", "strides"]),
    "unknown dtype": (build({"a": entry("F31", [2], 0, 8)}, bytes(8)), ["'a'", "'F31'", "BF16"]),
    "dtype in lower case": (build({"a": entry("f32", [2], 0, 8)}, bytes(8)), ["'f32'"]),
    "dtype a list": (build({"a": entry(["F32"], [2], 0, 8)}, bytes(8)), ['["F32"]']),
    "shape a number": (build({"a": entry("F32", 2, 0, 8)}, bytes(8)), ["'a'", "shape is 2"]),
    "shape negative": (build({"a": entry("F32", [-1, -2], 0, 8)}, bytes(8)), ["[-1, -2]"]),
    "shape of floats": (build({"a": entry("F32", [2.0], 0, 8)}, bytes(8)), ["[2.0]"]),
    "shape of booleans": (build({"a": entry("F32", [True], 0, 4)}, bytes(4)), ["[true]"]),
    "shape overflows": (build({"a": entry("F32", [1 << 32, 1 << 32], 0, 0)}), ["'a'", "2^60"]),
    "empty shape overflows": (build({"a": entry("F32", [1 << 62, 4, 0], 0, 0)}), ["'a'", "2^60"]),
    "too many dimensions": (build({"a": entry("F32", [1 << 62] * 5000, 0, 0)}), ["'a'", "5000 dimensions", "64"]),
    "shape too large": (build({"a": entry("F32", [3], 0, 8)}, bytes(8)), ["'a'", "8 bytes", "96 / 8", "F32 [3]"]),
    "half a byte": (build({"a": entry("F4", [3], 0, 1)}, bytes(1)), ["'a'", "1 bytes", "12 / 8"]),
    "one offset": (build({"a": {**entry("F32", [2], 0, 8), "data_offsets": [8]}}, bytes(8)), ["'a'", "[8]"]),
    "offsets backwards": (build({"a": entry("F32", [2], 8, 0)}, bytes(8)), ["[8, 0]", "begin <= end"]),
    "offset negative": (build({"a": entry("F32", [2], -8, 0)}, bytes(8)), ["[-8, 0]"]),
    "offset minus zero": (build('{"a":{"dtype":"U8","shape":[0],"data_offsets":[-0,0]}}'), ["-0"]),
    "beyond the file": (build(GOOD, bytes(15)), ["'b'", "16", "15 bytes"]),
    "trailing bytes": (build(GOOD, bytes(17)), ["1 bytes after tensor 'b'"]),
    "bytes and no tensor": (build("{}", bytes(3)), ["3 bytes after the header"]),
    "overlap": (
        build({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}, bytes(12)),
        ["'b'", "offset 4", "overlaps tensor 'a'", "expected offset 8"],
    ),
    "the same bytes twice": (
        build({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 0, 8)}, bytes(8)),
        ["'b'", "overlaps tensor 'a'"],
    ),
    "hole": (
        build({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 12, 20)}, bytes(20)),
        ["'b'", "offset 12", "hole after tensor 'a'", "expected offset 8"],
    ),
    "hole before the first": (build({"a": entry("F32", [2], 4, 12)}, bytes(12)), ["'a'", "hole after the header"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused(tmp_path: Path, name: str) -> None:
    content, parts = BROKEN[name]
    message = refusal(tmp_path, content)
    assert [p for p in parts if p not in message] == [], message
    assert len(message) < 600


def test_cut_or_longer_anywhere(tmp_path: Path) -> None:
    whole = build(GOOD, bytes(16))
    read(tmp_path, whole)
    for n in range(len(whole)):
        refusal(tmp_path, whole[:n])
    for n in (1, 7, 4096):
        refusal(tmp_path, whole + bytes(n))


def test_things_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing", "pipe", "."):
        with pytest.raises(CheckpointError, match=r"expected a \.safetensors file|cannot be read: No such file"):
            SafetensorsFile.open(tmp_path / name)


def test_the_largest_shapes_can_be_viewed(tmp_path: Path) -> None:
    header = {"a": entry("F32", [1] * 64, 0, 4), "b": entry("F32", [1 << 59, 0], 4, 4)}
    file = read(tmp_path, build(header, bytes(4)))
    assert file.tensors["a"].f32().ndim == 64 and file.tensors["b"].f32().shape == (1 << 59, 0)


def test_read_json_keeps_plain_json() -> None:
    text = '{"a": [1, -2, 3.5, null, true, "\\u00fc\\ud83d\\ude42"], "b": {"a": 1e-5}}'
    assert read_json(text.encode(), "x") == json.loads(text)
