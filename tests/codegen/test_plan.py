"""The plan: shared scratch memory, shared kernels, panels."""

from __future__ import annotations

import numpy as np
import pytest

from mossnet_tg.codegen import moss_file
from mossnet_tg.codegen.layout import Panels
from mossnet_tg.codegen.moss_file import Access, Region
from mossnet_tg.codegen.plan import Arena
from tests.codegen.random_models import MODES, compile_only, reference


def test_arena_gives_no_byte_twice_at_one_step():
    rng = np.random.default_rng(0)
    arena = Arena()
    for i in range(300):
        first = int(rng.integers(0, 100))
        size = int(rng.integers(1, 5000))
        arena.use(str(i), size, first)
        arena.use(str(i), size, first + int(rng.integers(0, 20)))
    offsets = arena.pack()
    for a in offsets:
        assert offsets[a] % 256 == 0 and offsets[a] + arena.sizes[a] <= arena.bytes
        for b in offsets:
            (a0, a1), (b0, b1) = arena.lives[a], arena.lives[b]
            if a < b and a0 <= b1 and b0 <= a1:
                assert offsets[a] + arena.sizes[a] <= offsets[b] or offsets[b] + arena.sizes[b] <= offsets[a]


def test_arena_shares_what_can_be_shared():
    arena = Arena()
    for step in range(50):
        arena.use(f"t{step}", 1000, step)
        arena.use(f"t{step}", 1000, step + 1)
    arena.pack()
    assert arena.bytes == 2 * 1024  # each is needed together with the next only


@pytest.mark.parametrize(("n", "k", "width"), [(64, 5, 32), (37, 3, 16), (1, 1, 8)])
def test_panels(n, k, width):
    array = np.arange(2 * n * k, dtype=np.float32).reshape(2, n, k)
    packed = Panels(width).pack(array)
    assert packed.size == Panels(width).n_panels(array.shape) * Panels(width).elements(k, "float32")
    for e in range(2):
        for i in range(n):
            for j in range(k):
                assert packed[e].reshape(-1)[Panels(width).index(i, j, k)] == array[e, i, j]
    assert packed.sum() == array.sum()  # what fills the last panel up is zero


@pytest.mark.parametrize("mode", list(MODES))
def test_every_step_reads_what_was_written(mode, tmp_path):
    """No step reads scratch memory that no earlier step of its entry wrote last as a buffer of the same bounds."""
    moss = moss_file.read(compile_only(reference(mode), tmp_path))
    for entry in moss.entries:
        holder: dict[int, tuple[int, int]] = {}  # byte block -> the buffer that wrote it last
        for step in moss.steps[entry.first_step : entry.first_step + entry.n_steps]:
            params = moss.kernels[step.kernel].params
            buffers = [moss.buffers[a] for a in step.args]
            for param, buffer in zip(params, buffers, strict=True):
                if buffer.region == Region.ARENA and param.access == Access.READ:
                    for block in range(buffer.offset, buffer.offset + buffer.bytes, 256):
                        assert holder.get(block) == (buffer.offset, buffer.bytes), step.label
            for param, buffer in zip(params, buffers, strict=True):
                if buffer.region == Region.ARENA and param.access & Access.WRITTEN:
                    for block in range(buffer.offset, buffer.offset + buffer.bytes, 256):
                        holder[block] = (buffer.offset, buffer.bytes)


def test_layers_share_their_kernels(tmp_path):
    """Two equal layers bring no kernel of their own."""
    moss = moss_file.read(compile_only(reference("selected"), tmp_path))
    decode = moss.steps[moss.entries[0].first_step :][: moss.entries[0].n_steps]
    by_layer = [[s.kernel for s in decode if s.label.startswith(f"layers.{i}.")] for i in range(2)]
    assert by_layer[0] == by_layer[1] and len(by_layer[0]) <= 16
