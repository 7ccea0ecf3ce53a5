"""The command `eval`: measure videos, or a model by a suite."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from longtake.errors import UsageError


class Output(StrEnum):
    """How results are printed."""

    text = "text"
    json = "json"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("eval")(evaluate)


def evaluate(
    inputs: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE|DIR]...", help="videos, folders of videos, runs")
    ] = None,
    suite: Annotated[str | None, typer.Option(help="measure a model instead, by: world")] = None,
    model: Annotated[str, typer.Option(help="of the suite: a name, a folder or a hub id")] = "pocket",
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="also write a page with players, curves and numbers")
    ] = None,
    format_: Annotated[Output, typer.Option("--format", help="how to print the result")] = Output.text,
) -> None:
    """Measure videos as the field does, or with --suite how well a model draws what captions of its world say."""
    if inputs and suite:
        raise UsageError("--suite measures a model, not videos; leave out the one or the other")
    if report and not inputs:
        raise UsageError("--report shows videos; name them: longtake eval VIDEOS --report FILE.html")
    if report and report.is_dir():
        raise UsageError(f"--report {report} is a folder; give the name of a page, such as report.html")
    if suite:
        from longtake.apps.evaluate import run_suite

        run_suite(suite, model, format_ is Output.json)
    elif inputs:
        from longtake.apps.videos import run_videos

        run_videos(inputs, format_ is Output.json, report)
    else:
        raise UsageError("nothing to measure; give videos, folders or runs, or: longtake eval --suite world")
