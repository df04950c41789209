"""The exported graphs against the compiled model: every mode of SPEC.md, in onnxruntime and in ONNX's own evaluator."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mossnet_tg import Model
from mossnet_tg.codegen import moss_file
from mossnet_tg.codegen.compile import compile_checkpoint
from mossnet_tg.codegen.options import CompileOptions
from mossnet_tg.engine import CompiledModel
from mossnet_tg.targets.table import parse_target
from mossnet_tg.weights.checkpoint import DEMO, Checkpoint
from mossnet_tg.weights.parameters import parameters
from tests.codegen.random_models import (
    CHUNK,
    MODES,
    N_SCORED,
    reference,
    save_with_shared_rates,
    slow_states,
    tokens,
    worst,
)

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx.reference import ReferenceEvaluator  # noqa: E402

from mossnet_tg.codegen.onnx.export import export_checkpoint  # noqa: E402

F32 = 2e-4  # of the largest value (DESIGN.md, numbers policy)
OPTIONS = CompileOptions(chunk=CHUNK, context=4 * CHUNK)
ROOT = Path(__file__).parents[2]

States = Mapping[str, Any]


def in_onnxruntime(path: Path) -> Callable[..., Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run


def in_evaluator(path: Path) -> Callable[..., Any]:
    return ReferenceEvaluator(onnx.load(path)).run


ENGINES = {"onnxruntime": in_onnxruntime, "evaluator": in_evaluator}


class Exported:
    """One sequence through the files of a folder, fed as docs/onnx.md says."""

    def __init__(self, folder: Path, load: Callable[[Path], Callable[..., Any]]) -> None:
        self.prefill_graph, self.decode_graph = (load(folder / f"{name}.onnx") for name in ("prefill", "decode"))
        graph = onnx.load(folder / "prefill.onnx", load_external_data=False).graph
        shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in graph.input}
        (self.chunk,) = shapes.pop("ids")
        self.start = {
            name: np.zeros(shape, np.int64 if name == "position" else np.float32)
            for name, shape in shapes.items()
            if name != "n_valid"
        }
        self.state = dict(self.start)

    def reset(self) -> None:
        self.state = dict(self.start)

    def _run(self, graph: Callable[..., Any], **inputs: Any) -> Any:
        logits, *state = graph(None, {**inputs, **self.state})
        self.state = dict(zip(self.state, state, strict=True))
        return logits

    def prefill(self, ids: Sequence[int]) -> Any:
        """Chunk by chunk; the last one is filled up with a token that would change the state if it counted."""
        for i in range(0, len(ids), self.chunk):
            part = np.asarray(ids[i : i + self.chunk], np.int64)
            padded = np.concatenate([part, np.full(self.chunk - len(part), 7)])
            logits = self._run(self.prefill_graph, ids=padded, n_valid=np.array([len(part)]))
        return logits

    def decode(self, token: int) -> Any:
        return self._run(self.decode_graph, ids=np.array([token]))


def states_of(session: Any, path: Path) -> States:
    """The engine's states, flat, by the names that the graphs have."""
    found = {}
    for i, buffer in enumerate(moss_file.read(path).buffers):
        if buffer.region == moss_file.Region.STATE:
            found[buffer.name] = np.empty(buffer.bytes // 4, np.float32)
            session.read(i, found[buffer.name])
    return found


def both(folder: Path) -> tuple[Path, CompiledModel]:
    """The checkpoint in `folder` exported into it, and compiled."""
    checkpoint, path = Checkpoint.open(folder), folder / "model.moss"
    compile_checkpoint(checkpoint, parse_target("cpu"), path, OPTIONS, lambda _: None)
    export_checkpoint(checkpoint, folder, OPTIONS, lambda _: None)
    return path, CompiledModel(path, allow_native=True)


def check(path: Path, engine: CompiledModel, found: Exported, ids: Any, n_decoded: int) -> None:
    """Prompts in two pieces, then tokens: logits and states are the engine's at every stop."""
    first = len(ids) - n_decoded - 3
    with engine.session(1) as session:
        steps: list[tuple[str, Any]] = [("prefill", ids[:first]), ("prefill", ids[first : first + 3])]
        steps += [("decode", int(i)) for i in ids[first + 3 :]]
        for what, argument in steps:
            expected = getattr(session, what)(argument)
            logits = getattr(found, what)(argument)
            assert logits.shape == expected.shape and worst(logits, expected) < F32, what
            states = states_of(session, path)
            assert found.state["position"].tolist() == [session.position]
            assert [*states] == [name for name in found.state if name != "position"]
            for name, state in states.items():
                assert worst(found.state[name].ravel(), state) < F32, (what, name)


@pytest.fixture(scope="module", params=MODES)
def exported(request, tmp_path_factory):
    """(folder, model file, compiled model) of one mode."""
    folder = tmp_path_factory.mktemp(request.param)
    reference(request.param).save(folder)
    path, engine = both(folder)
    with engine:
        yield folder, path, engine


def test_every_mode_in_onnxruntime(exported):
    folder, path, engine = exported
    found, ids = Exported(folder, in_onnxruntime), tokens(N_SCORED)
    check(path, engine, found, ids, n_decoded=4)
    found.reset()
    with engine.session(1) as session:
        expected = session.score(ids)
    assert worst(np.stack([found.decode(int(i)) for i in ids]), expected) < F32


def test_every_mode_in_the_evaluator(exported):
    folder, path, engine = exported
    check(path, engine, Exported(folder, in_evaluator), tokens(CHUNK + 9), n_decoded=3)


def test_every_mode_is_checked_and_inferred(exported):
    """As it is written, and as a file of opset 18."""
    folder, _, _ = exported
    for name in ("decode", "prefill"):
        onnx.checker.check_model(folder / f"{name}.onnx", full_check=True)
        model = onnx.load(folder / f"{name}.onnx", load_external_data=False)
        model.opset_import[0].version, model.ir_version = 18, 8
        onnx.save(model, folder / "older.onnx")
        onnx.checker.check_model(folder / "older.onnx", full_check=True)
        onnxruntime.InferenceSession(folder / "older.onnx")


def test_every_tensor_may_have_its_own_type(tmp_path):
    """Alternating float32, float16 and bfloat16 matrices; bfloat16 is stored as float32."""
    model, stored = reference("attention"), {}
    types = (torch.float32, torch.float16, torch.bfloat16)
    with torch.no_grad():
        for i, (name, p) in enumerate(model.named_parameters()):
            stored[name] = p.to(types[i % 3] if p.dim() > 1 and "A_log" not in name else torch.float32)
            p.copy_(stored[name].double())
    model.save(tmp_path)
    save_file({name: t.contiguous() for name, t in stored.items()}, tmp_path / "model.safetensors")
    path, engine = both(tmp_path)
    with engine:
        check(path, engine, Exported(tmp_path, in_onnxruntime), tokens(CHUNK + 7), n_decoded=2)
    kinds = {
        t.name: t.data_type for t in onnx.load(tmp_path / "decode.onnx", load_external_data=False).graph.initializer
    }
    for prefix, name, p in parameters(Checkpoint.open(tmp_path)):
        narrow = p.matrix and stored[prefix + name].dtype == torch.float16
        assert kinds[prefix + name] == (onnx.TensorProto.FLOAT16 if narrow else onnx.TensorProto.FLOAT), name


def test_slow_states_keep_their_digits(tmp_path):
    """Where Delta is small, neither it nor (a - 1) / A may be computed from what is close to 1."""
    slow_states().save(tmp_path)
    path, engine = both(tmp_path)
    with engine:
        for load in ENGINES.values():
            check(path, engine, Exported(tmp_path, load), tokens(CHUNK + 7), n_decoded=2)


def test_each_layer_shares_its_rates_or_not(tmp_path):
    save_with_shared_rates(tmp_path)
    path, engine = both(tmp_path)
    with engine:
        check(path, engine, Exported(tmp_path, in_onnxruntime), tokens(CHUNK + 7), n_decoded=2)


@pytest.mark.filterwarnings("ignore")
def test_mamba_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 37, "state_size": 7, "num_hidden_layers": 2, "vocab_size": 97, "conv_kernel": 3}
    torch.manual_seed(0)
    theirs = transformers.MambaForCausalLM(transformers.MambaConfig(**sizes)).eval()
    theirs.save_pretrained(tmp_path)
    export_checkpoint(Checkpoint.open(tmp_path), tmp_path, OPTIONS, lambda _: None)
    ids = tokens(CHUNK + 7)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids[None]).long()).logits[0].numpy()
    for load in ENGINES.values():
        found = Exported(tmp_path, load)
        assert worst(found.prefill(ids[:-1]), expected[-2]) < F32
        assert worst(found.decode(int(ids[-1])), expected[-1]) < F32


