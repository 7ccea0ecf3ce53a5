"""`longtake eval --suite world` as a row of results: append-only, with the weights' hash and the judge's.

    python benchmarks/world.py --name pocket-1 [--model pocket] [--captions 120]

A row of the same model weights, judge and number of captions is not made again.
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path

import world_rows

import longtake
from longtake.metrics import judge as judging
from longtake.metrics.world import Size, evaluate


def main() -> None:
    """Measure and append the row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", required=True, help="the set of weights, as tables call it")
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--captions", type=int, default=Size().captions)
    parser.add_argument("--out", type=Path, default=world_rows.RESULTS / "world.jsonl")
    options = parser.parse_args()
    model = longtake.load(options.model)
    row = {"arm": "plain", "model": options.model, "caption": f"{options.captions} held-out", "seed": 0,
           "weights": model.weights_hash, "judge": judging.label(), "frames": 45}  # fmt: skip
    if world_rows.key_of(row) in world_rows.done(options.out):
        print("this row is there")
        return
    began = time.monotonic()
    found = evaluate(model, judging.load(), Size(captions=options.captions))
    told = {"name": options.name, "machine": platform.machine(), "steps": model.steps,
            "guidance": model.guidance, "seconds": time.monotonic() - began}  # fmt: skip
    world_rows.append(options.out, row | told | {"judge_accuracy": found.pop("judge")} | found)
    for key, value in found.items():
        print(f"{key:<22} {value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}] n={value['n']}")


if __name__ == "__main__":
    main()
