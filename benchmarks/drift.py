"""How far a minute drifts: naive chunks beside FIFO and beside rendered truth, in pocket's world.

    python benchmarks/drift.py [--captions 8] [--seconds 60] [--arms truth chunk pixel fifo progressive tuned]
    python benchmarks/drift.py --plot            # the plot again, of the rows that are there

`chunk` hands two latents on, `pixel` one decoded picture (how image-to-video pipelines are chained); `fifo` is the
queue with its defaults; `progressive` is PA-VDM on pocket as it is, `tuned` on pocket-progressive. Truth is the same
scene rendered for as long: its curve is what no drift looks like to these measures. A row an arm and caption in
`results/drift.jsonl`; rows that are there are not made again, so an interrupted run goes on where it stopped. The plot
shows means with 95 % bootstrap intervals over captions.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
import world_rows
from torch import Tensor
from world_plot import Panel, draw

import longtake
from longtake.core.engine import Engine
from longtake.core.rollout import Timeline
from longtake.core.solvers import Solver
from longtake.core.stream import stream
from longtake.metrics import judge as judging
from longtake.metrics.world import average
from longtake.metrics.world_drift import drift
from longtake.rollouts.chunk import Chunk
from longtake.rollouts.fifo import Fifo
from longtake.rollouts.progressive import Progressive
from longtake.world.captions import caption
from longtake.world.grammar import scene
from longtake.world.renderer import render

ARMS = ("truth", "chunk", "pixel", "fifo", "progressive", "tuned")
USUAL = ARMS[:4]
STEPS = {"fifo": 36, "progressive": 33, "tuned": 33}  # the methods' defaults on pocket; the others take the model's
PANELS = (
    ("subject_similarity", "the subject is still itself"),
    ("place_similarity", "the place is still itself"),
    ("subject_word", "log probability of the caption's subject"),
    ("motion_quality", "it moves as the caption says"),
    ("colour_shift", "shift of the mean colour, of 255"),
)
PLOT = Path(__file__).parent.parent / "docs" / "figures" / "drift.svg"


def film(model: Any, arm: str, prompt: str, seed: int, num_latents: int) -> tuple[Tensor, int]:
    """A long shot uint8 [T,H,W,3] by one arm's method, and its network evaluations."""
    can, schedule, solver = model.denoiser.can, model.denoiser.schedule, Solver(model.solver)
    if arm == "fifo":
        rollout: Any = Fifo(can.latent_shape, schedule, solver, can.window)
    elif arm in ("progressive", "tuned"):
        rollout = Progressive(can.latent_shape, schedule, solver, can.window - 1)
    elif arm == "pixel":
        rollout = Chunk(can.latent_shape, schedule, solver, can.window, 1, "pixel", model.codec)
    else:
        rollout = Chunk(can.latent_shape, schedule, solver, can.window, 2)
    engine, cache, frames, left = Engine(model.denoiser), None, [], num_latents
    state = engine.drive(rollout.init(seed, Timeline.of(prompt)))
    for _, emission in stream(rollout, engine, state, num_latents):
        latents = emission.latents[:left]
        left -= len(latents)
        if len(latents):
            part, cache = model.codec.decode(torch.stack(list(latents)), cache)
            frames.append(part)
    return torch.cat(frames), engine.meter.nfe


def measure(options: argparse.Namespace) -> None:
    """Make the rows that are missing, truth first."""
    judge, num_latents = judging.load(), round(options.seconds * 8 / 4) + 1
    base = longtake.load("pocket")
    models = {
        arm: longtake.load("pocket-progressive" if arm == "tuned" else "pocket", num_steps=STEPS.get(arm))
        for arm in options.arms
    }
    known, frames = world_rows.done(options.out), 4 * (num_latents - 1) + 1
    for number in range(options.captions):
        wanted = scene(number, "heldout")
        for arm in options.arms:
            row = {"arm": arm, "caption": caption(wanted), "seed": number, "weights": base.weights_hash,
                   "judge": judging.label(), "frames": frames, "model": models[arm].weights_hash}  # fmt: skip
            if world_rows.key_of(row) in known:
                continue
            began, nfe = time.monotonic(), 0
            if arm == "truth":
                clip = render([wanted], frames).pixels[0].permute(0, 2, 3, 1).contiguous()
            else:
                clip, nfe = film(models[arm], arm, row["caption"], number, num_latents)
            row |= {"nfe": nfe, "seconds": time.monotonic() - began, "metrics": drift(judge, clip, wanted)}
            world_rows.append(options.out, row)
            print(f"{arm}: {row['caption']} ({row['seconds']:.0f} s)", flush=True)


def plot(path: Path, to: Path) -> None:
    """Draw the rows of the newest weights."""
    rows = world_rows.read(path)
    newest = [row for row in rows if (row["judge"], row["weights"]) == (rows[-1]["judge"], rows[-1]["weights"])]
    panels = []
    for key, title in PANELS:
        lines = {}
        for arm in ARMS:
            curves = [row["metrics"][key] for row in newest if row["arm"] == arm]
            if curves:
                length = min(map(len, curves))
                lines[f"{arm} (n = {len(curves)})"] = [average([c[i] for c in curves]) for i in range(length)]
        panels.append(Panel(title, lines))
    to.parent.mkdir(parents=True, exist_ok=True)
    caption_of = f"pocket, weights {rows[-1]['weights']}, judge {rows[-1]['judge']}; 95 % intervals over captions"
    to.write_text(draw(panels, step=judging.SPAN / 8, below=caption_of))


def main() -> None:
    """Measure and plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(USUAL))
    parser.add_argument("--out", type=Path, default=world_rows.RESULTS / "drift.jsonl")
    parser.add_argument("--to", type=Path, default=PLOT)
    parser.add_argument("--plot", action="store_true", help="only draw")
    options = parser.parse_args()
    if not options.plot:
        measure(options)
    plot(options.out, options.to)
    print(f"wrote {options.to}")


if __name__ == "__main__":
    main()
