"""Make the demo: a tokenizer and a small MossNet of the Python standard library's text, trained on one CPU core.

    python -m mossnet_tg.weights.reference.train --work build/demo --out weights/demo

An interrupted run goes on from the last checkpoint in --work. A run with the same options on the same Python and
torch sees the same batches; how many, with --minutes, is up to the machine.

With glibc, MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=16000000000 in the environment keeps freed memory, and its pages
need not be made anew in every step: about a sixth of the time where it was measured.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from mossnet_tg.config import Config
from mossnet_tg.errors import MossnetError, UsageError
from mossnet_tg.weights.reference import corpus
from mossnet_tg.weights.reference.checkpoint import is_sensitive, write_atomically
from mossnet_tg.weights.reference.experts import products_in
from mossnet_tg.weights.reference.model import MossNet, Routing
from mossnet_tg.weights.reference.scan import Scan
from mossnet_tg.weights.reference.scan_native import native_scan

CONFIG = Config.from_dict(
    {
        "model_type": "mossnet",
        "d_model": 192,
        "n_layer": 5,
        "vocab_size": 2048,
        "ssm": {"n_experts": 8, "top_k": 2},
        "mlp": {"d_ff": 112, "n_experts": 8, "top_k": 2},
    }
)
PROMPTS = ("def fibonacci(n):", "import os\n", "class Stack:", "    def __init__(self", "for i in range(")
SAMPLE_TOKENS = 120
BALANCE = 0.01  # weight of the load-balancing loss, as in Switch Transformers


@dataclass
class Progress:
    """Where a run stands; kept in the checkpoint."""

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0


@dataclass(frozen=True)
class Loss:
    """The loss on some text."""

    nats_per_token: float
    bits_per_byte: float
    n_tokens: int


def load_balance(routings: list[Routing]) -> Tensor:
    """Mean over routers of E * sum_e (share of slots of e) * (mean probability of e): 1 when even, E at worst."""
    losses = []
    for r in routings:
        n = r.p.shape[-1]
        share = torch.bincount(r.expert.flatten(), minlength=n) / r.expert.numel()  # (E,)
        losses.append(n * (share * r.p.mean((0, 1))).sum())
    return torch.stack(losses).mean()


def batch_at(tokens: Tensor, step: int, args: argparse.Namespace) -> Tensor:
    """The batch of a step, (batch, seq + 1): crops at random places; a function of seed and step, so runs resume."""
    generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
    start = torch.randint(len(tokens) - args.seq, (args.batch, 1), generator=generator)
    return tokens[start + torch.arange(args.seq + 1)]


def share_done(progress: Progress, args: argparse.Namespace) -> float:
    """How much of the schedule is over, 0 to 1: by the clock with --minutes, else by steps."""
    share = progress.seconds / (60 * args.minutes) if args.minutes is not None else progress.step / args.steps
    return min(1.0, float(share))


def learning_rate(step: int, done: float, args: argparse.Namespace) -> float:
    """A cosine from --lr down to 1 % of it at the end of the schedule, times a linear warm-up."""
    warm = min(1.0, (step + 1) / args.warmup)
    return float(args.lr * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))))


def losses(model: MossNet, batch: Tensor, scan: Scan | None) -> tuple[Tensor, list[Routing]]:
    """Cross entropy in nats (B, T) of each next token of batch (B, T+1), and the routers' decisions."""
    hidden, _, routings = model.run(batch[:, :-1], scan=scan)
    logits = model.logits(hidden)
    target = batch[:, 1:]
    nats = functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
    return nats.view_as(target), routings


@torch.no_grad()
def evaluate(model: MossNet, tokens: Tensor, lengths: list[int], n_tokens: int, seq: int, scan: Scan | None) -> Loss:
    """The loss on about n_tokens, in float32: crops evenly spread over the text, each from the zero state."""
    n_crops = max(1, n_tokens // seq)
    starts = torch.linspace(0, len(tokens) - seq - 1, n_crops).long()
    bytes_of = torch.tensor(lengths)
    nats, n_bytes = 0.0, 0
    for some in torch.split(starts, 8):
        batch = tokens[some[:, None] + torch.arange(seq + 1)]
        nats += float(losses(model, batch, scan)[0].double().sum())
        n_bytes += int(bytes_of[batch[:, 1:]].sum())
    return Loss(nats / (n_crops * seq), nats / math.log(2) / n_bytes, n_crops * seq)


def prepare(work: Path, vocab_size: int) -> tuple[Tokenizer, Tensor, Tensor]:
    """The tokenizer, the training tokens and the held-out tokens, made once and kept in `work`."""
    work.mkdir(parents=True, exist_ok=True)
    tokenizer_file = work / "tokenizer.json"
    if not tokenizer_file.exists():
        write_atomically(tokenizer_file, corpus.train_tokenizer(vocab_size).to_str().encode())
    tokenizer: Tokenizer = Tokenizer.from_file(str(tokenizer_file))
    streams = []
    for name, held_out in (("train", False), ("held_out", True)):
        file = work / f"{name}.npy"
        if not file.exists():
            np.save(file, corpus.tokens(tokenizer, held_out))
        streams.append(torch.from_numpy(np.load(file).astype(np.int64)))
    return tokenizer, streams[0], streams[1]


def make_optimizer(model: MossNet, args: argparse.Namespace) -> torch.optim.AdamW:
    """AdamW; weight decay on the matrices only."""
    named = list(model.named_parameters())
    groups = [
        {"params": [p for n, p in named if not is_sensitive(n)], "weight_decay": args.weight_decay},
        {"params": [p for n, p in named if is_sensitive(n)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.95), fused=True)


def save_checkpoint(file: Path, model: MossNet, optimizer: torch.optim.AdamW, progress: Progress) -> None:
    """Replace the checkpoint as a whole."""
    new = file.with_suffix(".new")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "progress": vars(progress)}, new)
    new.replace(file)


