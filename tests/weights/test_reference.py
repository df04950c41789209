"""The PyTorch reference against SPEC.md: its identities, its two code paths, gradients, files. Tiny, float64."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional  # noqa: E402

from mossnet_tg.config import Config  # noqa: E402
from mossnet_tg.errors import MossnetError  # noqa: E402
from mossnet_tg.weights.reference import scan_native  # noqa: E402
from mossnet_tg.weights.reference.experts import combine, dispatch, grouped_linear, products_in, route  # noqa: E402
from mossnet_tg.weights.reference.model import MossNet, TimeMix, first_argmax, rms_norm  # noqa: E402
from mossnet_tg.weights.reference.scan import Slots, routed_scan  # noqa: E402

torch.set_num_threads(1)  # for tensors this small more threads only wait for each other

ZOH_NORMED = {"discretization": "zoh", "dt_bc_norm": True}
SSM: dict[str, dict[str, Any]] = {
    "selected": {"n_experts": 4, "top_k": 2},
    "all": {"n_experts": 4, "top_k": 2, "state_update": "all"},
    "param_mix": {"n_experts": 4, "top_k": 2, "mode": "param_mix"},
    "selected-zoh": {"n_experts": 4, "top_k": 2, "discretization": "zoh"},
    "all-zoh-normed": {"n_experts": 3, "top_k": 2, "state_update": "all", **ZOH_NORMED},
    "param_mix-zoh-normed": {"n_experts": 4, "top_k": 3, "mode": "param_mix", **ZOH_NORMED},
    "dense-unbiased": {"conv_bias": False, "d_conv": 2},
    "no-conv": {"d_conv": 1, "n_experts": 2},
}
MLP: dict[str, dict[str, Any] | None] = {
    "moe": {"d_ff": 7, "n_experts": 4, "top_k": 2},
    "dense": {"d_ff": 7},
    "none": None,
}
HEADS = {"n_heads": 4, "n_kv_heads": 2, "head_dim": 6}
SWA: dict[str, dict[str, Any]] = {
    "none": {},
    "ring": {"layers": [0, 1], "window": 3, **HEADS},
    "all": {"layers": [1], "window": None, "rope_theta": None, **HEADS},
    "replacing": {"layers": [1], "window": 4, "replaces_time_mix": True, **HEADS},
}


def config(**keys: Any) -> Config:
    small = {"d_state": 3, "dt_rank": 2, **keys.pop("ssm", {})}
    base = {"model_type": "mossnet", "d_model": 10, "n_layer": 2, "vocab_size": 23}
    return Config.from_dict({**base, "ssm": small, **keys})


def make(c: Config, seed: int = 0, **keys: Any) -> MossNet:
    """A float64 model whose every parameter is random, also those that start at a constant."""
    torch.manual_seed(seed)
    model = MossNet(c, **keys).double()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn_like(p)
    return model


def tokens(model: MossNet, n: int = 9, batch: int = 2) -> torch.Tensor:
    return torch.randint(model.config.vocab_size, (batch, n), generator=torch.Generator().manual_seed(1))


def stepped(model: MossNet, ids: torch.Tensor) -> tuple[torch.Tensor, Any]:
    state = model.init_state(len(ids))
    return torch.stack([model.step(column, state) for column in ids.T], 1), state


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-11) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def same_experts(model: MossNet) -> None:
    """Give all experts of a layer the parameters of the first; the router stays as it is."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".ssm." in name and ("x_proj" in name or "dt_proj" in name or "A_log" in name):
                p.copy_(p[:1].expand_as(p))


def moved(model: MossNet, c: Config) -> MossNet:
    """The weights of `model` under another configuration: stacks cut to its experts, tensors it lacks left out."""
    other = make(c)
    own = model.state_dict()
    other.load_state_dict({name: own[name][: len(t)] for name, t in other.state_dict().items()})
    return other


