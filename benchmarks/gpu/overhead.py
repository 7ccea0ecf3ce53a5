"""What the engine costs on top of pocket's network on an accelerator: the worst case, since that network is fast.

    python benchmarks/gpu/overhead.py --out overhead.json

As `longtake bench` (the loop over the same batches' transformer calls alone, A/B/A, median of 5); at Wan's shapes the
same is measured by wan.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from longtake.apps import bench
from longtake.apps.tables import METHODS


def measure(methods: tuple[str, ...], ticks: int) -> list[dict[str, Any]]:
    """A row a method."""
    rows = []
    for name in methods:
        model = bench._model(METHODS[name])
        ratio, loop, calls = bench.overhead(METHODS[name], model, ticks)
        rows.append({"method": name, "ratio": ratio, "loop_seconds": loop, "call_seconds": calls,
                     "model": model.name, "dtype": model.dtype, "batch": bench.BATCH})  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def part(place: Any) -> None:
    """For everything.py."""
    import packing

    if place.dry:
        bench.ROUNDS = 1
    for row in measure(bench.QUICK[:1] if place.dry else bench.QUICK, 1 if place.dry else 4):
        packing.row(place.work, "overhead", place.device, row)


def main() -> None:
    """Measure the contract's methods and write one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.write_text(json.dumps({"overhead": measure(bench.QUICK, 4)}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
