"""The command `extend`: a run made longer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longtake.apps.console import Format, Output, Quiet, Verbose, console


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("extend")(extend)


def extend(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="the run directory")],
    prompt: Annotated[str | None, typer.Argument(help="what the video shows from there on")] = None,
    frames: Annotated[int, typer.Option(help="frames to add")] = ...,  # type: ignore[assignment]
    format_: Format = Output.text,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Make a run longer, bit for bit as if it had been asked for at once; or under a new prompt from there on."""
    from longtake.apps.directing import run_extend

    run_extend(folder, frames, prompt, console(format_, verbose, quiet))
