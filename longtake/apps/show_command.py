"""The command `show`: what a run was, when and at what cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longtake.apps.console import Format, Output, console


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("show")(show)


def show(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="the run directory")],
    tree: Annotated[bool, typer.Option("--tree", help="draw every branch that its search judged")] = False,
    format_: Format = Output.text,
) -> None:
    """Tell a run: prompts, seeds, scores and cost over time, its takes, and where it is not bit-exact."""
    from longtake.apps.showing import run_show

    run_show(folder, tree, console(format_, False, False))
