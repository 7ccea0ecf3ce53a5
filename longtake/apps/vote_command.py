"""The command `vote`: a page on which people compare two sets of videos blind, and the count of their votes.

Pairs are videos of the same prompt, and of the same seed where both sides have it; what has no partner is told. The
page is one file, asks the questions for every pair in an order and on sides drawn anew for every person, shows no
names, sends nothing, and saves the votes as JSON.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from longtake.apps.sources import Source, find_sources
from longtake.errors import UsageError

QUESTIONS = (
    "Overall, which do you prefer?",
    "Which stays more consistent from beginning to end?",
    "Which moves more naturally?",
    "Which shows better what the text says?",
)
"""As the papers' user studies ask: overall, consistency, motion, text."""
LARGEST = 256 << 20


class Output(StrEnum):
    """How results are printed."""

    text = "text"
    json = "json"


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def vote(
        sides: Annotated[list[Path] | None, typer.Argument(metavar="A B", help="videos, runs, or folders")] = None,
        out: Annotated[Path, typer.Option(help="the page to write")] = Path("vote.html"),
        question: Annotated[list[str] | None, typer.Option(help="ask this  [default: four questions]")] = None,
        count: Annotated[list[Path] | None, typer.Option(metavar="JSON", help="count saved votes instead")] = None,
        format_: Annotated[Output, typer.Option("--format", help="how to print the count")] = Output.text,
    ) -> None:
        """Write a page of blind pairs to vote on, or count the votes that it saved."""
        if count:
            if sides:
                raise UsageError("--count counts saved votes and takes no videos; leave out the one or the other")
            print(run_count(count, format_ is Output.json))
            return
        if len(sides or ()) != 2:
            raise UsageError("vote compares two sides: longtake vote A B (or, with saved votes: --count votes.json)")
        print(run_vote(*(sides or ()), out=out, questions=tuple(question or QUESTIONS)))


def run_vote(first: Path, second: Path, out: Path, questions: Sequence[str] = QUESTIONS) -> Path:
    """Write the page. UsageError if the sides share no prompt, or the page would be too large."""
    from longtake.metrics import embed
    from longtake.metrics.votes import FORMAT

    if out.is_dir():
        raise UsageError(f"--out {out} is a folder; give the name of a page, such as vote.html")
    if not all(question.strip() for question in questions) or len(set(questions)) != len(questions):
        raise UsageError("every --question must be there once, and say something")
    sides = [find_sources([path]) for path in (first, second)]
    pairs, alone = paired(*sides)
    for source in alone:
        print(f"left out, no partner of the same prompt: {source.video}", file=sys.stderr)
    if not pairs:
        raise UsageError(f"{first} and {second} have no prompt in common, so nothing can be compared")
    files = list(dict.fromkeys(source.video for pair in pairs for source in pair))
    total = sum(min(path.stat().st_size, embed.LARGEST) for path in files)
    if total > LARGEST:
        raise UsageError(
            f"the page would hold {total >> 20} MB of video, more than {LARGEST >> 20}; give fewer or shorter"
        )
    rows = [
        {"id": _id(a, b, i), "prompt": a.prompt, "first": files.index(a.video), "second": files.index(b.video)}
        for i, (a, b) in enumerate(pairs)
    ]
    # the id binds votes to these videos and questions: others cannot be counted together by mistake
    comparison = _hash([*(row["id"] for row in rows), *questions, *(_hash([path.read_bytes()]) for path in files)])
    data = {
        "format": FORMAT, "comparison": comparison, "arms": _names(first, second), "questions": list(questions),
        "pairs": rows, "videos": [embed.video_uri(path) for path in files],
    }  # fmt: skip
    embed.write_page(out, embed.page("vote.html", "Which video is better?", data))
    return out


def paired(first: Sequence[Source], second: Sequence[Source]) -> tuple[list[tuple[Source, Source]], list[Source]]:
    """(pairs of one prompt, what has no partner). Equal seeds find each other first; the rest goes in order."""
    left, pairs = list(second), []
    rest = []
    for source in first:
        match = next((other for other in left if _same(source, other) and source.seed == other.seed), None)
        if match is None:
            rest.append(source)
            continue
        left.remove(match)
        pairs.append((source, match))
    alone = []
    for source in rest:
        match = next((other for other in left if _same(source, other)), None)
        if match is None:
            alone.append(source)
            continue
        left.remove(match)
        pairs.append((source, match))
    if not pairs and len(alone) == len(left) == 1:  # two videos were named: they are meant, whatever they are called
        return [(alone[0], left[0])], []
    return pairs, alone + left


def run_count(paths: Sequence[Path], as_json: bool) -> str:
    """The count of saved votes, for people or as JSON."""
    from longtake.metrics.votes import count, read_ballots

    ballot = read_ballots(paths)
    found = count(ballot)
    if as_json:
        return json.dumps({"arms": list(ballot.arms), "questions": found})
    lines = [f"A = {ballot.arms[0]}", f"B = {ballot.arms[1]}", ""]
    for question, row in found.items():
        lines += [question, "  " + _told(row)]
    return "\n".join(lines)


def _told(row: dict[str, Any]) -> str:
    if not row["n"]:
        return "no votes"
    text = f"A wins {row['wins']}, ties {row['ties']}, B wins {row['losses']}  (n={row['n']} votes, "
    text += f"{row['pairs']} pairs, {row['raters']} raters)"
    share = row["preferred"]
    text += f"\n  A preferred {share['value']:.2f} [{share['low']:.2f}, {share['high']:.2f}] over pairs"
    text += "" if row["resolved"] else ", not resolved"
    if "won" in row:
        won = row["won"]
        text += f"; of votes that decide {won['value']:.2f} [{won['low']:.2f}, {won['high']:.2f}]"
        text += f"; left was chosen in {row['left']:.0%}"
    return text


def _names(first: Path, second: Path) -> list[str]:
    # the last part of each path, if that tells them apart: pages are sent to people whom folders do not concern
    short = [first.absolute().name, second.absolute().name]
    return short if short[0] != short[1] else [str(first), str(second)]


def _same(a: Source, b: Source) -> bool:
    return a.prompts == b.prompts


def _id(a: Source, b: Source, number: int) -> str:
    return f"{number}-{_hash([a.prompt, str(a.seed), str(b.seed)])[:8]}"


def _hash(parts: Sequence[str | bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\0")
    return digest.hexdigest()[:16]
