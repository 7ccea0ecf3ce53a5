"""What `eval` costs: memory over a long video, and time by size and metric.

    python benchmarks/metrics.py [--frames 10000] [--out benchmarks/results/metrics.jsonl]

Appends one row. `rss_*`: resident size after a tenth of the frames, after all, and after the entries are made, with the
pixel metrics and the encoders at hand on 64 x 64 frames; flat is a growth of at most 2 % or 8 MB (the contract's rule).
`ms_a_frame`: by size and fold, each alone, decoding and coding apart.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from longtake.metrics import drift, repetition, scenes, vbench
from longtake.metrics.entries import entries
from longtake.metrics.look import Eyes, Look
from tests import films

SIZES = ((64, 64), (320, 512), (480, 832), (1080, 1920))
TIMED = 9
"""Frames of a timing, which sees the second to the last."""


def memory(num_frames: int) -> dict[str, Any]:
    """Resident size while a long video passes."""
    process, film = psutil.Process(), films.moving(512)
    look, sizes, began = Look(Eyes.at_hand(), num_frames, films.FPS), [], time.time()
    with torch.inference_mode():
        for start in range(0, num_frames, 16):
            look.update(film[start % 496 : start % 496 + 16][: num_frames - start])
            sizes.append(process.memory_info().rss)
        seconds = time.time() - began
        entries(look)
    early, late = sizes[len(sizes) // 10], sizes[-1]
    return {
        "frames": num_frames, "rss_at_10": early, "rss_at_end": late, "rss_after_entries": process.memory_info().rss,
        "flat": late - early <= max(0.02 * early, 8 << 20), "seconds": round(seconds, 1),
    }  # fmt: skip


def times(height: int, width: int) -> dict[str, float]:
    """Milliseconds a frame of every fold."""
    small = films.moving(TIMED, side=64).permute(0, 3, 1, 2).float()
    film = F.interpolate(small, (height, width), mode="bilinear").round().to(torch.uint8)
    film = film.permute(0, 2, 3, 1).contiguous()
    eyes, found = Eyes.at_hand(), {}
    folds: dict[str, Any] = {
        "temporal_flickering": vbench.Flicker(), "scene_count": scenes.Scenes(), "colour_drift": drift.Colours(),
        "repetition": repetition.Thumbnails(),
    }  # fmt: skip
    if eyes.flow:
        folds[f"dynamic_degree ({eyes.flow.name})"] = vbench.Motion(eyes.flow, 1, most_side=512)
    if eyes.middle:
        folds[f"motion_smoothness ({eyes.middle.name})"] = vbench.Smoothness(eyes.middle, most_side=512)
    for role in ("subject", "background"):
        encoder = getattr(eyes, role)
        if encoder:
            folds[f"{role}_consistency ({encoder.name})"] = vbench.Consistency(encoder)
    for name, fold in folds.items():
        found[name] = round(timed(fold, film), 2)
    return found


def timed(fold: Any, film: Tensor) -> float:
    """Milliseconds a frame after the first."""
    with torch.inference_mode():
        fold.update(film[:1])
        began = time.perf_counter()
        fold.update(film[1:])
    return 1000 * (time.perf_counter() - began) / (len(film) - 1)


def main() -> None:
    """Measure and append the row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "metrics.jsonl")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    row = {
        "what": "metrics", "date": datetime.date.today().isoformat(), "commit": commit, "machine": platform.processor()
        or platform.machine(), "torch": torch.__version__, "threads": 1, **memory(arguments.frames),
        "ms_a_frame": {f"{width}x{height}": times(height, width) for height, width in SIZES},
    }  # fmt: skip
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with open(arguments.out, "a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
