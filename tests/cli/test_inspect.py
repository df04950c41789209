"""`mossnet-tg inspect`, and the numbers that it shares with bench."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mossnet_tg.cli.facts import count, human, n_active, n_parameters, tensors_of
from mossnet_tg.codegen import moss_file
from mossnet_tg.codegen.moss_file import Access, Buffer, DType, Entry, EntryKind, Kernel, MossFile, Param, Region, Step
from mossnet_tg.codegen.reads import read_per_token, share_per_token
from mossnet_tg.config import Config
from mossnet_tg.weights.names import MOSSNET, expected
from tests.cli.conftest import Run
from tests.devices import Row


def test_a_checkpoint(run: Run, tiny: Path) -> None:
    found = run("inspect", tiny)
    assert found.exit_code == 0 and found.stderr == ""
    assert "checkpoint tiny" in found.stdout and "ssm.n_experts" in found.stdout
    assert "layers.1.mlp.w1.weight" in found.stdout and "[4, 8, 24]" in found.stdout
    facts = json.loads(run("inspect", tiny, "--json").stdout)
    assert facts["kind"] == "checkpoint" and facts["config"]["d_model"] == 24 and facts["nan_tensors"] == []
    assert facts["parameters"] == sum(math.prod(t["shape"]) for t in facts["tensors"])
    assert facts["weights_bytes"] == 4 * facts["parameters"]
    # SPEC.md: conv [L, X, W - 1] and ssm [L, S, X, N], float32
    assert facts["state_bytes"] == 4 * 2 * 48 * (3 + 4 * 4)


def test_a_compiled_model(run: Run, tiny: Path, moss: Path) -> None:
    found = run("inspect", moss)
    assert found.exit_code == 0 and found.stderr == ""
    text = found.stdout
    assert "read per token" in text and "per session" in text and "layers 0 to 1, " in text
    assert "layers.1." not in text and "layers.1." in run("inspect", moss, "--steps").stdout
    facts = json.loads(run("inspect", moss, "--json").stdout)
    checkpoint = json.loads(run("inspect", tiny, "--json").stdout)
    for key in ("parameters", "active_per_token"):
        assert facts[key] == checkpoint[key]
    assert facts["kind"] == "compiled" and facts["chunk"] == 128 and facts["max_context"] is None
    assert facts["regions"]["state"] >= checkpoint["state_bytes"]
    assert [e["name"] for e in facts["entries"]] == ["decode", "prefill", "score"]
    n_steps = sum(len(e["steps"]) for e in facts["entries"])
    assert sum(k["steps"] for k in facts["kernels"]) == n_steps
    # What is active is read, and with it the head; padding adds less than as much again to a model so narrow.
    least = 4 * (facts["active_per_token"] + 300 * 24)
    assert least <= facts["read_per_token"] < 2 * least


def test_launches_per_token(run: Run, moss: Path) -> None:
    launches = json.loads(run("inspect", moss, "--json").stdout)["launches"]
    decode = next(e for e in json.loads(run("inspect", moss, "--json").stdout)["entries"] if e["name"] == "decode")
    assert launches["total"] == len(decode["steps"]) == sum(launches["layers"]) + sum(launches["outside"].values())
    assert len(launches["layers"]) == 2 and launches["largest_layer"] == max(launches["layers"])
    assert launches["outside"]["embed"] == 1 and launches["outside"]["head"] >= 1
    text = f"{launches['total']}: {launches['largest_layer']} a layer, embed 1, head {launches['outside']['head']}"
    assert f"launches per token  {text}\n" in run("inspect", moss).stdout


def test_launches_of_layers_that_differ() -> None:
    from mossnet_tg.cli.inspect_model import _launches_text

    launches = {"total": 9, "largest_layer": 4, "layers": [3, 4], "outside": {"embed": 1, "head": 1}}
    assert _launches_text(launches) == "9: at most 4 a layer, embed 1, head 1"
    assert _launches_text({"total": 2, "largest_layer": 0, "layers": [], "outside": {"head": 2}}) == "2: head 2"


def test_a_model_for_a_gpu(run: Run, gpu: Row, gpu_moss: Path) -> None:
    facts = json.loads(run("inspect", gpu_moss, "--json").stdout)
    assert facts["meta"]["driver"] == gpu.name and facts["images"] is None
    for kernel in facts["kernels"]:
        assert len(kernel["groups"]) == 1 and math.prod(kernel["block"]) >= 1 and kernel["local_bytes"] >= 0
    assert any(k["local_bytes"] for k in facts["kernels"]) and max(math.prod(k["block"]) for k in facts["kernels"]) > 1
    groups = {kernel["name"]: kernel["groups"] for kernel in facts["kernels"]}
    for step in (step for entry in facts["entries"] for step in entry["steps"]):
        assert groups[step["kernel"]] == [math.prod(step["groups"])] and "tiles" not in step
    assert any(groups[name] != [1] for name in groups)
    text = run("inspect", gpu_moss).stdout
    assert re.search(r"code bytes  steps  groups +block  local bytes\n", text)
    assert f"{max(groups.values())[0]} groups\n" in text and "tiles" not in text
    features = facts["meta"]["features"] or "none"
    assert re.search(rf"  driver +{gpu.name}\n", text) and re.search(rf"  features +{features}\n", text)


def test_images_of_cuda(run: Run, moss: Path, tmp_path: Path) -> None:
    """A table made by hand, as docs/format.md says: every kernel's code is the whole of CODE."""
    code = struct.pack("<IIIIQQIIQQ", 2, 0, 0, 90, 64, 5000, 1, 80, 5064, 7000) + bytes(12064 - 56)
    found = moss_file.read(moss)
    kernels = [dataclasses.replace(k, code_offset=0, code_bytes=len(code), block=(8, 32, 1)) for k in found.kernels]
    meta = {**found.meta, "driver": "cuda", "target": "cuda:arch=90", "features": ""}
    path = tmp_path / "cuda.moss"
    changed = dataclasses.replace(found, code=code, kernels=kernels, meta=meta)
    moss_file.write(path, changed, [(0, moss_file.read_weights(moss))])
    facts = json.loads(run("inspect", path, "--json").stdout)
    images = [{"kind": "cubin", "arch": 90, "bytes": 5000}, {"kind": "PTX", "arch": 80, "bytes": 7000}]
    assert facts["images"] == images
    text = run("inspect", path).stdout
    assert "  cubin 90  4.9 KiB\n" in text and "  PTX 80    6.8 KiB\n" in text
    assert "8 x 32" in text and "code bytes" not in text
    for broken in (
        struct.pack("<III", 9, 0, 0),
        b"\xff",
    ):  # a count without its table: libmossnet refuses it when it loads
        kernels = [dataclasses.replace(k, code_offset=0, code_bytes=len(broken)) for k in found.kernels]
        changed = dataclasses.replace(found, code=broken, kernels=kernels, meta=meta)
        moss_file.write(path, changed, [(0, moss_file.read_weights(moss))])
        assert json.loads(run("inspect", path, "--json").stdout)["images"] == []


