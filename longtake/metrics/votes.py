"""Counting of blind votes between two arms: wins, ties, losses, and how sure they are.

A vote is one person's choice for one pair of videos and one question. Symbols, by question:

    wins, losses   votes for the first and the second arm; ties besides
    won            wins / (wins + losses) with its 95 % Wilson interval: exact for few votes, blind to who gave them
    preferred      mean over pairs of (wins + ties / 2) / votes of the pair, with a 95 % bootstrap interval over pairs:
                   votes on the same pair are no independent evidence. Not resolved where it holds 1/2.
    left           share of the left video among the votes that were no ties: far from 1/2 means that sides decided
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from longtake.errors import UsageError

FORMAT = 1
Z = 1.959964
RESAMPLES = 4000
CHOICES = ("first", "tie", "second")


@dataclass(frozen=True)
class Vote:
    """One choice. `choice` is "first", "tie" or "second" arm; `left` says which arm stood left."""

    rater: str
    pair: str
    question: str
    choice: str
    left: str


@dataclass(frozen=True)
class Ballot:
    """All votes of one comparison: its id, the names of its arms, its questions."""

    comparison: str
    arms: tuple[str, str]
    questions: tuple[str, ...]
    votes: tuple[Vote, ...]


def read_ballots(paths: Sequence[Path]) -> Ballot:
    """Files of votes on the same comparison as one; a person's later vote replaces an earlier one. UsageError if they
    are no votes, or of different comparisons."""
    ballots = [_read(path) for path in paths]
    first = ballots[0]
    for path, ballot in zip(paths, ballots, strict=True):
        if (ballot.comparison, ballot.arms, ballot.questions) != (first.comparison, first.arms, first.questions):
            raise UsageError(f"{path} holds votes on another comparison than {paths[0]}; count them apart")
    latest = {(vote.rater, vote.pair, vote.question): vote for ballot in ballots for vote in ballot.votes}
    return Ballot(first.comparison, first.arms, first.questions, tuple(latest.values()))


def count(ballot: Ballot) -> dict[str, dict[str, Any]]:
    """The table of the module's header by question."""
    return {question: _counted([v for v in ballot.votes if v.question == question]) for question in ballot.questions}


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % Wilson interval of a share; (0, 1) of nothing."""
    if n == 0:
        return 0.0, 1.0
    p, scale = hits / n, 1 + Z * Z / n
    middle, half = p + Z * Z / (2 * n), Z * math.sqrt((p * (1 - p) + Z * Z / (4 * n)) / n)
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def bootstrap(values: Sequence[float]) -> tuple[float, float]:
    """95 % percentile interval of a mean over independent values, 4000 resamples, always the same ones."""
    data = torch.tensor(values, dtype=torch.float64)
    picks = torch.randint(0, len(values), (RESAMPLES, len(values)), generator=torch.Generator().manual_seed(0))
    low, high = torch.quantile(data[picks].mean(1), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def _counted(votes: Sequence[Vote]) -> dict[str, Any]:
    wins, ties, losses = (sum(vote.choice == choice for vote in votes) for choice in CHOICES)
    pairs: dict[str, list[float]] = {}
    for vote in votes:
        pairs.setdefault(vote.pair, []).append({"first": 1.0, "tie": 0.5, "second": 0.0}[vote.choice])
    shares = [sum(values) / len(values) for values in pairs.values()]
    decided = [vote for vote in votes if vote.choice != "tie"]
    found: dict[str, Any] = {"wins": wins, "ties": ties, "losses": losses, "n": len(votes), "pairs": len(pairs)}
    found["raters"] = len({vote.rater for vote in votes})
    if decided:
        found["won"] = _number(wins / len(decided), wilson(wins, len(decided)))
        found["left"] = sum(vote.choice == vote.left for vote in decided) / len(decided)
    if shares:
        found["preferred"] = _number(sum(shares) / len(shares), bootstrap(shares))
        # one pair has no spread between pairs: nothing can be said of others
        found["resolved"] = len(shares) > 1 and not found["preferred"]["low"] <= 0.5 <= found["preferred"]["high"]
    return found


def _number(value: float, interval: tuple[float, float]) -> dict[str, float]:
    return {"value": value, "low": interval[0], "high": interval[1]}


def _read(path: Path) -> Ballot:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as JSON; give the file that the page of votes saved") from error
    try:
        if content["format"] != FORMAT:
            raise UsageError(f"{path} has format {content['format']!r}, this longtake reads {FORMAT}")
        votes = tuple(_vote(content["rater"], vote) for vote in content["votes"])
        first, second = content["arms"]
        ballot = Ballot(str(content["comparison"]), (str(first), str(second)), tuple(content["questions"]), votes)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path} holds no votes; give the file that the page of votes saved") from error
    if any(vote.question not in ballot.questions for vote in votes):
        raise UsageError(f"{path} answers questions that it does not ask; it was changed")
    return ballot


def _vote(rater: Any, vote: Mapping[str, Any]) -> Vote:
    made = Vote(str(rater), str(vote["pair"]), str(vote["question"]), vote["choice"], vote["left"])
    if made.choice not in CHOICES or made.left not in ("first", "second"):
        raise ValueError("choice")
    return made
