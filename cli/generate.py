"""`mossnet-tg generate`: a prompt goes in, its continuation comes out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from mossnet_tg.cli import options
from mossnet_tg.cli.console import Console, is_terminal_out
from mossnet_tg.cli.facts import human
from mossnet_tg.cli.text_file import read_text
from mossnet_tg.errors import UsageError

if TYPE_CHECKING:
    from mossnet_tg.cli.loading import Loaded
    from mossnet_tg.generate import Stats


@click.command()
@click.argument("prompt", required=False)
@click.option("-f", "--file", metavar="PATH", help="Read the prompt from a file ('-': stdin).")
@options.model_option
@options.target
@options.device
@click.option(
    "-n",
    "--max-tokens",
    type=int,
    default=256,
    show_default=True,
    metavar="N",
    help="Stop after N tokens; -1: only at the end of the text.",
)
@options.sampling
@click.option("--stop", multiple=True, metavar="TEXT", help="Stop before this text; may be given several times.")
@options.threads
@options.plan
@options.allow_native
@click.option("--echo", is_flag=True, help="Print the prompt before its continuation.")
@click.option("--stats", "show_stats", is_flag=True, help="Say on stderr how long it took.")
@options.verbosity
@click.pass_obj
def command(
    console: Console,
    prompt: str | None,
    file: str | None,
    model: str | None,
    target: str | None,
    device: str,
    max_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    repetition_penalty: float,
    repetition_window: int,
    seed: int,
    stop: tuple[str, ...],
    threads: int,
    chunk: int | None,
    context: int | None,
    weights: str | None,
    allow_native: bool,
    echo: bool,
    show_stats: bool,
) -> None:
    """Continue a text.

    PROMPT is the text; it can also come from -f or, when there is none or it is '-', from stdin. The line
    ending at the very end of a file or of stdin is dropped. The continuation alone goes to stdout, as it is made.

    \b
    Examples:
      mossnet-tg generate "def fibonacci(n):"
      mossnet-tg generate -m ./my-model --temp 0.8 --top-p 0.95 --seed 7 "Once upon"
      git diff | mossnet-tg generate -m ./my-model -n 40 --stop $'\\n'
      mossnet-tg generate -m model.moss --allow-native --stats -f prompt.txt
      mossnet-tg generate -m ./my-model --weights q4 "Once upon"
      mossnet-tg generate --target vulkan --device radeon "Once upon"
      mossnet-tg generate --device cuda: --stats "Once upon"
      mossnet-tg generate --device ssh:me@box "Once upon"
      mossnet-tg generate --target adreno --device adb: --stats "Once upon"

    A checkpoint is compiled at first use and kept in the user's cache folder (MOSSNET_CACHE_DIR changes it). Where
    nothing runs what was compiled, the exit code is 3 and the file is named, to be copied to the machine that does.
    For a --device of another machine the model is compiled here and sent there once; mossnet-tg devices shows phones.
    --target tinygrad:DEVICE runs it uncompiled: slow, for debugging (tinygrad:PYTHON needs nothing installed).
    """
    # Before the model is loaded, which may mean to compile it: a wrong option should not take seconds to be found.
    if max_tokens < -1:
        raise UsageError(f"--max-tokens is {max_tokens}, expected 0 or more, or -1 for no limit")
    if "" in stop:
        raise UsageError("--stop is empty, expected at least one character")
    text = _read_prompt(prompt, file)
    from mossnet_tg.sampling import SamplingParams

    sampling = SamplingParams(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        repetition_window=repetition_window,
        seed=seed,
    )
    from mossnet_tg.cli.devices import is_gpu
    from mossnet_tg.cli.loading import Wanted, load_model
    from mossnet_tg.generate import PREFILL_SLICE, Stats

    wanted = Wanted(model, target, device, chunk, context, weights, threads, allow_native)
    loaded = load_model(console, wanted, needs_text=True)
    options.warn_of_threads(console, threads > 0 and is_gpu(loaded.model))
    stats = Stats()

    def progress(done: int, total: int) -> None:
        if total > PREFILL_SLICE:  # a prompt of one slice is over before it can be read
            console.step(f"prompt {done}/{total} tokens")

    pieces = loaded.model.generate(
        text,
        max_tokens=None if max_tokens == -1 else max_tokens,
        sampling=sampling,
        stop=stop,
        stats=stats,
        progress=progress,
    )
    last = text if echo else ""
    console.out(last)

    def finish() -> None:
        console.clear()
        if is_terminal_out() and not last.endswith("\n"):
            console.out("\n")
        if show_stats:
            _show(console, loaded, stats)

    try:
        for piece in pieces:
            console.clear()
            console.out(piece)
            last = piece
    except KeyboardInterrupt:  # how fast it was until here is still of interest
        finish()
        raise
    finish()


def _read_prompt(prompt: str | None, file: str | None) -> str:
    if prompt is not None and file is not None:
        raise UsageError("a prompt and -f were given, expected one of them")
    if prompt is not None and prompt != "-":
        return prompt
    if prompt is None and file is None and (sys.stdin is None or sys.stdin.isatty()):
        raise UsageError("no prompt", 'try: mossnet-tg generate "def fibonacci(n):"')
    text = read_text("-" if file is None else file, "the prompt")
    # Editors and echo end the last line, which says nothing about the text that should follow.
    return text.removesuffix("\r\n") if text.endswith("\r\n") else text.removesuffix("\n")


def _show(console: Console, loaded: Loaded, stats: Stats) -> None:
    from mossnet_tg.cli.devices import device_of, in_a_line

    device = device_of(loaded.model)
    console.note(f"device       {in_a_line(device)}")
    for name, seconds, text in _times(loaded, device, stats):
        console.note(f"{name:<12} {seconds:10.3f} s  {text}".rstrip())


def _times(loaded: Loaded, device: dict[str, Any], stats: Stats) -> Iterator[tuple[str, float, str]]:
    """(what, how long, what to say of it), in the order in which it happened; build and upload are parts of load."""
    yield "load", loaded.seconds, f"({loaded.how})"
    if "build_s" in device:
        yield "  build", device["build_s"], f"{device['n_built']} kernels, {device['n_cached']} built before"
        weights = loaded.model.engine.info.weights_bytes
        yield "  upload", device["upload_s"], f"{human(weights)} of weights"
    yield "prompt", stats.prefill_s, f"{stats.n_prompt} tokens, {stats.prefill_per_s:.1f} tok/s"
    if stats.n_generated:
        yield "first token", stats.first_token_s, ""
    ended = f"(ended by {stats.stop_reason or 'an interruption'})"
    yield "decode", stats.decode_s, f"{stats.n_decoded} tokens, {stats.decode_per_s:.1f} tok/s  {ended}"
