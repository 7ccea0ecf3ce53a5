"""The ceiling: every metric on 20 rendered truth clips, as they are and through pocket's autoencoder.

    python benchmarks/ceiling.py [--clips 20] [--seconds 5.6] [--out benchmarks/results/ceiling.jsonl]

Appends a row a clip: the numbers of pocket's world (`metrics/world_quality`), the judge's answers, and every metric of
`longtake eval FILE` that has an encoder on this machine. A row that is there is not made again; `--table` prints means
with 95 % bootstrap intervals of what is there. No number of a generated clip means anything but beside these.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import world_rows
from torch import Tensor

import longtake
from longtake.metrics import judge as judging
from longtake.metrics.entries import entries
from longtake.metrics.look import Eyes, Look
from longtake.metrics.world import ASKED, average, read, recoded
from longtake.metrics.world_quality import quality
from longtake.world.captions import caption
from longtake.world.grammar import Scene, scene
from longtake.world.renderer import render

FIRST = 6000  # numbers of the held-out scenes
FPS = 8


def numbers(judge: judging.Judge, eyes: Eyes, clip: Tensor, wanted: Scene, seed: int) -> dict[str, Any]:
    """Every metric of a clip uint8 [T,H,W,3]."""
    good = quality(judge, clip, wanted, seed)
    said = read(judge, clip)
    found: dict[str, Any] = {
        "visual_quality": good.visual_quality, "motion_quality": good.motion_quality,
        "text_alignment": good.text_alignment, "warp_consistency": good.warp,
    }  # fmt: skip
    found |= {f"{key}_right": float(said[key] == getattr(wanted, key)) for key in ASKED}
    look = Look(eyes, len(clip), FPS)
    with torch.inference_mode():
        for part in clip.split(16):
            look.update(part)
    for name, entry in entries(look).items():
        if entry.get("value") is not None:
            found[name] = float(entry["value"])
        if "flow" in entry:
            found["mean_flow"] = entry["flow"]
    return found


def measure(options: argparse.Namespace) -> None:
    """Make the rows that are missing."""
    model, judge, eyes = longtake.load("pocket"), judging.load(), Eyes.at_hand()
    frames = 4 * round(options.seconds * FPS / 4) + 1
    known = world_rows.done(options.out)
    for number in range(options.clips):
        wanted = scene(FIRST + number, "heldout")
        row = {"caption": caption(wanted), "seed": FIRST + number, "weights": model.weights_hash,
               "judge": judging.label(), "frames": frames, "nfe": 0}  # fmt: skip
        arms = [arm for arm in ("truth", "coded") if world_rows.key_of(row | {"arm": arm}) not in known]
        if not arms:
            continue
        truth = render([wanted], frames).pixels[0].permute(0, 2, 3, 1).contiguous()
        for arm in arms:
            clip = truth if arm == "truth" else recoded(model, truth)
            found = numbers(judge, eyes, clip, wanted, number)
            world_rows.append(options.out, row | {"arm": arm, "metrics": found})
        print(f"{number + 1} of {options.clips}: {row['caption']}", flush=True)


def table(path: Path) -> str:
    """Means of the newest judge's rows by arm, with intervals, as Markdown."""
    rows = world_rows.read(path)
    if not rows:
        return "no rows"
    newest = [row for row in rows if (row["judge"], row["weights"]) == (rows[-1]["judge"], rows[-1]["weights"])]
    lines = ["| metric | truth | truth through the autoencoder |", "|---|---|---|"]
    for name in sorted({key for row in newest for key in row["metrics"]}):
        cells = []
        for arm in ("truth", "coded"):
            values = [row["metrics"][name] for row in newest if row["arm"] == arm and name in row["metrics"]]
            told = average(values) if values else None
            cells.append(f"{told['mean']:.3f} [{told['low']:.3f}, {told['high']:.3f}]" if told else "-")
        lines.append(f"| {name} | {cells[0]} | {cells[1]} |")
    count = len({row["seed"] for row in newest})
    return "\n".join([*lines, "", f"n = {count} clips, weights {rows[-1]['weights']}, judge {rows[-1]['judge']}"])


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=5.6)
    parser.add_argument("--out", type=Path, default=world_rows.RESULTS / "ceiling.jsonl")
    parser.add_argument("--table", action="store_true", help="print what is there")
    options = parser.parse_args()
    if not options.table:
        measure(options)
    print(table(options.out))


if __name__ == "__main__":
    main()
