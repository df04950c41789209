"""`mossnet-tg perplexity`: how well a model predicts a text, and how near it stays to another model."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from mossnet_tg.cli import options
from mossnet_tg.cli.console import Console, table
from mossnet_tg.cli.text_file import read_text
from mossnet_tg.errors import UsageError

if TYPE_CHECKING:
    from mossnet_tg import Model
    from mossnet_tg.cli.loading import Wanted
    from mossnet_tg.perplexity import Encoded, Total


@click.command()
@options.model_argument
@click.option("-f", "--file", metavar="PATH", required=True, help="The text, UTF-8 ('-': stdin).")
@click.option(
    "-n",
    "--tokens",
    "max_tokens",
    type=click.IntRange(min=1),
    metavar="N",
    help="Stop after N predicted tokens.  [default: all]",
)
@click.option("--against", metavar="MODEL2", help="Also say how far the predictions are from those of MODEL2, in nats.")
@click.option("--decode", "one_by_one", is_flag=True, help="Read token by token, as generate makes text: slower.")
@options.target
@options.device
@options.threads
@options.plan
@options.allow_native
@options.as_json
@options.verbosity
@click.pass_obj
def command(
    console: Console,
    model: str | None,
    file: str,
    max_tokens: int | None,
    against: str | None,
    target: str | None,
    device: str,
    threads: int,
    chunk: int | None,
    context: int | None,
    weights: str | None,
    one_by_one: bool,
    allow_native: bool,
    as_json: bool,
) -> None:
    """Measure how well a model predicts a text.

    Each token of the text is predicted from all before it, in one session. The text begins behind the model's
    end-of-text token, as texts do in training; where the model names none, or its tokenizer begins a text in its own
    way, the first token is not predicted. Only attention without a window has an end: there the session begins anew
    after every --context tokens, or as many as a model.moss was compiled for.

    "Perplexity" is e to the mean of "nats/token", the negative log likelihood. "Bits/byte" is the same for a byte of
    the text's UTF-8, and so can be compared between models with different tokenizers. "KL" is the mean Kullback-Leibler
    divergence of the predictions from those of MODEL2, KL(MODEL2 || MODEL), and "same top" how often both find the same
    token the likeliest. MODEL2 takes the options of MODEL, but for --weights and those that a model.moss has fixed,
    and has to have the same tokens.

    Tokens are read as those of a prompt are, many at once; with --decode one by one, which is other code and slower.

    \b
    Examples:
      mossnet-tg perplexity -f text.txt
      mossnet-tg perplexity ./my-model -f text.txt -n 100000 --json
      mossnet-tg perplexity ./my-model --weights q4 --decode -f text.txt --against ./my-model
      mossnet-tg perplexity model.moss --allow-native -f - < text.txt
    """
    # Before a model is loaded, which may mean to compile it.
    text = read_text(file, "the text")
    if not text:
        where = "stdin" if file == "-" else file
        raise UsageError(f"{where}: the text is empty, expected at least one character")
    from mossnet_tg.cli.devices import is_gpu
    from mossnet_tg.cli.loading import Wanted, load_model
    from mossnet_tg.perplexity import encode

    wanted = Wanted(model, target, device, chunk, context, weights, threads, allow_native)
    loaded = load_model(console, wanted, needs_text=True).model
    options.warn_of_threads(console, threads > 0 and is_gpu(loaded))

    def encoding(done: int, n_chars: int) -> None:
        console.step(f"tokens of the text: {100 * done / n_chars:.0f} %")

    encoded = encode(loaded.tokenizer, text, loaded.eos_ids, max_tokens, encoding)
    reference = None
    if against is not None:
        reference = _reference(console, wanted, against, loaded)
        beside = encode(reference.tokenizer, text, loaded.eos_ids, max_tokens, encoding)
        if beside.ids.tobytes() != encoded.ids.tobytes():
            raise UsageError(f"{against}: its tokenizer makes other tokens of the text, expected those of the model")
    total, seconds = _score(console, loaded, reference, encoded, one_by_one)
    facts = _facts(loaded, encoded, total, seconds)
    if reference is not None:
        facts |= _distance(reference, total)
    if as_json:
        console.out(json.dumps(facts, indent=1) + "\n")
        return
    for line in table(list(_rows(facts))):
        console.out(line.rstrip() + "\n")


def _reference(console: Console, wanted: Wanted, against: str, loaded: Model) -> Model:
    """MODEL2, which has the same number of tokens."""
    from mossnet_tg.cli.loading import load_model

    other = dataclasses.replace(wanted, path=against, weights=None)
    if other.is_compiled:
        other = dataclasses.replace(other, target=None, chunk=None, context=None)
    reference = load_model(console, other, needs_text=True).model
    expected, found = loaded.config.vocab_size, reference.config.vocab_size
    if found != expected:
        raise UsageError(f"{against}: a vocabulary of {found} tokens, expected {expected} as the model has")
    return reference


def _score(
    console: Console, model: Model, reference: Model | None, encoded: Encoded, one_by_one: bool
) -> tuple[Total, float]:
    """What was found of the whole text, and the seconds that it took."""
    from mossnet_tg.perplexity import OneByOne, Total, score, slice_tokens

    models = [model] if reference is None else [model, reference]
    chunk = 1 if model.path is None else model.engine.info.chunk
    n_tokens, total = len(encoded.ids) - 1, Total()
    first, *beside = (one.session() for one in models)
    scores = score(
        OneByOne(first) if one_by_one else first,
        *beside,
        ids=encoded.ids,
        context=min((one.max_context for one in models if one.max_context), default=0),
        n_slice=slice_tokens(model.config.vocab_size, chunk),
    )
    console.step(f"0 of {n_tokens} tokens")
    started = time.perf_counter()
    try:
        for part in scores:
            total.add(part)
            per_s = total.n_tokens / (time.perf_counter() - started)
            share = f"{100 * total.n_tokens / n_tokens:.0f} % of {n_tokens} tokens"
            console.step(f"{share}, {per_s:.1f} tok/s, perplexity {total.perplexity:.4f}")
    except KeyboardInterrupt:  # minutes of work, of which the result is nearly as good
        if total.n_tokens:
            console.note(f"interrupted after {share}: perplexity {total.perplexity:.4f}")
        raise
    seconds = time.perf_counter() - started
    console.clear()
    return total, seconds


def _facts(model: Model, encoded: Encoded, total: Total, seconds: float) -> dict[str, Any]:
    from mossnet_tg.cli.devices import device_of

    return {
        "model": _name(model),
        "target": model.meta("target") or device_of(model)["name"],
        "weights": model.meta("weights"),
        "perplexity": _number(total.perplexity),
        "nll": total.nats_per_token,
        "bits_per_byte": _number(total.bits_per_byte(encoded.n_bytes)),
        "n_tokens": total.n_tokens,
        "n_bytes": encoded.n_bytes,
        "seconds": seconds,
        "tokens_per_s": total.n_tokens / seconds,
    }


def _distance(reference: Model, total: Total) -> dict[str, Any]:
    return {
        "against": _name(reference),
        "against_weights": reference.meta("weights"),
        "kl": total.kl / total.n_tokens,
        "same_top": total.n_same_top / total.n_tokens,
    }


def _name(model: Model) -> str | None:
    """The checkpoint's; a model that runs uncompiled keeps none."""
    return model.meta("source")


def _number(x: float) -> float | None:
    """JSON has no infinity."""
    return x if math.isfinite(x) else None


def _rows(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    def shown(key: str) -> str:
        return "infinite" if facts[key] is None else f"{facts[key]:.4f}"

    yield "model", _model(facts["model"], facts["weights"])
    yield "target", facts["target"]
    yield "perplexity", shown("perplexity")
    yield "nats/token", shown("nll")
    yield "bits/byte", shown("bits_per_byte")
    if "kl" in facts:
        yield "against", _model(facts["against"], facts["against_weights"])
        yield "KL", f"{facts['kl']:.3e} nats/token"
        yield "same top", f"{100 * facts['same_top']:.2f} %"
    yield "text", f"{facts['n_tokens']:,} tokens, {facts['n_bytes']:,} bytes"
    yield "speed", f"{facts['tokens_per_s']:.1f} tok/s"


def _model(name: str | None, weights: str | None) -> str:
    return f"{name}, {weights}" if name else "uncompiled"