@pytest.mark.parametrize(("ssm", "mlp", "swa"), list(itertools.product(SSM, MLP, SWA)))
def test_step_form_equals_sequence_form_at_every_chunk_boundary(ssm: str, mlp: str, swa: str) -> None:
    """Identity 4."""
    model = make(config(ssm=SSM[ssm], mlp=MLP[mlp], swa=SWA[swa], tie_embeddings=swa == "none"))
    ids = tokens(model)
    with torch.no_grad():
        whole, last = model(ids)
        one_by_one, state = stepped(model, ids)
        close(whole, one_by_one)
        for cut in (1, 4, 8):
            first, between = model(ids[:, :cut])
            second, end = model(ids[:, cut:], between)
            close(whole, torch.cat([first, second], 1))
            states = [(s.conv, s.ssm, *s.kv) for s in (last, end, state)]
            for a, b, c in zip(*states, strict=True):
                close(a, b)
                close(a, c)
            assert last.position == end.position == state.position == 9
        padded, _ = model(torch.cat([ids[:, :6], torch.zeros_like(ids[:, :3])], 1))
        close(whole[:, :6], padded[:, :6])  # what follows changes nothing


@pytest.mark.parametrize("mode", ["separate_state", "param_mix"])
def test_one_expert_is_dense_mamba_of_transformers(mode: str) -> None:
    """Identity 1, judged by code that is not ours."""
    transformers = pytest.importorskip("transformers")
    model = make(config(ssm={"d_state": 4, "mode": mode}, mlp=None))
    c = model.config
    theirs = transformers.MambaForCausalLM(
        transformers.MambaConfig(
            vocab_size=c.vocab_size,
            hidden_size=c.d_model,
            state_size=4,
            num_hidden_layers=c.n_layer,
            layer_norm_epsilon=c.norm_eps,
            time_step_rank=2,
            use_bias=False,
            use_conv_bias=True,
        )
    ).double()
    weights = {}
    for name, t in model.state_dict().items():
        name = name.replace("embed.", "embeddings.").replace(".ssm.norm.", ".norm.").replace(".ssm.", ".mixer.")
        if ".conv." in name:
            t = t[:, None] if t.dim() == 2 else t
        elif any(part in name for part in ("x_proj", "dt_proj", "A_log")):
            t = t[0]
        weights["backbone." + name.replace(".conv.", ".conv1d.")] = t
    missing = theirs.load_state_dict(weights, strict=False)
    assert (missing.missing_keys, missing.unexpected_keys) in (([], []), (["lm_head.weight"], []))
    theirs.tie_weights()
    with torch.no_grad():
        close(model(tokens(model))[0], theirs(tokens(model)).logits.double(), 2e-5)  # theirs keeps float32 inside


def test_one_expert_makes_both_modes_equal() -> None:
    """Identity 1 between our two modes, whatever the discretization."""
    for extra in ({}, {"discretization": "zoh"}, {"dt_bc_norm": True}):
        model = make(config(ssm={**extra}))
        close(model(tokens(model))[0], moved(model, config(ssm={**extra, "mode": "param_mix"}))(tokens(model))[0])


def test_identical_experts_are_one_expert() -> None:
    """Identity 2."""
    for extra in ({}, {"discretization": "zoh"}):
        many = {"n_experts": 4, "top_k": 2, **extra}
        model = make(config(ssm={**many, "state_update": "all"}))
        same_experts(model)
        ids = tokens(model)
        mixed = moved(model, config(ssm={**many, "mode": "param_mix"}))
        dense = moved(model, config(ssm=extra))
        close(model(ids)[0], mixed(ids)[0])
        close(model(ids)[0], dense(ids)[0])
        selected = moved(model, config(ssm=many))
        assert not torch.allclose(selected(ids)[0], dense(ids)[0], atol=1e-4), "unselected experts should stand still"


