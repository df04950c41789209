"""What the model reads, made from what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from mossnet_tg.model import Parameter, layer_parameters, outer_parameters
from mossnet_tg.weights.checkpoint import Checkpoint
from mossnet_tg.weights.tensors import Values


def parameters(checkpoint: Checkpoint) -> Iterator[tuple[str, str, Parameter]]:
    """(prefix, name, parameter) of everything the model reads, the outer ones first, then layer by layer."""
    c = checkpoint.config
    for name, p in outer_parameters(c).items():
        yield "", name, p
    for layer in range(c.n_layer):
        prefix = f"layers.{layer}."
        a_log = checkpoint.tensors.get(f"{prefix}ssm.A_log")  # each layer may share it among its experts or not
        for name, p in layer_parameters(c, layer, a_log.shape[0] if a_log else 0).items():
            yield prefix, name, p


def value(checkpoint: Checkpoint, prefix: str, p: Parameter) -> Values:
    """A parameter's values in the model's shape: a matrix as it is stored (`tensors.Tensor.raw`), others float32."""
    return checkpoint.tensors[prefix + p.source].raw if p.matrix and p.source else value_f32(checkpoint, prefix, p)


def value_f32(checkpoint: Checkpoint, prefix: str, p: Parameter) -> npt.NDArray[np.float32]:
    """The same, always float32."""
    if p.value is not None:
        return p.value
    assert p.source is not None
    values = checkpoint.tensors[prefix + p.source].f32()
    return p.prepare(values) if p.prepare else values
