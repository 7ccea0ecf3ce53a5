"""Pocket's speeds, as the median of several: a window call, a guided pair, a latent decoded, a whole base clip.

    python benchmarks/world_speed.py [--threads 2]

Appends a row to results/speed.jsonl with the load of the machine before: numbers of a busy machine say little.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import world_rows

import longtake
from longtake.metrics.world import draw

PROMPT = "a dog walks right across green hills at noon"
BARS = {"window_call": 0.045, "guided_pair": 0.09, "base_clip": 4.0, "decode_latent": 0.15}  # seconds, 2 quiet cores


def median(run: Callable[[], Any], rounds: int) -> float:
    """Seconds of the middle one of several runs after one that does not count."""
    run()
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


@torch.inference_mode()
def measure() -> dict[str, float]:
    """Seconds by name."""
    plain, guided = longtake.load("pocket", guidance=1.0), longtake.load("pocket")
    window, shape = guided.window, guided.denoiser.can.latent_shape
    x, levels = torch.randn(1, window, *shape), torch.full((1, window), 12)
    latents = torch.randn(4, *shape)
    _, cache = guided.codec.decode(torch.randn(1, *shape))
    return {
        "window_call": median(lambda: plain.denoiser(x, levels, [PROMPT]), 15),
        "guided_pair": median(lambda: guided.denoiser(x, levels, [PROMPT]), 15),
        "decode_latent": median(lambda: guided.codec.decode(latents, cache), 7) / len(latents),
        "base_clip": median(lambda: draw(guided, PROMPT, 1), 3),
    }


def main() -> None:
    """Measure and print beside the bars."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=world_rows.RESULTS / "speed.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    found = measure()
    world_rows.append(options.out, {"threads": options.threads, "load_before": load, "seconds": found, "bars": BARS})
    for key, value in found.items():
        print(f"{key:<14} {value:.4f} s   bar {BARS[key]:g} s")
    print(f"threads {options.threads}, load before {load:.1f}")


if __name__ == "__main__":
    main()