def explicit(mix: TimeMix, u: torch.Tensor) -> torch.Tensor:
    """TimeMix of u (B, T, D) from the sum of SPEC.md's identity 5: linear attention written out, no recurrence."""
    ssm, n, x_size = mix.ssm, u.shape[1], mix.config.d_inner
    c, z = (u @ mix.in_proj.weight.T).split(x_size, -1)
    padded = functional.pad(c.transpose(1, 2), (ssm.d_conv - 1, 0))
    conv = functional.conv1d(padded, mix.conv.weight[:, None], mix.conv.bias, groups=x_size)
    x = functional.silu(conv.transpose(1, 2))
    p = (u @ mix.router.weight.T).softmax(-1)
    y = torch.zeros_like(x)
    for row in range(len(u)):
        chosen = [sorted(range(ssm.n_experts), key=lambda i, q=q: (-q[i], i))[: ssm.top_k] for q in p[row].tolist()]
        for i in range(ssm.n_experts):
            d, b, cc = (x[row] @ mix.x_proj.weight[i].T).split([mix.config.dt_rank, ssm.d_state, ssm.d_state], -1)
            delta = functional.softplus(d @ mix.dt_proj.weight[i].T + mix.dt_proj.bias[i])  # (T, X)
            if ssm.state_update == "selected":
                delta = delta * torch.tensor([[i in s] for s in chosen])  # standing still is Delta = 0
            a = -mix.A_log[i].exp()  # (X, N)
            for t in range(n):
                if i not in chosen[t]:
                    continue
                gate = p[row, t, i] / p[row, t, chosen[t]].sum()
                for j in range(t + 1):
                    decay = torch.exp(delta[j + 1 : t + 1].sum(0)[:, None] * a)  # (X, N), the product of a_m
                    y[row, t] += gate * (decay * cc[t] * b[j]).sum(-1) * delta[j] * x[row, j]
    return ((y + mix.D * x) * functional.silu(z)) @ mix.out_proj.weight.T


@pytest.mark.parametrize("ssm", ["selected", "all"])
def test_time_mix_is_explicit_gated_linear_attention(ssm: str) -> None:
    """Identity 5."""
    model = make(config(ssm=SSM[ssm], n_layer=1))
    mix, state = model.layers[0].ssm, model.init_state(2)
    u = torch.randn(2, 6, 10, dtype=torch.float64)
    with torch.no_grad():
        found, *_ = mix(u, state.conv[0], state.ssm[0], routed_scan)
        close(found, explicit(mix, u))


def test_all_experts_selected_is_a_sum_of_independently_gated_scans() -> None:
    """Identity 3: each expert alone, as a dense model of one layer, its y gated by hand."""
    model = make(config(ssm={"n_experts": 3, "top_k": 3}, n_layer=1))
    mix, state = model.layers[0].ssm, model.init_state(2)
    u = torch.randn(2, 7, 10, dtype=torch.float64)
    gate = (u @ mix.router.weight.T).softmax(-1)  # (B, T, E): all are selected, so their sum is 1
    with torch.no_grad():
        dense = moved(model, config(n_layer=1)).layers[0].ssm
        dense.D.zero_()
        dense.out_proj.weight = torch.nn.Parameter(torch.eye(20, dtype=torch.float64))
        total = torch.zeros(2, 7, 20, dtype=torch.float64)
        for i in range(3):
            for own, of_all in ((dense.x_proj, mix.x_proj), (dense.dt_proj, mix.dt_proj)):
                own.weight.copy_(of_all.weight[i : i + 1])
            dense.dt_proj.bias.copy_(mix.dt_proj.bias[i : i + 1])
            dense.A_log.copy_(mix.A_log[i : i + 1])
            y, *_ = dense(u, state.conv[0], state.ssm[0, :, :1], routed_scan)  # y * SiLU(z): both are linear in y
            total += gate[..., i : i + 1] * y
        skip = moved(model, config(n_layer=1)).layers[0].ssm
        skip.D.copy_(mix.D)
        skip.out_proj.weight = dense.out_proj.weight
        skip.x_proj.weight.zero_()  # B = 0: nothing but the skip is left
        total += skip(u, state.conv[0], state.ssm[0, :, :1], routed_scan)[0]
        close(mix(u, state.conv[0], state.ssm[0], routed_scan)[0], total @ mix.out_proj.weight.T)


