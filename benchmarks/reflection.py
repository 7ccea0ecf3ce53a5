"""The evidence on which self-reflection rests: does a noisy latent's consistency tell that of the finished one?

    python benchmarks/reflection.py [--captions 8] [--latents 49]

MIGA Fig. 3 c-d on pocket: long shots by FIFO, whose rows pass every level one after the other. For every place and
level the score of MIGA Eq. 5-7 (4 latents against the 8 before, all at that level), read off the noisy latents x, as in
the paper, and off the network's estimates x0; then its correlation over places with the score of the finished latents.
A row a caption in `results/reflection.jsonl` (resumable), a figure in `docs/figures/reflection.svg`.
"""

from __future__ import annotations

import argparse
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
from longtake.rewards.latent import latent_cosine
from longtake.rollouts.fifo import Fifo
from longtake.world.captions import caption
from longtake.world.grammar import scene

OUT = world_rows.RESULTS / "reflection.jsonl"
PLOT = Path(__file__).parent.parent / "docs" / "figures" / "reflection.svg"
EVAL, REF = 4, 8


Passed = dict[tuple[int, int], tuple[Tensor, Tensor]]


def passes(model: Any, prompt: str, seed: int, num: int) -> tuple[Passed, list[Tensor]]:
    """((row, level) -> (x, x0) as it was there, finished latents)."""
    can, schedule, solver = model.denoiser.can, model.denoiser.schedule, Solver(model.solver)
    rollout = Fifo(can.latent_shape, schedule, solver, can.window)
    engine, seen, done = Engine(model.denoiser), {}, []
    state = engine.drive(rollout.init(seed, Timeline.of(prompt)))
    for state, emission in stream(rollout, engine, state, num):
        done.extend(emission.latents)
        for row in state.queue.rows:
            if row.seen and row.memory.x0s and row.level:
                seen[row.index, row.level] = row.x, row.memory.x0s[0]
    return seen, done[:num]


def scores(latents: dict[int, Tensor]) -> dict[int, float]:
    """Eq. 5-7 at every place that has its latents."""
    found = {}
    for place in latents:
        judged, before = range(place, place + EVAL), range(place - REF, place)
        if all(index in latents for index in (*judged, *before)):
            found[place] = latent_cosine([latents[i] for i in judged], [latents[i] for i in before])
    return found


def correlation(left: dict[int, float], right: dict[int, float]) -> float | None:
    """Pearson's, over the places that both have; None with fewer than 8."""
    places = sorted(left.keys() & right.keys())
    if len(places) < 8:
        return None
    pair = torch.tensor([[left[p] for p in places], [right[p] for p in places]], dtype=torch.float64)
    value = torch.corrcoef(pair)[0, 1]
    return None if value.isnan() else float(value)


def measure(options: argparse.Namespace) -> None:
    """Make the rows that are missing."""
    model, known = longtake.load("pocket", num_steps=36), world_rows.done(OUT)
    for number in range(options.captions):
        wanted = caption(scene(number, "heldout"))
        row = {"arm": "fifo", "caption": wanted, "seed": number, "weights": model.weights_hash}
        row |= {"frames": options.latents}
        if world_rows.key_of(row) in known:
            continue
        seen, done = passes(model, wanted, number, options.latents)
        clean = scores(dict(enumerate(done)))
        curves: dict[str, list[float | None]] = {"x": [], "x0": []}
        for level in range(1, model.denoiser.schedule.num_steps):
            for part, name in enumerate(curves):
                at = {i: pair[part] for (i, k), pair in seen.items() if k == level and i < options.latents}
                curves[name].append(correlation(scores(at), clean))
        world_rows.append(OUT, row | {"metrics": curves, "sigmas": list(model.denoiser.schedule.sigmas[1:-1])})
        print(wanted, flush=True)


def plot() -> None:
    """Mean correlation by noise level, with 95 % bootstrap intervals over captions."""
    rows = world_rows.read(OUT)
    rows = [row for row in rows if row["weights"] == rows[-1]["weights"]]
    lines: dict[str, list[dict[str, float]]] = {}
    for name in ("x", "x0"):
        lines[name] = []
        for level, sigma in enumerate(rows[0]["sigmas"]):
            known = [row["metrics"][name][level] for row in rows if row["metrics"][name][level] is not None]
            point = interval(known or [0.0])
            lines[name].append(point)
            if level % 5 == 0:
                print(f"{name:<3} level {level + 1:>2} sigma {sigma:.2f}: r = {point['mean']:.2f} "
                      f"[{point['low']:.2f}, {point['high']:.2f}] n={len(known)}")  # fmt: skip
    below = "across: noise level, 1 (nearly clean) to S - 1; up: correlation with the finished latents' score"
    PLOT.write_text(draw([Panel("MIGA Fig. 3 d on pocket", lines)], 1.0, below, columns=2))


def interval(values: list[float]) -> dict[str, float]:
    """Mean and 95 % bootstrap interval."""
    x = torch.tensor(values)
    picks = torch.randint(0, len(x), (2000, len(x)), generator=torch.Generator().manual_seed(0))
    low, high = x[picks].mean(1).quantile(torch.tensor([0.025, 0.975])).tolist()
    return {"mean": float(x.mean()), "low": low, "high": high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--captions", type=int, default=8)
    parser.add_argument("--latents", type=int, default=49)
    parser.add_argument("--plot", action="store_true")
    options = parser.parse_args()
    if not options.plot:
        measure(options)
    plot()


if __name__ == "__main__":
    main()
