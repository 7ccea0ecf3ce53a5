"""The command `reroll`: back to a moment of a run, and another way from there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longtake.apps.console import Format, Output, Quiet, Verbose, console


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("reroll")(reroll)


def reroll(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="the run directory")],
    moment: Annotated[str, typer.Option("--from", metavar="MOMENT", help="12s, or 96f for a frame")],
    seed: Annotated[int | None, typer.Option(help="of the noise from there on  [default: drawn]")] = None,
    prompt: Annotated[str | None, typer.Option(help="what the video shows from there on")] = None,
    method: Annotated[str | None, typer.Option(help="another method from there on")] = None,
    search: Annotated[str | None, typer.Option(help="another search from there on")] = None,
    format_: Format = Output.text,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Make the rest of a run again, otherwise, as a take beside it. All before the moment stays, frame for frame.

    With --prompt, --method or --search alone the noise stays too, so that only what was changed makes the difference.
    """
    from longtake.apps.directing import Change, run_reroll

    run_reroll(folder, moment, Change(seed, prompt, method, search), console(format_, verbose, quiet))
