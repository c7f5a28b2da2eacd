"""The program: its commands in the order of the help text, and how errors end it."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

import eddycast
from eddycast import distributed
from eddycast.cli import catalogue, data, models, results, statistics, tiles
from eddycast.errors import InputError

SHARED = ("train", "forecast", "evaluate", "compare")
"""Commands whose work several processes share."""

app = typer.Typer(
    name="eddycast",
    help="Fast probabilistic emulators of PDE dynamics: simulate, train, forecast, assimilate, score, show.",
    epilog="Begin with: eddycast demo",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
for command in (
    data.simulate,
    tiles.tile,
    data.inspect,
    models.train,
    models.encode,
    models.reconstruct,
    models.forecast,
    data.observe,
    models.assimilate,
    results.evaluate,
    statistics.statistics,
    statistics.events,
    results.latents,
    results.plot,
    results.report,
    results.compare,
    catalogue.recipes,
    catalogue.systems,
    catalogue.methods,
    catalogue.demo,
):
    app.command()(command)


@app.callback(invoke_without_command=True)
def top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        typer.echo(f"eddycast {eddycast.__version__}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit()
    if distributed.launched() and context.invoked_subcommand not in SHARED:
        raise InputError(
            f"`eddycast {context.invoked_subcommand}` runs in one process: start it without torchrun. "
            f"{', '.join(SHARED)} share their work."
        )


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 for success, 2 for bad input or an output that cannot be written, 130 for an interrupt. The last two print one
    line on stderr; EDDYCAST_DEBUG=1 shows the traceback as well. Any other exception is a fault of ours and passes.
    """
    debug = os.environ.get("EDDYCAST_DEBUG", "") not in ("", "0")
    try:
        code = app(args=arguments, prog_name="eddycast", standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except (InputError, OSError) as error:
        if debug:
            traceback.print_exc()
        complain(describe(error))
        return 2
    except Exception as error:
        message = getattr(error, "format_message", None)  # usage errors, from typer's own click or the separate one
        if message is None:
            raise
        complain(f"{one_line(message()).rstrip('.')}. See '{command_path(error)} --help'.")
        return 2
    if code == 130 and distributed.speaks():
        complain("interrupted. Nothing half-written was left behind; `eddycast train --resume` continues a training.")
    return code if isinstance(code, int) else 0


def command_path(error: Exception) -> str:
    """The command that a usage error speaks of."""
    return getattr(getattr(error, "ctx", None), "command_path", "eddycast")


def describe(error: InputError | OSError) -> str:
    """One line for an error: our own text, or the system's reason, the file and what to do."""
    if isinstance(error, InputError) or error.strerror is None:
        return one_line(str(error))
    where = f"{error.filename}: " if error.filename else ""
    if isinstance(error, FileNotFoundError):
        return f"{where}no such file or directory; check the path."
    return f"{where}{error.strerror.lower()}; check the path, its permissions and the free space."


def one_line(text: str) -> str:
    return " ".join(text.split())


def complain(text: str) -> None:
    who = "" if distributed.speaks() else f" (process {os.environ['RANK']})"
    print(f"eddycast{who}: {text}", file=sys.stderr)