# ---- the demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder of the demo, exported."""
    folder = tmp_path_factory.mktemp("demo")
    export_checkpoint(Checkpoint.open(DEMO), folder, CompileOptions(), lambda _: None)
    return folder


@pytest.mark.parametrize(("engine", "n", "n_decoded"), [("onnxruntime", 300, 8), ("evaluator", 20, 2)])
def test_demo(demo, engine, n, n_decoded):
    model = Model.load()
    ids = np.array(model.tokenizer.encode((DEMO / "README.md").read_text())[:n], np.int32)
    assert len(ids) == n
    check(model.path, model.engine, Exported(demo, ENGINES[engine]), ids, n_decoded)


def test_greedy_text_of_the_demo(demo):
    model, prompt = Model.load(), "class Stack:"
    session, found, ids = model.session(), Exported(demo, in_onnxruntime), model.tokenizer.encode(prompt)
    ours, theirs = [session.prefill(ids)], [found.prefill(ids)]
    for _ in range(128):
        ours.append(session.decode(int(ours[-1].argmax())))
        theirs.append(found.decode(int(theirs[-1].argmax())))
    assert [int(logits.argmax()) for logits in theirs] == [int(logits.argmax()) for logits in ours]


def test_the_example_of_the_document(demo, monkeypatch, capsys):
    (example,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "onnx.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len(example.splitlines()) <= 30
    monkeypatch.chdir(demo.parent)
    exec(example.replace('"onnx/"', f'"{demo}/"'), {})
    (prompt,) = re.findall(r'encode\("(.*?)"\)', example)
    assert capsys.readouterr().out == "".join(Model.load().generate(prompt, max_tokens=64))


def test_what_the_files_say_of_themselves(demo):
    checkpoint = Checkpoint.open(DEMO)
    models = [onnx.load(demo / f"{name}.onnx", load_external_data=False) for name in ("decode", "prefill")]
    for model in models:
        meta = {p.key: p.value for p in model.metadata_props}
        assert json.loads(meta["config"]) == checkpoint.config.to_dict()
        assert meta["eos"] == ",".join(map(str, checkpoint.eos_ids))
        assert meta["model_hash"] == checkpoint.model_hash().hex()
        assert meta["producer"].startswith("mossnet-tg ") and meta["source"] == checkpoint.name
        assert {node.domain for node in model.graph.node} == {""}
    assert (demo / "tokenizer.json").read_bytes() == checkpoint.tokenizer_json


def test_weights_lie_once_in_pages_of_one_file(demo):
    """The two graphs name the same bytes, and nothing else is in the file."""
    tables = []
    for name in ("decode", "prefill"):
        tensors = onnx.load(demo / f"{name}.onnx", load_external_data=False).graph.initializer
        held = [t for t in tensors if t.data_location == onnx.TensorProto.EXTERNAL]
        tables.append({t.name: {e.key: e.value for e in t.external_data} for t in held})
    assert tables[0] == tables[1]
    assert {e["location"] for e in tables[0].values()} == {"weights.bin"}
    spans = sorted((int(e["offset"]), int(e["offset"]) + int(e["length"])) for e in tables[0].values())
    ends = [0, *(end for _, end in spans)]
    assert all(begin % 4096 == 0 and 0 <= begin - end < 4096 for (begin, _), end in zip(spans, ends, strict=False))
    assert ends[-1] == (demo / "weights.bin").stat().st_size