def test_layers_that_differ_are_shown_apart() -> None:
    from mossnet_tg.cli.inspect_model import _grouped

    def steps(*labels: str) -> list[dict[str, Any]]:
        return [{"label": label, "kernel": f"k_{label.rpartition('.')[2]}"} for label in labels]

    plan = steps("embed", "layers.0.a", "layers.1.a", "layers.2.a", "layers.2.b", "layers.3.a", "layers.3.b", "head")
    shown = [(group, [s["label"] for s in found]) for group, found in _grouped(plan)]
    assert shown == [("", ["embed"]), ("layers 0 to 1", ["a"]), ("layers 2 to 3", ["a", "b"]), ("", ["head"])]
    assert list(_grouped([])) == []


def test_damage_is_shown(run: Run, with_meta: Callable[..., Path]) -> None:
    found = run("inspect", with_meta(nan_tensors="norm_f.weight"))
    assert found.exit_code == 0 and "warning: the weights hold NaN or infinity: norm_f.weight" in found.stderr


def test_what_is_refused(run: Run, moss: Path, tmp_path: Path, with_meta: Callable[..., Path]) -> None:
    missing = run("inspect", tmp_path / "gone")
    assert missing.exit_code == 2 and "gone: not found" in missing.stderr
    assert run("inspect", tmp_path).exit_code == 2
    cut = tmp_path / "cut.moss"
    cut.write_bytes(moss.read_bytes()[:-1])
    found = run("inspect", cut)
    assert (found.exit_code, found.stdout) == (4, "") and "cut short or damaged" in found.stderr
    assert "checkpoint demo" in run("inspect").stdout  # as every verb, without a model
    assert run("inspect", with_meta(config="{}")).exit_code == 1


