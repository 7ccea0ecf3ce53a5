"""The options that every command has in common: how results are printed, how much is said."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from longtake.apps.generate import Console


class Output(StrEnum):
    """How results are printed."""

    text = "text"
    json = "json"


Format = Annotated[Output, typer.Option("--format", help="how to print the result")]
Verbose = Annotated[bool, typer.Option("-v", help="say more")]
Quiet = Annotated[bool, typer.Option("-q", help="say nothing but the result and errors")]


def console(output: Output, verbose: bool, quiet: bool) -> Console:
    """How a command talks, from its options."""
    from longtake.apps.generate import Console

    return Console(output is Output.json, verbose, quiet)