def test_attention_is_torch_attention_over_the_window() -> None:
    """No position encoding: scaled_dot_product_attention with the window as a mask."""
    swa = {"layers": [0], "window": 3, "rope_theta": None, **HEADS}
    model = make(config(swa=swa, n_layer=1))
    part = model.layers[0].swa
    u = torch.randn(2, 8, 10, dtype=torch.float64)
    q, k, v = ((u @ w.weight.T).unflatten(-1, (-1, 6)).transpose(1, 2) for w in (part.q_proj, part.k_proj, part.v_proj))
    age = torch.arange(8)[:, None] - torch.arange(8)
    expected = functional.scaled_dot_product_attention(q, k, v, attn_mask=(age >= 0) & (age < 3), enable_gqa=True)
    found, _ = part(u, model.init_state(2).kv[0], 0)
    close(found, expected.transpose(1, 2).flatten(2) @ part.o_proj.weight.T)


def test_rope_is_that_of_transformers() -> None:
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    from mossnet_tg.weights.reference.attention import rotate

    q = torch.randn(1, 2, 5, 8)
    position = torch.tensor([0, 1, 7, 100, 1000])
    angle = position[:, None] * 10000.0 ** -(torch.arange(4) / 4)
    both = torch.cat([angle, angle], -1)[None]
    close(rotate(q, position, 10000.0), llama.apply_rotary_pos_emb(q, q, both.cos(), both.sin())[0], 1e-4)
    assert rotate(q, position, None) is q


def test_top_k_ties_go_to_the_lowest_index() -> None:
    logits = torch.tensor([[1.0, 3.0, 1.0, 3.0, 3.0], [0.0, 0.0, 0.0, 0.0, 0.0], [-1.0, 0.0, 5.0, 0.0, 5.0]])
    _, gate, expert = route(logits, 3, True)
    assert expert.tolist() == [[1, 3, 4], [0, 1, 2], [2, 4, 1]]
    close(gate.sum(-1), torch.ones(3), 1e-6)
    p, raw, _ = route(logits, 2, False)
    close(raw, p.gather(-1, expert[:, :2]), 1e-7)
    _, _, many = route(torch.zeros(1, 5000), 4000, True)  # long enough for a sort that is not stable to show
    assert many.tolist() == [list(range(4000))]


def test_greedy_takes_the_lowest_of_equal_logits_and_goes_on_as_forward_would() -> None:
    model = make(config(mlp=MLP["moe"], ssm=SSM["selected"]))
    ids = tokens(model, 4)
    found = model.generate_greedy(ids, 6)
    for i in range(6):
        assert torch.equal(found[:, i], model(torch.cat([ids, found[:, :i]], 1))[0][:, -1].argmax(-1))
    assert model.generate_greedy(ids, 0).shape == (2, 0)
    with torch.no_grad():
        model.embed.weight.zero_()  # every logit is 0
    assert model.generate_greedy(ids, 2).tolist() == [[0, 0], [0, 0]]
    assert first_argmax(torch.tensor([[1.0, 2.0] * 3000, [2.0, 1.0] * 3000])).tolist() == [1, 0]


def test_state_shapes_are_those_of_the_specification() -> None:
    for name, states in (("selected", 4), ("all", 4), ("param_mix", 1)):
        model = make(config(ssm=SSM[name], swa=SWA["ring"]))
        _, state = model(tokens(model))
        assert state.conv.shape == (2, 2, 20, 3)
        assert state.ssm.shape == (2, 2, states, 20, 3)
        assert [kv.shape for kv in state.kv] == [(2, 2, 2, 3, 6)] * 2


