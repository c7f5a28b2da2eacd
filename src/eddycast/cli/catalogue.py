"""Commands that list what exists, and the demo."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer

from eddycast.cli import options
from eddycast.cli.parse import quoted


def columns(rows: Iterable[tuple[str, str]]) -> str:
    """Names and one-line descriptions, aligned."""
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:<{width}}  {description}".rstrip() for name, description in rows)


def recipes() -> None:
    """List the recipes that train takes."""
    from eddycast import api

    typer.echo(columns(api.recipes()))


def systems() -> None:
    """List the systems that simulate takes."""
    from eddycast import api

    typer.echo(columns(api.systems()))


def methods() -> None:
    """List the methods that assimilate takes."""
    from eddycast import api

    typer.echo(columns(api.methods()))


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory for data, run and report.")] = Path(
        "eddycast-demo"
    ),
    size: Annotated[
        Literal["demo", "smoke"], typer.Option(help="demo: minutes; smoke: seconds, proves nothing.")
    ] = "demo",
    seed: options.Seed = 0,
) -> None:
    """Show the whole story on one equation, on a CPU."""
    from eddycast import api

    path = api.demo(out=out, size=size, seed=seed)
    typer.echo(f"Wrote report {path}; open it in a browser.")
    typer.echo(f"Next: eddycast forecast ks/universal-small --data {quoted(out / 'data')} --out forecast.nc")
