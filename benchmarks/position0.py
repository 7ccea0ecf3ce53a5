"""What should stand at position 0 of a continuing window? Wan-type networks learned to find a picture's latent there.

    python benchmarks/position0.py [--captions 8] [--seconds 23] [--methods chunk fifo progressive rolling miga]

A video begins with the latent of one pixel frame, and windows that continue it begin with a latent of four. Arms: `as
is` (that latent), `picture` (its last pixel frame, decoded and encoded again as a picture), `anchor` (the latent that
the video itself began with); beside them `adain`, which is not about position 0: later clips of `chunk` brought to
the first one's colours (`chunk.color_match`). Only rows that a window reads and does not write are exchanged; in `miga`
that is the first guide, which is noisy, and the anchor is told as the clean latent that it is. A row an arm and caption
in `results/position0.jsonl`, resumable; the last lines printed are paired differences to `as is` with 95 % bootstrap
intervals over captions. What each curve means: longtake/metrics/world_drift.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import world_rows
from torch import Tensor

import longtake
from longtake.core.engine import Engine
from longtake.core.rollout import Timeline
from longtake.core.solvers import Solver
from longtake.core.step import Call
from longtake.core.stream import stream
from longtake.metrics import judge as judging
from longtake.metrics.world_drift import drift
from longtake.rollouts.chunk import Chunk
from longtake.rollouts.fifo import Fifo
from longtake.rollouts.miga import Miga
from longtake.rollouts.progressive import Progressive
from longtake.rollouts.rolling import Rolling
from longtake.world.captions import caption
from longtake.world.grammar import scene

ARMS = ("as is", "picture", "anchor", "adain")
ABLE = {"adain": ("chunk",), "picture": ("chunk", "fifo", "progressive", "rolling")}
"""Methods that an arm is for; others are for all."""
OUT = world_rows.RESULTS / "position0.jsonl"


class Led(Engine):
    """An engine that exchanges what stands at position 0 of windows that continue the video."""

    def __init__(self, denoiser: Any, arm: str, codec: Any) -> None:
        super().__init__(denoiser)
        self.arm, self.codec = arm, codec
        self.done: list[Tensor] = []
        self.pictures: dict[int, Tensor] = {}
        self.frames: dict[int, Tensor] = {}
        self.cache: Any = None

    def released(self, latents: Sequence[Tensor]) -> None:
        """Finished latents; the last frame of each is kept for `picture`."""
        for latent in latents:
            part, self.cache = self.codec.decode(latent[None], self.cache)
            self.frames[len(self.done)] = part[-1:]
            self.done.append(latent)

    def answer(self, calls: Sequence[Call], dead: Collection[int] = ()) -> list[Tensor]:
        return super().answer([self._led(call) for call in calls], dead)

    def _led(self, call: Call) -> Call:
        index = call.window.read[0]
        if self.arm == "anchor" and self.done and call.levels[0] and index not in call.window.write:  # a guide of miga
            return replace(call, x=(self.done[0], *call.x[1:]), levels=(0, *call.levels[1:]))
        if (
            self.arm in ("as is", "adain")
            or index < 1
            or index in call.window.write
            or call.levels[0]
            or index >= len(self.done)
        ):
            return call
        if self.arm == "anchor":
            return replace(call, x=(self.done[0], *call.x[1:]))
        if index not in self.pictures:
            self.pictures[index] = self.codec.encode(self.frames[index])[0].to(call.x[0])
        return replace(call, x=(self.pictures[index], *call.x[1:]))


def film(model: Any, method: str, arm: str, prompt: str, seed: int, num_latents: int) -> tuple[Tensor, int]:
    """A long shot uint8 [T,H,W,3] and its network evaluations."""
    can, schedule, solver = model.denoiser.can, model.denoiser.schedule, Solver(model.solver)
    rollout: Any = {
        "chunk": lambda: Chunk(
            can.latent_shape, schedule, solver, can.window, 2, color_match="adain" if arm == "adain" else "none"
        ),
        "fifo": lambda: Fifo(can.latent_shape, schedule, solver, can.window),
        "progressive": lambda: Progressive(can.latent_shape, schedule, solver, can.window - 1),
        "rolling": lambda: Rolling(can.latent_shape, schedule, solver, can.window),
        "miga": lambda: Miga(can.latent_shape, schedule, solver, can.window),
    }[method]()
    engine, cache, frames = Led(model.denoiser, arm, model.codec), None, []
    state = engine.drive(rollout.init(seed, Timeline.of(prompt)))
    for _, emission in stream(rollout, engine, state, num_latents):
        engine.released(emission.latents)
    for latent in engine.done[:num_latents]:
        part, cache = model.codec.decode(latent[None], cache)
        frames.append(part)
    return torch.cat(frames), engine.meter.nfe


def measure(options: argparse.Namespace) -> None:
    """Make the rows that are missing."""
    judge, num_latents = judging.load(), round(options.seconds * 8 / 4) + 1
    steps = {"fifo": 36, "progressive": 33, "miga": 36}
    models = {method: longtake.load("pocket", num_steps=steps.get(method)) for method in options.methods}
    known = world_rows.done(options.out)
    for number in range(options.captions):
        wanted = scene(number, "heldout")
        for method in options.methods:
            for arm in [arm for arm in options.arms if method in ABLE.get(arm, options.methods)]:
                row = {"arm": f"{method}, {arm}", "caption": caption(wanted), "seed": number, "judge": judging.label(),
                       "weights": models[method].weights_hash, "frames": 4 * num_latents - 3}  # fmt: skip
                if world_rows.key_of(row) in known:
                    continue
                began = time.monotonic()
                clip, nfe = film(models[method], method, arm, row["caption"], number, num_latents)
                row |= {"nfe": nfe, "seconds": time.monotonic() - began, "metrics": drift(judge, clip, wanted)}
                world_rows.append(options.out, row)
                print(f"{row['arm']}: {row['caption']} ({row['seconds']:.0f} s)", flush=True)


def table(out: Path) -> None:
    """Paired differences to `as is`, by method and curve (mean over all pieces but the first)."""
    rows = world_rows.read(out)
    draw = torch.Generator().manual_seed(0)
    for method in dict.fromkeys(row["arm"].split(", ")[0] for row in rows):
        for arm in ARMS[1:]:
            for key in rows[0]["metrics"]:
                pairs = _pairs(rows, f"{method}, as is", f"{method}, {arm}", key)
                if len(pairs) > 1:
                    picks = torch.randint(0, len(pairs), (2000, len(pairs)), generator=draw)
                    low, high = torch.tensor(pairs)[picks].mean(1).quantile(torch.tensor([0.025, 0.975])).tolist()
                    told = "" if low * high > 0 else "   not resolved"
                    mean = sum(pairs) / len(pairs)
                    print(f"{method:<12} {arm:<8} {key:<18} {mean:+.4f} [{low:+.4f}, {high:+.4f}] n={len(pairs)}{told}")


def _pairs(rows: list[dict[str, Any]], base: str, arm: str, key: str) -> list[float]:
    value = {(r["arm"], r["caption"], r["weights"]): sum(r["metrics"][key][1:]) / (len(r["metrics"][key]) - 1)
             for r in rows if len(r["metrics"][key]) > 1}  # fmt: skip
    return [value[a, c, w] - value[base, c, w] for a, c, w in value if a == arm and (base, c, w) in value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--captions", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=23)
    parser.add_argument("--methods", nargs="+", default=["chunk", "fifo", "progressive"])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    options = parser.parse_args()
    if not options.table:
        measure(options)
    table(options.out)


if __name__ == "__main__":
    main()