def size_class(d_model: int, n_layer: int, d_ff: int, **ssm: Any) -> Config:
    experts = {"n_experts": 8, "top_k": 2}
    sizes = {"d_model": d_model, "n_layer": n_layer, "vocab_size": 50280}
    return Config.from_dict(
        {"model_type": "mossnet", **sizes, "ssm": {**experts, **ssm}, "mlp": {**experts, "d_ff": d_ff}}
    )


@pytest.mark.parametrize(
    ("sizes", "total", "active"),
    [((256, 8, 704), 40.5, 12.5), ((768, 8, 2048), 345, 108), ((768, 24, 2048), 1034, 323)],
)
def test_active_parameters_are_those_of_the_specification(
    sizes: tuple[int, int, int], total: float, active: float
) -> None:
    """SPEC.md, size classes: millions without embedding."""
    c = size_class(*sizes)
    tensors = [(t.name, math.prod(t.shapes[0])) for t in expected(MOSSNET, c)]
    assert (n_parameters(tensors) - 50280 * sizes[0]) / 1e6 == pytest.approx(total, abs=0.5)
    assert n_active(c, tensors) / 1e6 == pytest.approx(active, abs=0.5)


def test_the_share_of_a_tensor_that_a_token_works_with() -> None:
    c = size_class(64, 2, 32)
    a = c.d_inner * c.ssm.d_state
    assert share_per_token(c, "layers.1.mlp.w2.weight", 1) == share_per_token(c, "layers.0.ssm.A", 8 * a) == 0.25
    assert share_per_token(c, "layers.0.ssm.A_log", a) == 1  # shared by the experts
    assert share_per_token(c, "layers.0.ssm.in_proj.weight", 1) == share_per_token(c, "norm_f.weight", 1) == 1
    moving = size_class(64, 2, 32, state_update="all")
    assert share_per_token(moving, "layers.0.ssm.x_proj.weight", 1) == 1
    assert share_per_token(moving, "layers.0.mlp.w1.weight", 1) == 0.25


def test_bytes_per_token_by_hand() -> None:
    """A plan of four steps: a row of the embedding, a norm, an eighth of the experts, the tied head."""
    c = Config.from_dict(
        {
            "model_type": "mossnet",
            "d_model": 4,
            "n_layer": 1,
            "vocab_size": 10,
            "mlp": {"d_ff": 8, "n_experts": 8, "top_k": 1},
        }
    )
    weights, io = Region.WEIGHTS, Region.IO
    buffers = [
        Buffer("embed.weight", weights, DType.F16, 0, 80),
        Buffer("norm_f.weight", weights, DType.F32, 256, 16),
        Buffer("layers.0.mlp.w1.weight", weights, DType.F16, 512, 512),
        Buffer("ids", io, DType.I32, 0, 4),
        Buffer("params", io, DType.I32, 256, 8),
        Buffer("logits", io, DType.F32, 512, 40),
        Buffer("layers.0.ssm.A", weights, DType.F32, 1024, 4 * 8 * 16),
    ]
    uses = [(3, 0), (1, 1), (2, 2), (0, 5), (3, 4)]  # the last reads no weights
    moss = MossFile(
        model_hash=bytes(32), vocab_size=10, chunk=1, max_context=0, n_params=2, state_bytes=0, arena_bytes=0,
        io_bytes=1024, weights_bytes=2048, buffers=buffers, code=b"\xc3",
        kernels=[Kernel("k", (Param(4, Access.READ), Param(4, Access.READ)), 0, 1)],
        steps=[Step(0, use, (1, 1, 1)) for use in uses],
        entries=[Entry(k.name, k, 0, n, 1, 1, 3, 4, 5) for k, n in ((EntryKind.PREFILL, 4), (EntryKind.DECODE, 5))],
    )  # fmt: skip
    assert read_per_token(moss, c) == 4 * 2 + 16 + 512 // 8 + 80
    assert dict(tensors_of(moss, c))["layers.0.ssm.A_log"] == 8 * 16


def test_numbers_for_people() -> None:
    assert [human(n) for n in (0, 1023, 1024, 1536 << 10, 5 << 40)] == [
        "0 bytes", "1023 bytes", "1.0 KiB", "1.5 MiB", "5120.0 GiB",
    ]  # fmt: skip
    assert [count(n) for n in (7, 1500, 5_229_888, 2 * 10**9)] == ["7", "1.50K", "5.23M", "2.00B"]