def test_tensor_names_and_shapes_are_those_of_the_specification() -> None:
    ssm = {"n_experts": 4, "top_k": 2, "dt_bc_norm": True}
    model = make(config(ssm=ssm, mlp=MLP["moe"], swa=SWA["ring"], tie_embeddings=False, n_layer=2))
    found = {name: list(t.shape) for name, t in model.state_dict().items()}
    layer = {
        "ssm.norm.weight": [10],
        "ssm.in_proj.weight": [40, 10],
        "ssm.conv.weight": [20, 4],
        "ssm.conv.bias": [20],
        "ssm.router.weight": [4, 10],
        "ssm.x_proj.weight": [4, 8, 20],
        "ssm.dt_proj.weight": [4, 20, 2],
        "ssm.dt_proj.bias": [4, 20],
        "ssm.A_log": [4, 20, 3],
        "ssm.D": [20],
        "ssm.dt_norm.weight": [2],
        "ssm.b_norm.weight": [3],
        "ssm.c_norm.weight": [3],
        "ssm.out_proj.weight": [10, 20],
        "mlp.norm.weight": [10],
        "mlp.router.weight": [4, 10],
        "mlp.w1.weight": [4, 7, 10],
        "mlp.w3.weight": [4, 7, 10],
        "mlp.w2.weight": [4, 10, 7],
        "swa.norm.weight": [10],
        "swa.q_proj.weight": [24, 10],
        "swa.k_proj.weight": [12, 10],
        "swa.v_proj.weight": [12, 10],
        "swa.o_proj.weight": [10, 24],
    }
    expected = {f"layers.{i}.{name}": shape for i in range(2) for name, shape in layer.items()}
    assert found == {**expected, "embed.weight": [23, 10], "norm_f.weight": [10], "lm_head.weight": [23, 10]}


