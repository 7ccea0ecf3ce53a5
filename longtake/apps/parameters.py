"""A value that `--set` takes, and the choice of a name among the known ones: shared by all tables of names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from longtake.errors import UsageError

LARGEST = 9 * 10**15
"""Beyond it no number means anything here, and run.json, where they are kept, takes none."""


@dataclass(frozen=True)
class Parameter:
    """A value of `--set METHOD.name=...`: int, float, bool, any word (str), or one of the words in `kind`."""

    name: str
    kind: type | tuple[str, ...]
    help: str
    low: float | None = None
    high: float = LARGEST

    @property
    def allowed(self) -> str:
        """What may be typed."""
        if isinstance(self.kind, tuple):
            return "|".join(self.kind)
        word = {int: "a whole number", float: "a number", bool: "true|false", str: "a word"}[self.kind]
        if self.high < LARGEST:
            return f"{word} in {self.low or 0:g}..{self.high:g}"
        return word if self.low is None else f"{word} of at least {self.low:g}"

    def parse(self, owner: str, text: str) -> Any:
        """The value that `text` stands for. UsageError says what is allowed."""
        value = self._value(text.strip().lower())
        if value is None or (self.low is not None and not value >= self.low):
            raise UsageError(f"{owner}{self.name}={text} is not possible: it takes {self.allowed}")
        if self.kind in (int, float) and not abs(value) <= self.high:  # nor what is no number
            most = "" if self.high < LARGEST else f", at most {LARGEST:.0e}"
            raise UsageError(f"{owner}{self.name}={text} is not possible: it takes {self.allowed}{most}")
        return value

    def _value(self, text: str) -> Any:
        if isinstance(self.kind, tuple):
            return text if text in self.kind else None
        if self.kind is bool:
            return {"true": True, "false": False}.get(text)
        try:
            return self.kind(text)
        except ValueError:
            return None


def choose(kind: str, given: str, known: Iterable[str], flag: str = "") -> str:
    """`given` if it is known. UsageError lists what is, and the nearest."""
    names = list(known)
    if given in names:
        return given
    spelled = {name.lower(): name for name in reversed(names)}
    near = [spelled[match] for match in difflib.get_close_matches(given.lower(), spelled, 1, 0.5)]
    hint = f"; did you mean {flag} {near[0]}?".replace("  ", " ") if near else ""
    raise UsageError(f"unknown {kind} {given!r}; known: {', '.join(names)}{hint}")
