"""`eval --suite`: measure a model. Videos are measured by `videos`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from longtake.errors import UsageError

JUDGE = Path(__file__).parent.parent / "models" / "weights" / "pocket-judge" / "measure"


def run_suite(suite: str, model: str, as_json: bool) -> None:
    """Measure `model` by a suite and print the numbers."""
    if suite != "world":
        raise UsageError(f"unknown suite {suite!r}; known: world")
    if not JUDGE.is_dir():
        raise UsageError("pocket-judge is not in this installation; train it with: longtake train judge --minutes 10")
    import longtake
    from longtake.metrics import judge as judging
    from longtake.metrics.world import evaluate

    found = evaluate(longtake.load(model), judging.load(JUDGE), say=_say)
    print(json.dumps(found) if as_json else table(found), flush=True)


def table(found: dict[str, Any]) -> str:
    """The numbers for people."""
    lines = []
    for name, value in found.items():
        if name == "judge":
            lines += ["", "the judge itself, on rendered truth and on the same through the autoencoder", table(value)]
        else:
            unit = " dB" if "psnr" in name else ""
            lines.append(
                f"{name:<22} {value['mean']:.3f}{unit}  [{value['low']:.3f}, {value['high']:.3f}]  n={value['n']}"
            )
    return "\n".join(lines)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
