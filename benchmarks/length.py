"""Flat memory over a long run: FIFO or MIGA on the tiny random pipeline or on pocket, decoded, filmed, checkpointed.

    python benchmarks/length.py [--latents 10000] [--model tiny|pocket] [--method fifo|miga]

Appends one row: resident size, open files and the disk taken by state (checkpoints and snapshots, not the film and its
trace) at 10 % and at the end. Flat is at most 2 % or 8 MB more memory, no file more, and no more than the 32 snapshots
that a run may keep. 2,500 latents of pocket, 10,000 frames, are 21 minutes of film: about 20 minutes on a quiet core.
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

from longtake.apps import planning, session
from longtake.apps.settings import Request
from longtake.output.snapshots import LIMIT
from longtake.testing.tiny import save_tiny

CHEAP = {
    "fifo": ("fifo.partitions=1",),
    "miga": ("miga.zigzag=2", "miga.handover=1", "miga.anchors=1"),
}
"""Few network calls a latent: what is measured is memory, not pictures."""


def measure(num_latents: int, model: str = "tiny", method: str = "fifo") -> dict[str, Any]:
    """Run to `num_latents` latents and sample memory, handles and disk."""
    process, samples = psutil.Process(), []
    with tempfile.TemporaryDirectory() as folder:
        source = model
        if model == "tiny":
            source = str(Path(folder) / "tiny")
            save_tiny(Path(source))
            small = {"window": 4, "fps": 12, "steps": 4, "size": [32, 32], "guidance": 1.0}
            (Path(source) / "longtake.json").write_text(json.dumps(small))
        frames = 1 + 4 * (num_latents - 1)
        prompt = "a dog walks right across green hills at noon"
        steps = None if method == "fifo" else 4 if model == "tiny" else 12
        request = Request(prompt, model=source, method=method, frames=frames, seed=1, guidance=1.0, steps=steps,
                          set=CHEAP[method])  # fmt: skip
        announced = planning.dry_run(*planning.plan(request)[:2])[0].first_nfe
        work, first = session.start(request), 0
        run = session.begin(work, Path(folder) / "run")
        began, latest = time.time(), 0
        with session.running(work, run) as (_, progress):
            for at in progress:
                first = first or (work.job.engine.meter.nfe if at.frames else 0)
                if at.frames * 100 // frames > latest:
                    latest = at.frames * 100 // frames
                    gc.collect()
                    samples.append((process.memory_info().rss, process.num_fds(), _state_size(run.path)))
        snapshots = len(list(run.snapshots.glob("*.json")))
        ended = run.finished or {}
    early, late = samples[max(len(samples) // 10 - 1, 0)], samples[-1]
    largest = max(late[2] / max(snapshots + 2, 1), 1)  # of one state: the newest, the open one and the snapshots
    flat = late[0] - early[0] <= max(0.02 * early[0], 8 << 20) and late[1] <= early[1] and snapshots <= LIMIT
    return {
        "model": model, "method": method, "latents": num_latents, "frames": ended.get("frames"),
        "nfe": ended.get("nfe"), "first_nfe_announced": announced, "first_nfe": first,
        "seconds": round(time.time() - began, 1), "rss_at_10": early[0], "rss_at_end": late[0],
        "growth": late[0] - early[0], "files_at_10": early[1], "files_at_end": late[1], "state_at_10": early[2],
        "state_at_end": late[2], "snapshots": snapshots, "state_bytes": round(largest), "flat": flat,
    }  # fmt: skip


def _state_size(folder: Path) -> int:
    kept = [path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors")]
    return sum(path.stat().st_size for path in kept if path.exists())


def main() -> None:
    """Measure and append the row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latents", type=int, default=10_000)
    parser.add_argument("--model", choices=("tiny", "pocket"), default="tiny")
    parser.add_argument("--method", choices=tuple(CHEAP), default="fifo")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "length.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(1)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    row = {"date": datetime.date.today().isoformat(), "commit": commit, "machine": platform.processor() or "cpu",
           **measure(options.latents, options.model, options.method)}  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
