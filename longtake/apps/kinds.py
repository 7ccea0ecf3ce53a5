"""Options as Python gives them, each of its kind: what no run.json can keep is refused before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, get_type_hints

import numpy as np

from longtake.apps.settings import Request
from longtake.apps.stored import fits, shown
from longtake.errors import UsageError

LISTS = {"set": "fifo.partitions=2", "lora": "style.safetensors:0.8"}
"""Options that are lists of texts, with one that may stand in them."""

OWN = ("model", "size", "dtype")
"""Options whose kinds are told by what reads them."""


def of_kind(prompt: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `generate` and `stream`, NumPy's numbers as Python's. UsageError for a value of another kind."""
    kinds, found = get_type_hints(Request), {name: _plain(value) for name, value in options.items()}
    for name, value in {"prompt": prompt, **found}.items():
        if name in LISTS:
            if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
                raise UsageError(f"{name}={shown(value)} is no list of texts; write it like {name}=[{LISTS[name]!r}]")
        elif name not in OWN and not fits(value, kinds[name]):
            kind = kinds[name]
            words = kind.__name__ if isinstance(kind, type) else str(kind).replace("pathlib.", "")
            raise UsageError(f"{name}={shown(value)} is not possible: it takes {words.replace(' |', ',')}")
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Fraction):  # 24000/1001 frames a second
        return str(value)
    return value.item() if isinstance(value, np.generic) else value