def train(model: MossNet, tokens: Tensor, scan: Scan | None, args: argparse.Namespace, file: Path) -> Progress:
    """Train to the end of the schedule, from the checkpoint `file` where there is one."""
    optimizer, progress = make_optimizer(model, args), Progress()
    if file.exists():
        found: dict[str, Any] = torch.load(file, weights_only=True)
        model.load_state_dict(found["model"])
        optimizer.load_state_dict(found["optimizer"])
        progress = Progress(**found["progress"])
    start = last = saved = time.monotonic()
    seconds, shown = progress.seconds, progress.step
    total = balance = 0.0
    while (done := share_done(progress, args)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress.step, done, args)
        with products_in(torch.bfloat16) if args.bfloat16 else contextlib.nullcontext():
            each, routings = losses(model, batch_at(tokens, progress.step, args), scan)
            loss, even = each.mean(), load_balance(routings)
            torch.autograd.backward(loss + BALANCE * even)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        progress.step += 1
        progress.tokens += args.batch * args.seq
        total, balance = total + loss.item(), balance + even.item()
        now = time.monotonic()
        progress.seconds = seconds + now - start
        done = share_done(progress, args)
        if progress.step % args.report == 0 or done == 1:
            n = progress.step - shown
            print(
                f"step {progress.step}  loss {total / n:.4f}  balance {balance / n:.3f}  "
                f"{n * args.batch * args.seq / (now - last):.0f} tok/s  "
                f"{progress.seconds * (1 / done - 1) / 60:.1f} min left",
                flush=True,
            )
            last, shown, total, balance = now, progress.step, 0.0, 0.0
        if now - saved > args.save_every or done == 1:
            save_checkpoint(file, model, optimizer, progress)
            saved = time.monotonic()
    return progress


def samples(model: MossNet, tokenizer: Tokenizer, n: int) -> list[tuple[str, str]]:
    """(prompt, greedy continuation of n tokens) for each of PROMPTS."""
    out = []
    for prompt in PROMPTS:
        ids = torch.tensor([tokenizer.encode(prompt).ids])
        out.append((prompt, tokenizer.decode(model.generate_greedy(ids, n)[0].tolist(), skip_special_tokens=False)))
    return out


def readme(
    model: MossNet,
    held_out: Loss,
    trained_on: Loss,
    seq: int,
    progress: Progress,
    n_train: int,
    greedy: list[tuple[str, str]],
    command: str,
) -> str:
    """The demo's README, numbers and samples as measured."""
    c = model.config
    assert c.mlp is not None
    total = sum(p.numel() for p in model.parameters())
    table = {
        "shape": f"d_model {c.d_model}, {c.n_layer} layers, top-{c.ssm.top_k} of {c.ssm.n_experts} state-space experts "
        f"(N {c.ssm.d_state}), top-{c.mlp.top_k} of {c.mlp.n_experts} MLP experts (d_ff {c.mlp.d_ff}), tied embeddings",
        "parameters": f"{total:,}",
        "stored as": "float16 matrices; float32 A_log, D, biases, norms, convolutions and routers",
        "tokenizer": f"byte-level BPE, {c.vocab_size} tokens; token 0 is `{corpus.END_OF_TEXT}`, before each file",
        "training": f"{progress.tokens:,} tokens ({progress.tokens / n_train:.1f} passes over {n_train:,}), "
        f"{progress.step} steps, {progress.seconds / 60:.0f} minutes on one CPU core",
        "held-out loss": f"**{held_out.nats_per_token:.4f} nats/token, {held_out.bits_per_byte:.4f} bits/byte** "
        f"({held_out.n_tokens:,} tokens, with these float16 weights)",
        "the same on training text": f"{trained_on.nats_per_token:.4f} nats/token, "
        f"{trained_on.bits_per_byte:.4f} bits/byte ({trained_on.n_tokens:,} tokens)",
    }
    rows = "\n".join(f"| {key} | {value} |" for key, value in table.items())
    shown = "\n\n".join(f"Prompt `{prompt!r}`:\n\n```python\n{prompt}{text.rstrip()}\n```" for prompt, text in greedy)
    return f"""# The demo model

A small MossNet, really trained: it exists so that every target can be tested with text that a person can judge, not
to be useful. Made by `weights/reference/train.py`, which wrote this page too.

| | |
|---|---|
{rows}

Command: `{command}`

(Python {platform.python_version()}, torch {torch.__version__.split("+")[0]}.)

## Text and licence
The `.py` files of the standard library of CPython {platform.python_version()}, under the
[PSF licence version 2](https://docs.python.org/3/license.html) (Copyright © 2001 Python Software Foundation; All
Rights Reserved). Left out: tables and generated files (`pydoc_data/topics.py`, `html/entities.py`, `msilib/schema.py`,
`stringprep.py`, the character maps of `encodings/`, `_sysconfigdata*`). The test packages (`test`, `tests`,
`idle_test`) were not trained on: they are the held-out text, and another kind of text than the library. Losses are
those of crops of {seq} tokens, evenly spread over the text, each from the zero state.

## Greedy samples
Verbatim, {SAMPLE_TOKENS} tokens each, by `MossNet.generate_greedy` in float32. A model this small repeats itself when
read greedily. Let a prompt end before a line break: the break and the indentation after it are one token, so a prompt
that ends with a break says that what follows is not indented.

{shown}
"""


