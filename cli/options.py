"""Options that several verbs share, each said once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from mossnet_tg.cli.console import Console
from mossnet_tg.codegen.options import CompileOptions
from mossnet_tg.weights.weight_types import WEIGHT_TYPES

_F = TypeVar("_F", bound=Callable[..., Any])

MODEL_HELP = "a checkpoint folder, a .safetensors file or a model.moss; the bundled demo when left out"


def _all(*decorators: Callable[[_F], _F]) -> Callable[[_F], _F]:
    """Several options as one decorator, in the order of the help."""

    def apply(f: _F) -> _F:
        for decorator in reversed(decorators):
            f = decorator(f)
        return f

    return apply


def _add_verbosity(ctx: click.Context, param: click.Parameter, count: int) -> None:
    console = ctx.find_object(Console)
    if console is not None:  # there is none while a shell completes a line
        console.raise_verbosity(count)


verbosity = click.option(
    "-v",
    "--verbose",
    count=True,
    expose_value=False,
    callback=_add_verbosity,
    help="Say more: -v steps, -vv timings and plan, -vvv the kernels' code.",
)

model_argument = click.argument("model", required=False, metavar="[MODEL]")

model_option = click.option("-m", "--model", metavar="PATH", help=f"The model: {MODEL_HELP}.")

target = click.option(
    "--target", metavar="TARGET", help="What to compile for (see: mossnet-tg targets).  [default: cpu]"
)

device = click.option(
    "--device",
    metavar="[PLACE/][DRIVER:]NAME",
    default="",
    help="The GPU: a part of its name; opencl:, vulkan: or cuda: before it says the driver, and so the target. PLACE is"
    " another machine, ssh:HOST or adb:SERIAL (adb: for the only phone), and may stand alone."
    "  [default: here, the best one]",
)

threads = click.option(
    "-t",
    "--threads",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="CPU threads.  [default: all this process may use]",
)


def tracker(required: bool) -> Callable[[_F], _F]:
    """The tracker of a farm."""
    text = "The farm's tracker."
    return click.option(
        "--tracker", metavar="HOST:PORT", default=None if required else "", required=required, help=text
    )


# No defaults here: a compiled model has its own, and one that was given for it must be refused.
plan = _all(
    click.option(
        "--chunk",
        type=int,
        metavar="N",
        help=f"Prompt tokens that are worked on at once.  [default: {CompileOptions.chunk}]",
    ),
    click.option(
        "--context",
        type=int,
        metavar="N",
        help="Tokens that attention without a window can hold; the rest of a MossNet has no limit."
        f"  [default: {CompileOptions.context}]",
    ),
    click.option(
        "--weights",
        metavar="TYPE",
        help=f"Convert the weights to {', '.join(WEIGHT_TYPES[:-1])} or {WEIGHT_TYPES[-1]}"
        " (see: mossnet-tg quantize --help)."
        "  [default: as in the checkpoint]",
    ),
)


def compile_options(chunk: int | None, context: int | None) -> CompileOptions:
    """What `plan` was given of them, and the defaults for the rest; UsageError for what is out of range."""
    given = {key: value for key, value in (("chunk", chunk), ("context", context)) if value is not None}
    return CompileOptions(**given)


allow_native = click.option(
    "--allow-native",
    is_flag=True,
    help="Run a model.moss on the processor: its code has your rights there, so allow it for makers you trust.",
)

as_json = click.option("--json", "as_json", is_flag=True, help="For programs: JSON instead of text.")

sampling = _all(
    click.option(
        "--temperature",
        "--temp",
        type=float,
        default=0.0,
        show_default=True,
        metavar="X",
        help="0 takes the likeliest token each time; more is more random.",
    ),
    click.option("--top-k", type=int, default=0, metavar="N", help="Choose among the N likeliest.  [default: all]"),
    click.option("--top-p", type=float, default=1.0, metavar="X", help="... those that make up X of the probability."),
    click.option(
        "--min-p", type=float, default=0.0, metavar="X", help="... those X times as likely as the likeliest, or more."
    ),
    click.option(
        "--repetition-penalty",
        "--repeat-penalty",
        type=float,
        default=1.0,
        metavar="X",
        help="Make tokens that were there before less likely.  [default: 1, off]",
    ),
    click.option(
        "--repetition-window",
        type=int,
        default=64,
        show_default=True,
        metavar="N",
        help="... how many tokens back.",
    ),
    click.option(
        "--seed",
        type=int,
        default=0,
        show_default=True,
        metavar="N",
        help="The same seed, prompt and options give the same text.",
    ),
)


def warn_of_threads(console: Console, given: bool) -> None:
    """Say that --threads does nothing, of a model that runs on a GPU."""
    if given:
        console.warning("--threads is for the processor; a GPU takes what it needs")


class Numbers(click.ParamType):  # type: ignore[type-arg]  # generic in some versions of click only
    """Integers separated by commas, each at least `least`."""

    name = "N,..."

    def __init__(self, least: int) -> None:
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of integers separated by commas, such as 128,512.", param, ctx)
        if min(numbers) < self.least:
            self.fail(f"{min(numbers)} is too small, expected at least {self.least}.", param, ctx)
        return tuple(dict.fromkeys(numbers))
