"""A Mamba as an ONNX graph for onnxruntime, written by hand: few nodes, and weights laid out as MatMul wants them.

Not what `mossnet-tg export` writes, which keeps to what many runtimes know.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_END = np.iinfo(np.int64).max


class _Graph:
    """Nodes and constants as they are added; `op` gives the name of what a node makes."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def constant(self, name: str, value: Any) -> str:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.array(value, order="C"), name)
        return name

    def integers(self, *values: int) -> str:
        return self.constant("int " + " ".join(map(str, values)), np.array(values, np.int64))

    def op(self, kind: str, *inputs: str, n_out: int = 1, **attributes: Any) -> Any:
        outputs = [f"{kind} {len(self.nodes)} {i}" for i in range(n_out)]
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, **attributes))
        return outputs[0] if n_out == 1 else outputs

    def silu(self, x: str) -> str:
        out: str = self.op("Mul", x, self.op("Sigmoid", x))
        return out

    def split(self, x: str, *sizes: int) -> Any:
        return self.op("Split", x, self.integers(*sizes), n_out=len(sizes), axis=-1)

    def slice(self, x: str, start: int, axis: int) -> str:
        """From `start` on."""
        out: str = self.op("Slice", x, self.integers(start), self.integers(_END), self.integers(axis))
        return out


def write(path: Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray[Any, Any]], one: bool) -> None:
    """ids [T], conv [L, X, W-1], ssm [L, X, N] to logits [1, V] of the last token and the states after it.

    `one`: T is 1, and there is no scan.
    """
    n_layers, N, X = (config[name] for name in ("num_hidden_layers", "state_size", "intermediate_size"))
    W, R, V = (config[name] for name in ("conv_kernel", "time_step_rank", "vocab_size"))
    g = _Graph()
    eps = g.constant("eps", np.float32(config["layer_norm_epsilon"]))

    def norm(x: str, name: str) -> str:
        mean = g.op("ReduceMean", g.op("Mul", x, x), axes=[-1], keepdims=1)
        scaled = g.op("Div", x, g.op("Sqrt", g.op("Add", mean, eps)))
        out: str = g.op("Mul", scaled, g.constant(name, tensors[name]))
        return out

    def product(x: str, name: str) -> str:
        out: str = g.op("MatMul", x, g.constant(f"{name} T", tensors[name].T))
        return out

    h = g.op("Gather", g.constant("embeddings", tensors["backbone.embeddings.weight"]), "ids", axis=0)  # [T, D]
    convs, ssms = [], []
    for layer in range(n_layers):
        prefix = f"backbone.layers.{layer}."
        mixer, index = f"{prefix}mixer.", g.constant(f"layer {layer}", np.int64(layer))
        x, z = g.split(product(norm(h, f"{prefix}norm.weight"), f"{mixer}in_proj.weight"), X, X)  # [T, X] each
        before = g.op("Gather", "conv", index, axis=0)  # [X, W-1]
        padded = g.op("Concat", before, g.op("Transpose", x, perm=[1, 0]), axis=1)  # [X, W-1+T]
        convs.append(g.op("Unsqueeze", g.slice(padded, -(W - 1), 1), g.integers(0)))
        taps = [g.constant(mixer + name, tensors[mixer + name]) for name in ("conv1d.weight", "conv1d.bias")]
        x = g.op("Conv", g.op("Unsqueeze", padded, g.integers(0)), *taps, group=X)  # [1, X, T]
        x = g.silu(g.op("Transpose", g.op("Squeeze", x, g.integers(0)), perm=[1, 0]))  # [T, X]
        d, B, C = g.split(product(x, f"{mixer}x_proj.weight"), R, N, N)
        bias = g.constant(f"{mixer}dt_proj.bias", tensors[f"{mixer}dt_proj.bias"])
        delta = g.op("Softplus", g.op("Add", product(d, f"{mixer}dt_proj.weight"), bias))  # [T, X]
        A = g.constant(f"{mixer}A", -np.exp(tensors[f"{mixer}A_log"]))
        decay = g.op("Exp", g.op("Mul", g.op("Unsqueeze", delta, g.integers(-1)), A))  # [T, X, N]
        driven = g.op("Unsqueeze", g.op("Mul", delta, x), g.integers(-1))
        driven = g.op("Mul", driven, g.op("Unsqueeze", B, g.integers(1)))  # [T, X, N]
        state = g.op("Gather", "ssm", index, axis=0)  # [X, N]
        if one:
            decay, driven = (g.op("Squeeze", v, g.integers(0)) for v in (decay, driven))
            state = g.op("Add", g.op("Mul", decay, state), driven)
            y = g.op("Transpose", g.op("MatMul", state, g.op("Transpose", C, perm=[1, 0])), perm=[1, 0])  # [1, X]
        else:
            inputs = [state, decay, driven, C]
            state, y = g.op("Scan", *inputs, n_out=2, body=_scan(layer, X, N), num_scan_inputs=3)
        ssms.append(g.op("Unsqueeze", state, g.integers(0)))
        y = g.op("Add", y, g.op("Mul", x, g.constant(f"{mixer}D", tensors[f"{mixer}D"])))
        h = g.op("Add", h, product(g.op("Mul", y, g.silu(z)), f"{mixer}out_proj.weight"))
    last = norm(g.slice(h, -1, 0), "backbone.norm_f.weight")
    head = g.constant("head", tensors["backbone.embeddings.weight"].T)
    g.nodes.append(helper.make_node("MatMul", [last, head], ["logits"]))
    g.nodes.append(helper.make_node("Concat", convs, ["conv after"], axis=0))
    g.nodes.append(helper.make_node("Concat", ssms, ["ssm after"], axis=0))

    def of(name: str, *shape: int | str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    states = (n_layers, X, W - 1), (n_layers, X, N)
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [1 if one else "T"])
    graph = helper.make_graph(
        g.nodes,
        "mamba",
        [ids, of("conv", *states[0]), of("ssm", *states[1])],
        [of("logits", 1, V), of("conv after", *states[0]), of("ssm after", *states[1])],
        list(g.constants.values()),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"weights_bytes": str(sum(t.nbytes for t in tensors.values()))})
    onnx.save(model, path)


def _scan(layer: int, X: int, N: int) -> Any:
    """A step of the recurrence: state, decay and drive [X, N], C [N] to the state and y [X]."""

    def of(name: str, *shape: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    nodes = [
        helper.make_node("Mul", ["decay", "state"], ["kept"]),
        helper.make_node("Add", ["kept", "driven"], ["next"]),
        helper.make_node("MatMul", ["next", "C"], ["y"]),
    ]
    inputs = [of("state", X, N), of("decay", X, N), of("driven", X, N), of("C", N)]
    return helper.make_graph(nodes, f"scan {layer}", inputs, [of("next", X, N), of("y", X)])
