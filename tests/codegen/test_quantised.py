"""Models with quantised weights: on every target what the reference makes of their values, and in integers nearly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mossnet_tg.codegen import moss_file
from mossnet_tg.codegen.compile import compile_checkpoint
from mossnet_tg.codegen.kernels.dispatch import generate_op, op_params
from mossnet_tg.codegen.kernels.groups import pack
from mossnet_tg.codegen.options import CompileOptions
from mossnet_tg.engine import CompiledModel, Library
from mossnet_tg.ops import ExpertMatmul
from mossnet_tg.targets import table
from mossnet_tg.targets.table import DOTS, parse_target
from mossnet_tg.weights.checkpoint import Checkpoint
from mossnet_tg.weights.quantised import dequantise, quantise
from mossnet_tg.weights.reference.model import MossNet
from tests.codegen.one_kernel import OneKernel, cpu_schedule
from tests.codegen.random_models import CHUNK, N_SCORED, quantisable, tokens, worst
from tests.devices import CPU, ROWS

F32, INTEGER = 2e-4, 0.1  # of the largest logit
HERE = [name for name, dot in DOTS.items()
        if dot.arch == Library.default().cpu_arch and dot.feature in Library.default().cpu_features]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quantised")
    quantisable().save(path)
    return path


def expected_of(checkpoint: Checkpoint) -> Any:
    """The reference's logits [N, V], in float64, of the checkpoint's own values."""
    model = MossNet(checkpoint.config).double().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.from_numpy(checkpoint.tensors[name].f32().copy()).double())
        return model(torch.from_numpy(tokens(N_SCORED)[None]).long())[0][0].numpy()


def compiled(folder: Path, target: str, weights: str, out: Path) -> Path:
    path = out / "model.moss"
    checkpoint = Checkpoint.open(folder).with_weights(weights)
    compile_checkpoint(checkpoint, parse_target(target), path, CompileOptions(CHUNK), lambda _: None)
    return path


@pytest.mark.parametrize("row", [CPU, *ROWS], ids=lambda row: row.name)
@pytest.mark.parametrize("weights", ["q8", "q4"])
def test_every_target_computes_the_same(row: Any, weights: str, folder: Path, tmp_path: Path) -> None:
    """In floats, as the reference does with the values that the groups stand for."""
    row.require()
    expected = expected_of(Checkpoint.open(folder).with_weights(weights))
    path = compiled(folder, "cpu:dot=none" if row is CPU else row.target, weights, tmp_path)
    with CompiledModel(path, allow_native=True, device=row.device) as model, model.session() as session:
        assert worst(session.score(tokens(N_SCORED)), expected) < F32
        session.reset()
        for i, token in enumerate(tokens(N_SCORED)[:8]):
            assert worst(session.decode(int(token)), expected[i]) < F32
    kinds = {b.name: b.dtype for b in moss_file.read(path).buffers}
    assert kinds["layers.0.mlp.w1.weight"] == moss_file.DType[weights.upper()]
    assert kinds["lm_head.weight"] == moss_file.DType.Q8 and kinds["layers.0.ssm.router.weight"] == moss_file.DType.F32


@pytest.mark.parametrize("dot", HERE)
@pytest.mark.parametrize("weights", ["q8", "q4"])
def test_integers_are_close(dot: str, weights: str, folder: Path, tmp_path: Path) -> None:
    """Activations are rounded to 8 bits, and now and then another expert is chosen: of a prompt as of its tokens."""
    expected = expected_of(Checkpoint.open(folder).with_weights(weights))
    path, ids = compiled(folder, f"cpu:dot={dot}", weights, tmp_path), tokens(N_SCORED)
    with CompiledModel(path, allow_native=True) as model, model.session() as session:
        scored = session.score(ids)
        session.reset()
        decoded = [session.decode(int(token)) for token in ids]
    errors = [worst(scored[i], expected[i]) for i in range(8)]
    assert F32 < np.median(errors) < INTEGER
    assert np.median([worst(scored[i], decoded[i]) for i in range(N_SCORED)]) < F32
    assert DOTS[dot].feature in moss_file.read(path).meta["features"].split(",")


def rounded(x: Any) -> Any:
    """Rows of activations as the kernels see them: codes of 8 bits, and a scale for each group."""
    groups = x.reshape(*x.shape[:-1], -1, 32)
    scales = np.abs(groups).max(axis=-1, keepdims=True) / 127
    codes = np.rint(np.divide(groups, scales, out=np.zeros_like(groups), where=scales > 0))
    return (codes * scales).reshape(x.shape)


@pytest.mark.parametrize("dot", HERE)
@pytest.mark.parametrize("dtype", ["q8", "q4"])
@pytest.mark.parametrize("epilogue", ["none", "swiglu", "combine"])
@pytest.mark.parametrize("n_in", [64, 96])
@pytest.mark.parametrize("n_tokens", [1, 5, 16])
def test_a_product_in_integers(dot: str, dtype: str, epilogue: str, n_in: int, n_tokens: int) -> None:
    """To the last digits what the codes come to, of any number of groups; the largest activations are all there."""
    rng, E, k, n_out = np.random.default_rng(n_in), 3, 2, 41
    per_slot, valid = epilogue == "combine", max(1, n_tokens - 2)
    target = parse_target(f"cpu:dot={dot}")
    s = cpu_schedule(target)
    op = ExpertMatmul(n_tokens, E, k, n_in, n_out, n_in, per_slot, True, epilogue)  # type: ignore[arg-type]
    matrices = [rng.standard_normal((E, n_out, n_in)).astype(np.float32) * 3 for _ in range(1 + (epilogue == "swiglu"))]
    matrices[0][0, :, ::7] = 9
    quantised = [quantise(m, dtype) for m in matrices]
    x = rng.standard_normal((n_tokens, k if per_slot else 1, n_in)).astype(np.float32)
    x[0, 0, :32] = np.sign(x[0, 0, :32])  # all of one size: each code is 127 or -127
    x[0, -1, n_in // 2 :] = 0
    idx = np.array([rng.permutation(E)[:k] for _ in range(n_tokens)], np.int32)
    gates, residual = (rng.random((n_tokens, n)).astype(np.float32) for n in (k, n_out))
    values = [dequantise(q, dtype).astype(np.float64) for q in quantised]
    rows = np.broadcast_to(rounded(x.astype(np.float64)), (n_tokens, k, n_in))
    sums = [np.einsum("tjoi,tji->tjo", v[idx], rows) for v in values]
    if epilogue == "combine":
        expected = residual + np.einsum("tj,tjo->to", gates, sums[0])
    else:
        expected = sums[0] if epilogue == "none" else sums[0] / (1 + np.exp(-sums[0])) * sums[1]
    words = [pack(q, dtype, s.width).view(np.uint32).reshape(-1) for q in quantised]
    out = np.zeros_like(expected, np.float32)
    more = {"none": [], "swiglu": [words[-1]], "combine": [residual, gates]}[epilogue]
    groups = [sorted_slots(idx, E, valid)] if n_tokens > 1 else []
    arrays = [out, x, words[0], *more, idx, *groups, np.array([valid, 0], np.int32)]
    kernels = generate_op("k", op, [dtype] * len(matrices), s)
    assert DOTS[dot].feature in {kernel.feature for kernel in kernels} and len(kernels) == 1 + (n_tokens > 1)
    OneKernel(kernels, target, op_params(op, [dtype] * len(matrices), s)).run(*(a.reshape(-1) for a in arrays))
    assert worst(out[:valid].reshape(-1), expected[:valid].reshape(-1)) < 1e-5


def sorted_slots(idx: Any, n_experts: int, valid: int) -> Any:
    """What RouterTopk makes of the experts: where each one's slots begin, then the slots; those not valid are last."""
    keys = idx.reshape(-1).copy()
    keys[valid * idx.shape[1] :] = n_experts
    begins = [int((keys < e).sum()) for e in range(n_experts + 1)]
    return np.array([*begins, *np.argsort(keys, kind="stable")], np.int32)


def test_what_is_wanted_of_dot() -> None:
    assert parse_target("cpu:mcpu=x86-64-v3").dot == "avx2"  # type: ignore[attr-defined]
    assert parse_target("cpu:mcpu=x86-64-v2").dot == ""  # type: ignore[attr-defined]
    assert parse_target("cpu:arch=aarch64,mcpu=cortex-a76").dot == "dotprod"  # type: ignore[attr-defined]
    for wrong in ("cpu:dot=mmx", "cpu:arch=aarch64,dot=avx2", "cpu:mcpu=x86-64-v3,dot=avx512vnni"):
        with pytest.raises(table.UsageError, match="dot is"):
            parse_target(wrong)