@pytest.mark.parametrize("shared_a", [False, True])
def test_save_and_load_round_trip(tmp_path: Path, shared_a: bool) -> None:
    model = make(config(ssm=SSM["selected"], mlp=MLP["moe"], swa=SWA["ring"], tie_embeddings=False), shared_a=shared_a)
    model = model.float().double()  # what a checkpoint can hold
    model.save(tmp_path)
    model.save(tmp_path)  # over itself
    again = MossNet.load(tmp_path, torch.float64)
    assert again.config == model.config
    assert all(torch.equal(t, again.state_dict()[name]) for name, t in model.state_dict().items())
    assert again.layers[0].ssm.A_log.shape == (1 if shared_a else 4, 20, 3)
    close(model(tokens(model))[0], again(tokens(model))[0])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_16_bit_checkpoints_keep_what_is_sensitive(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = make(config(ssm=SSM["selected"], mlp=MLP["moe"]))
    model.save(tmp_path, torch.float16)
    tensors = load_file(tmp_path / "model.safetensors")
    half = {re.sub(r"^layers\.\d\.", "", name) for name, t in tensors.items() if t.dtype == torch.float16}
    matrices = {"ssm.in_proj.weight", "ssm.x_proj.weight", "ssm.dt_proj.weight", "ssm.out_proj.weight"}
    assert half == matrices | {"embed.weight", "mlp.w1.weight", "mlp.w2.weight", "mlp.w3.weight"}
    ids = tokens(model)
    raised = MossNet.load(tmp_path)
    stored = MossNet.load(tmp_path, torch.float16)
    assert stored(ids)[0].dtype == raised(ids)[0].dtype == torch.float32
    close(stepped(raised, ids)[0], raised(ids)[0], 1e-3)
    with torch.no_grad():
        assert float((raised(ids)[0] - model.float()(ids)[0]).abs().max()) < 0.1


def test_a_broken_checkpoint_is_refused_with_the_tensor_named(tmp_path: Path) -> None:
    """By the reader that test_checkpoint.py tries with every kind of damage."""
    from safetensors.torch import load_file, save_file

    make(config(ssm=SSM["selected"])).save(tmp_path)
    weights = {name: t.clone() for name, t in load_file(tmp_path / "model.safetensors").items()}
    del weights["layers.1.ssm.D"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(MossnetError, match=r"'layers.1.ssm.D' is missing"):
        MossNet.load(tmp_path)


def scan_inputs(dtype: torch.dtype, channels: int) -> tuple[list[torch.Tensor], Slots]:
    g = torch.Generator().manual_seed(3)
    batch, n, k, experts, states = 2, 70, 2, 4, 5  # 70 tokens: more than two of scan.c's chunks

    def random(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, dtype=dtype, generator=g)

    expert = torch.rand(batch, n, experts, generator=g).argsort(-1)[..., :k]
    slots = Slots.of(expert, experts, block=16)
    rows = len(slots.token)
    inputs = [
        random(rows, channels),
        random(rows, states) - 0.5,
        random(rows, states) - 0.5,
        random(batch, n, channels) - 0.5,
        -random(experts, channels, states) - 0.1,
        random(batch, n, k),
        random(batch, experts, channels, states) - 0.5,
    ]
    return [t.requires_grad_() for t in inputs], slots


needs_compiler = pytest.mark.skipif(scan_native.compiler() is None, reason="no C compiler (cc or gcc) in PATH")


@needs_compiler
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
@pytest.mark.parametrize("channels", [32, 21])
def test_compiled_scan_equals_the_loop_with_all_gradients(dtype: torch.dtype, tolerance: float, channels: int) -> None:
    inputs, slots = scan_inputs(dtype, channels)
    results = []
    for scan in (routed_scan, scan_native.native_scan):
        y, last = scan(*inputs[:6], slots, inputs[6])
        grads = torch.autograd.grad(y.sin().sum() + last.cos().sum(), inputs)
        results.append((y, last, *grads))
    for plain, compiled in zip(*results, strict=True):
        close(compiled, plain, tolerance)


@needs_compiler
def test_training_form_equals_the_plain_model_with_all_gradients() -> None:
    """Filled-up groups and the compiled scan, as train.py runs them, but in float64."""
    model = make(config(ssm=SSM["selected"], mlp=MLP["moe"]))
    ids, grads = tokens(model), []
    for native in (False, True):
        model.zero_grad()
        if native:
            with products_in(torch.float64):
                hidden, _, routings = model.run(ids, scan=scan_native.native_scan)
                out = model.logits(hidden)
                out.sin().sum().backward()
        else:
            out, _ = model(ids)
            out.sin().sum().backward()
        grads.append([out, *(p.grad for p in model.parameters())])
    for plain, fast in zip(*grads, strict=True):
        close(plain, fast, 1e-10)
    assert len(routings) == 4 and routings[0].p.shape == (2, 9, 4)


def test_grouped_products_are_what_autograd_makes_of_indexing() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 6, 3, dtype=torch.float64, requires_grad=True)
    gate = torch.rand(2, 5, 2, dtype=torch.float64, requires_grad=True)
    expert = torch.rand(2, 5, 4).argsort(-1)[..., :2]
    expected = torch.einsum("btk,btkof,btf->bto", gate, weight[expert], x)
    for block in (1, 8):
        slots = Slots.of(expert, 4, block)
        assert all(n % block == 0 for n in slots.n_rows) and len(slots.token) == sum(slots.n_rows)
        found = combine(grouped_linear(dispatch(x, slots), weight, slots), gate, slots)
        close(found, expected)
        grads = [torch.autograd.grad(v.sin().sum(), (x, weight, gate), retain_graph=True) for v in (found, expected)]
        for a, b in zip(*grads, strict=True):
            close(a, b)


def test_products_in_a_lower_type_are_only_lowered_inside() -> None:
    model = make(config(ssm=SSM["selected"], mlp=MLP["moe"])).float()
    ids = tokens(model)
    with torch.no_grad():
        exact, _ = model(ids)
        with products_in(torch.bfloat16):
            lowered, _ = model(ids)
        assert torch.equal(exact, model(ids)[0])
    assert lowered.dtype == torch.float32 and not torch.equal(exact, lowered)


def test_norms_are_float32_for_16_bit_weights() -> None:
    x, weight = torch.randn(3, 8), torch.randn(8).half()
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.float()
    assert rms_norm(x, weight, 1e-5).dtype == torch.float32
    close(rms_norm(x, weight, 1e-5), expected, 1e-6)
