"""Values of `--set` and `--reward` that are lists: numbers with commas, sums of names with weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

from longtake.apps.parameters import LARGEST, Parameter, choose
from longtake.errors import UsageError


@dataclass(frozen=True)
class Numbers(Parameter):
    """Whole numbers with commas between; `kind` is int."""

    @property
    def allowed(self) -> str:
        """What may be typed."""
        return f"whole numbers of at least {self.low or 0:g} with commas between"

    def parse(self, owner: str, text: str) -> tuple[int, ...]:
        """The numbers. UsageError says what is allowed."""
        try:
            values = tuple(int(part) for part in text.split(","))
        except ValueError:
            values = ()
        if not values or min(values) < (self.low or 0) or max(values) > self.high:
            raise UsageError(f"{owner}{self.name}={text} is not possible: it takes {self.allowed}")
        return values


@dataclass(frozen=True)
class Sum(Parameter):
    """A sum with weights of the names in `kind`."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names that may be in it."""
        return self.kind if isinstance(self.kind, tuple) else ()

    @property
    def allowed(self) -> str:
        """What may be typed."""
        return f"a sum such as {self.names[0]}+2*{self.names[1]} of {', '.join(self.names)}"

    def parse(self, owner: str, text: str) -> tuple[tuple[str, float], ...]:
        """(name, weight) of each term. UsageError says how to write it."""
        terms = parse_sum(text, f"{owner}{self.name}")
        for name, _ in terms:
            choose(f"name in {owner}{self.name}", name, self.names)
        if len({name for name, _ in terms}) < len(terms):
            raise UsageError(f"{owner}{self.name}={text} names one twice; give each once, with a weight such as 2*")
        return terms


@dataclass(frozen=True)
class Word(Parameter):
    """Any text, such as the name of an encoder or a folder; `kind` is str, `allowed` what to type."""

    @property
    def allowed(self) -> str:
        """What may be typed."""
        return "a name or a folder"

    def parse(self, owner: str, text: str) -> str:
        """The text as it is."""
        if not text.strip():
            raise UsageError(f"{owner}{self.name}= is empty: it takes {self.allowed}")
        return text.strip()


def parse_sum(text: str, what: str) -> tuple[tuple[str, float], ...]:
    """(name, weight) of each term of "a+0.5*b". UsageError says how to write it; `what` names the flag."""
    terms = []
    for part in text.split("+"):
        factor, sign, name = part.partition("*")
        name = (name if sign else factor).strip().lower()
        try:
            weight = float(factor) if sign else 1.0
        except ValueError:
            weight = math.nan
        if not name or not 0 < weight <= LARGEST:  # nor what is no number
            raise UsageError(f"{what} {text} is no sum of names; write it like a+0.5*b, weights above 0")
        terms.append((name, weight))
    return tuple(terms)
