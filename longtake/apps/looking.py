"""What a reward looks with: an encoder that was named, or the best on this machine that suits the model's pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longtake.apps.parameters import choose
from longtake.apps.terms import Word
from longtake.errors import UsageError
from longtake.rewards import features

LOOKS = (
    *dict.fromkeys(
        name for role in ("subject", "background") for name in features.ROLES[role] if "/measure/" not in name
    ),
    "colour-histogram",
)
"""Encoders that a reward may be told to look with: they turn a picture into features, and were not made to measure."""


@dataclass(frozen=True)
class Looking(Word):
    """The name of an encoder of pictures that is on this machine."""

    @property
    def allowed(self) -> str:
        """What may be typed."""
        return "|".join(LOOKS)

    def parse(self, owner: str, text: str) -> str:
        """The name. UsageError for one that is unknown, that measures results, or whose weights are not here."""
        return seen_with(super().parse(owner, text), f"{owner}{self.name}")


ENCODER = Looking("encoder", str, "what looks at pictures")


def seen_with(name: str, what: str = "encoder") -> str:
    """`name` if rewards may look with it and its weights are at hand. UsageError says what to type instead."""
    if "/measure/" in name:
        raise UsageError(
            f"{name} measures results and must not be searched by; use {name.replace('measure', 'reward')}"
        )
    choose(what, name, LOOKS)
    if not features.at_hand(name):
        features.load(name)  # says what is missing, and where it belongs
    return name


def of_world(folder: Path | None) -> bool:
    """Whether a model draws pocket's world: pocket's judge knows its subjects, and finds them in any other picture."""
    from longtake.models import folder as folders

    return folder is not None and folders.settings(folder).get("vocabulary") == "world"


def look_of(values: Mapping[str, Any], world: bool) -> str:
    """The encoder that was named, else the best at hand that no metric uses: pocket's judge for its `world` alone."""
    if "encoder" in values:
        return seen_with(values["encoder"])
    return features.chosen("subject", "reward", world) or "colour-histogram"
