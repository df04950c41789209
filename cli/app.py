"""The program: its verbs, loaded when they are asked for, and what becomes of errors."""

from __future__ import annotations

import contextlib
import difflib
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

import mossnet_tg
from mossnet_tg.cli.console import Console, abandon_stdout
from mossnet_tg.cli.options import verbosity
from mossnet_tg.errors import MossnetError, UsageError

PROGRAM = "mossnet-tg"

# As shells do: 128 and the number of the signal that would have ended the process.
_INTERRUPTED = 128 + 2
_PIPE_CLOSED = 128 + 13

# Verb: the module that has it as `command`. Not `compile` and `inspect`: run from this folder, Python would take them
# for its own.
VERBS = {
    "generate": "generate",
    "compile": "compile_model",
    "quantize": "quantize",
    "export": "export",
    "inspect": "inspect_model",
    "targets": "targets",
    "devices": "device_list",
    "bench": "bench",
    "perplexity": "perplexity",
    "doctor": "doctor",
    "tune": "tune",
    "farm": "farm",
}


class App(click.Group):
    """A group of verbs that reports every error as `error: …` and `hint: …` with its exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(f"mossnet_tg.cli.{VERBS[cmd_name]}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in VERBS and not args[0].startswith("-") and not ctx.resilient_parsing:
            close = difflib.get_close_matches(args[0], VERBS, 1)
            hint = f"did you mean '{close[0]}'?" if close else f"see: {PROGRAM} --help"
            raise UsageError(f"unknown verb '{args[0]}', expected {', '.join(VERBS)}", hint)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            # Here and not in click, which would write "Aborted!" and exit with 1.
            raise click.exceptions.Exit(_INTERRUPTED) from None
        except BrokenPipeError:  # the reader has seen enough
            abandon_stdout()
            raise click.exceptions.Exit(_PIPE_CLOSED) from None

    def main(  # type: ignore[override]  # click returns what the verb returns where it does not end the process
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run, and end the process with the exit code."""
        with contextlib.suppress(AttributeError, ValueError):
            # A terminal of a small character set shows "?" for what it does not have.
            sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
        with Console() as console:
            sys.exit(self._run(console, args, extra))

    def _run(self, console: Console, args: Sequence[str] | None, extra: dict[str, Any]) -> int:
        try:
            code = super().main(args, PROGRAM, standalone_mode=False, obj=console, **extra)
            console.out("")  # what click printed may still be on its way to a full disk
            return code if isinstance(code, int) else 0
        except MossnetError as e:
            console.error(str(e), e.hint)
            return e.exit_code
        except click.UsageError as e:
            path = e.ctx.command_path if e.ctx else PROGRAM
            console.error(e.format_message(), f"see: {path} --help")
            return e.exit_code
        except click.ClickException as e:
            console.error(e.format_message())
            return e.exit_code
        except (click.Abort, KeyboardInterrupt):
            return _INTERRUPTED
        except BrokenPipeError:
            abandon_stdout()
            return _PIPE_CLOSED
        except MemoryError:
            console.error("not enough memory", "take a smaller --chunk or --context, or a smaller model")
            return 1
        except OSError as e:  # a full disk, a file that went away: the machine's doing, not a defect
            abandon_stdout()
            where = f"{e.filename}: " if e.filename else ""
            console.error(f"{where}{e.strerror or e}")
            return 1
        except Exception as e:
            if console.verbosity:
                console.note(traceback.format_exc().rstrip())
            text = str(e).strip()
            first = text.splitlines()[0] if text else ""
            hint = None if console.verbosity else "this is a defect of mossnet-tg; -v shows where it happened"
            console.error(f"internal: {type(e).__name__}{': ' * bool(first)}{first}", hint)
            return 1


def _show_version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(f"{PROGRAM} {mossnet_tg.__version__}")
        ctx.exit()


@click.command(
    cls=App,
    invoke_without_command=True,
    subcommand_metavar="VERB ...",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 device not available, 4 model file and machine do not fit,
130 interrupted. stdout holds the result alone, everything else is on stderr.""",
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help="Show the version."
)
@verbosity
@click.pass_context
def app(ctx: click.Context) -> None:
    """Run MossNet language models, compiled for this machine or another.

    \b
    Examples:
      mossnet-tg generate "def fibonacci(n):" -n 64     continue a text with the bundled demo model
      mossnet-tg generate -m ./my-model -f prompt.txt   ... with a checkpoint, compiled at first use
      mossnet-tg compile ./my-model --out build/        make build/model.moss, for here or a phone
      mossnet-tg bench -p 128 -n 64 -t 1,2              measure it
      mossnet-tg perplexity ./my-model -f text.txt      how well it predicts a text
      mossnet-tg generate --target vulkan "Once upon"   on a GPU; mossnet-tg targets shows what there is
      mossnet-tg doctor --target vulkan                 check every kernel on it
      mossnet-tg generate --device adb: "Once upon"     on the phone that is plugged in; or ssh:HOST

    `mossnet-tg VERB --help` has more.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
