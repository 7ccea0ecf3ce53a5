"""Flat memory over a long run: FIFO on the tiny random pipeline, decoded, filmed and checkpointed.

    python benchmarks/length.py [--latents 10000] [--out benchmarks/results/length.jsonl]

Appends one row: resident size at 10 % and at the end. Flat is a difference of at most 2 % or 8 MB (CONTRACT.md 6).
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import platform
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from longtake.apps import session
from longtake.apps.settings import Request
from longtake.testing.tiny import save_tiny


def measure(num_latents: int) -> dict[str, Any]:
    """Run to `num_latents` latents and sample the resident size."""
    process, sizes = psutil.Process(), []
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "tiny"
        save_tiny(model)
        frames = 1 + 4 * (num_latents - 1)
        request = Request("a dog", model=str(model), method="fifo", frames=frames, seed=1, guidance=1.0,
                          set=("fifo.partitions=1",))  # fmt: skip
        work = session.start(request)
        run = session.begin(work, Path(folder) / "run")
        began, latest = time.time(), 0
        with session.running(work, run) as (_, progress):
            for at in progress:
                if at.frames // (frames // 100) > latest:
                    latest = at.frames // (frames // 100)
                    gc.collect()
                    sizes.append(process.memory_info().rss)
        state = sum(path.stat().st_size for path in run.path.iterdir() if path.name != "video.mp4")
    early, late = sizes[max(len(sizes) // 10 - 1, 0)], sizes[-1]
    growth = late - early
    return {
        "latents": num_latents, "seconds": round(time.time() - began, 1), "rss_at_10": early, "rss_at_end": late,
        "growth": growth, "flat": growth <= max(0.02 * early, 8 << 20), "files_besides_video": state,
    }  # fmt: skip


def main() -> None:
    """Measure and append the row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latents", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "length.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(1)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    row = {"date": datetime.date.today().isoformat(), "commit": commit, "machine": platform.processor() or "cpu",
           **measure(options.latents)}  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
