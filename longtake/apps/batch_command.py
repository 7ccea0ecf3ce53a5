"""The command `batch`: many runs from one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longtake.apps.console import Format, Output, Quiet, Verbose, console


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("batch")(batch)


def batch(
    file: Annotated[Path, typer.Argument(metavar="FILE", help='a job a line: {"prompt": ..., "seconds": 10}')],
    format_: Format = Output.text,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Make every run of a JSONL file. Stopped, it goes on where it was; a run that fails does not stop the others.

    Keys are the flags of generate without the dashes; set is a list. FILE.manifest.json tells what became of each.
    """
    from longtake.apps.batching import run_batch

    run_batch(file, console(format_, verbose, quiet))
