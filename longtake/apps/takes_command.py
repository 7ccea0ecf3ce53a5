"""The command `takes`: list the takes of a run, make several, put one in the run's place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longtake.apps.console import Format, Output, Quiet, Verbose, console


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("takes")(takes)


def takes(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="the run directory")],
    num: Annotated[int | None, typer.Option(help="make so many takes of the next stretch")] = None,
    seconds: Annotated[float | None, typer.Option(help="length of that stretch")] = None,
    use: Annotated[str | None, typer.Option(metavar="N", help="put a take in the run's place; best: by score")] = None,
    format_: Format = Output.text,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """List other ways to go on; with --num and --seconds make several, with --use choose one. Nothing is lost."""
    from longtake.apps.choosing import run_takes

    run_takes(folder, num, seconds, use, console(format_, verbose, quiet))