def export(model: MossNet, out: Path, tokenizer_file: Path) -> MossNet:
    """Write config.json, model.safetensors (float16) and tokenizer.json; returns the model as it reads back."""
    model.save(out, torch.float16)
    write_atomically(out / "tokenizer.json", tokenizer_file.read_bytes())
    return MossNet.load(out)


def main(argv: list[str] | None = None) -> None:
    """Prepare, train, evaluate, write."""
    parser = argparse.ArgumentParser(
        prog="python -m mossnet_tg.weights.reference.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--work", type=Path, required=True, help="folder for tokens and checkpoints; a run there is continued")
    add("--out", type=Path, required=True, help="folder for the demo (config, weights, tokenizer, README)")
    add("--steps", type=int, default=7000, help="length of the schedule (default %(default)s)")
    add("--minutes", type=float, help="length of the schedule by the clock, in place of --steps")
    add("--batch", type=int, default=8, help="sequences per step (default %(default)s)")
    add("--seq", type=int, default=512, help="tokens per sequence (default %(default)s)")
    add("--lr", type=float, default=3e-3, help="peak learning rate (default %(default)s)")
    add("--warmup", type=int, default=200, help="steps of warm-up (default %(default)s)")
    add("--weight-decay", type=float, default=0.1, help="on matrices (default %(default)s)")
    add("--seed", type=int, default=0, help="of weights and batches (default %(default)s)")
    add("--threads", type=int, default=1, help="torch threads (default %(default)s)")
    add("--scan", choices=("native", "torch"), default="native", help="compiled scan.c or the plain loop")
    add("--no-bfloat16", dest="bfloat16", action="store_false", help="keep operands of matrix products in float32")
    add("--report", type=int, default=50, help="steps per progress line (default %(default)s)")
    add("--save-every", type=float, default=120, help="seconds between checkpoints (default %(default)s)")
    add("--eval-tokens", type=int, default=500_000, help="held-out tokens to evaluate (default %(default)s)")
    add("--export-only", action="store_true", help="write the demo from the checkpoint as it is, without training")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer, train_tokens, held_out_tokens = prepare(args.work, CONFIG.vocab_size)
    scan = native_scan if args.scan == "native" else None
    model, file = MossNet(CONFIG), args.work / "checkpoint.pt"
    if args.export_only:
        if not file.exists():
            raise UsageError(f"{file} does not exist", "train first, without --export-only")
        found = torch.load(file, weights_only=True)
        model.load_state_dict(found["model"])
        progress = Progress(**found["progress"])
    else:
        sizes = (sum(p.numel() for p in model.parameters()), len(train_tokens), len(held_out_tokens))
        print("{:,} parameters, {:,} training tokens, {:,} held-out tokens".format(*sizes), flush=True)
        progress = train(model, train_tokens, scan, args, file)
    model = export(model, args.out, args.work / "tokenizer.json")
    lengths = corpus.byte_lengths(tokenizer)
    held_out = evaluate(model, held_out_tokens, lengths, args.eval_tokens, args.seq, scan)
    trained_on = evaluate(model, train_tokens, lengths, args.eval_tokens // 5, args.seq, scan)
    print(f"held out: {held_out}\ntrained on: {trained_on}", flush=True)
    length = f"--minutes {args.minutes:g}" if args.minutes is not None else f"--steps {args.steps}"
    command = (
        "python -m mossnet_tg.weights.reference.train --work build/demo --out weights/demo "
        f"{length} --batch {args.batch} --seq {args.seq} --lr {args.lr:g} --warmup {args.warmup} "
        f"--weight-decay {args.weight_decay:g} --seed {args.seed}"
    )
    greedy = samples(model, tokenizer, SAMPLE_TOKENS)
    page = readme(model, held_out, trained_on, args.seq, progress, len(train_tokens), greedy, command)
    write_atomically(args.out / "README.md", page.encode())


if __name__ == "__main__":
    try:
        main()
    except MossnetError as e:
        sys.exit(f"error: {e}" + (f"\nhint: {e.hint}" if e.hint else ""))
