"""What previews know: how like the finished clip one of k steps is, and whether it ranks candidates alike.

    python benchmarks/search_previews.py [--captions 12] [--candidates 10]

The k-step paper's Fig. 6 (similarity against k) and Table 1 (spread of quality over seeds), ScalingNoise's Fig. 3b
(rank correlation of one-step scores with final ones, for two rewards of different roles: agreement and text). A row a
caption in `results/previews.jsonl`; rows that are there are not made again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import world_rows

import longtake
from longtake.apps.rewarding import Supplies, make_reward, parse_reward
from longtake.core.engine import Engine
from longtake.core.noise import fold
from longtake.core.rollout import Timeline, View
from longtake.core.solvers import Solver
from longtake.core.stream import stream
from longtake.metrics import judge as judging
from longtake.rollouts.chunk import Chunk
from longtake.training.reward import rank_correlation
from longtake.world.captions import caption
from longtake.world.grammar import scene

GRID = (1, 2, 3, 4, 6, 8, 12, 16)
REWARDS = ("consistency", "text")
RESULTS = world_rows.RESULTS / "previews.jsonl"


def views_of(model: Any, prompt: str, seed: int, candidates: int) -> tuple[list[View], dict[int, list[View]]]:
    """Each candidate's finished clip, and its previews by the number of their steps, as rewards see them."""
    can = model.denoiser.can
    clip, engine = (
        Chunk(can.latent_shape, model.denoiser.schedule, Solver(model.solver), can.window),
        Engine(model.denoiser),
    )
    start = engine.drive(clip.init(seed, Timeline.of(prompt)))
    finished, previews = [], {steps: [] for steps in GRID}
    for number in range(candidates):
        state = clip.fork(start, fold(0, "candidate", number) if number else 0)
        for steps in GRID:
            previews[steps].append(replace(engine.drive(clip.preview(state, steps)), prompt=prompt))
        latents = [x for _, emission in stream(clip, engine, state, can.window) for x in emission.latents]
        finished.append(View((), (), (), (), (), tuple(latents), len(latents), prompt=prompt))
    return finished, previews


def measure(model: Any, supplies: Supplies, prompt: str, seed: int, candidates: int) -> dict[str, Any]:
    """Similarity by steps, rank correlation by reward and steps, and the spread of final scores."""
    finished, previews = views_of(model, prompt, seed, candidates)
    eyes, encode = supplies.see({}), judging.encoder("measure", "subject")

    def features(views: list[View]) -> list[torch.Tensor]:
        return [torch.nn.functional.normalize(encode(pictures), dim=1) for pictures in eyes.look(views)]

    final = features(finished)
    similarity = {}
    for steps, views in previews.items():
        pairs = zip(features(views), final, strict=True)
        similarity[str(steps)] = sum(float((a * b).sum(1).mean()) for a, b in pairs) / len(final)
    return {"similarity": similarity, **agreement(supplies, finished, previews)}


def agreement(
    supplies: Supplies, finished: list[View], previews: dict[int, list[View]], names: tuple[str, ...] = REWARDS
) -> dict[str, Any]:
    """Rank correlation of previews' scores with final ones by reward and steps, and the spread of final scores."""
    agree, spread = {}, {}
    for name in names:
        reward = make_reward(parse_reward(name), supplies, {})
        truth = torch.tensor(reward(finished))
        spread[name] = {"least": float(truth.min()), "most": float(truth.max()), "std": float(truth.std())}
        agree[name] = {str(k): rank_correlation(torch.tensor(reward(views)), truth) for k, views in previews.items()}
    return {"rank_correlation": agree, "spread": spread}


def make(model: Any, path: Path, arm: str, options: argparse.Namespace, measure: Callable[..., dict[str, Any]]) -> None:
    """Append the rows of `arm` that are missing."""
    known = world_rows.done(path)
    supplies = Supplies(model.codec, model.source, model.window, model.denoiser.schedule)
    for number in range(options.captions):
        prompt = caption(scene(number, "heldout"))
        row = {"arm": arm, "caption": prompt, "seed": number, "weights": model.weights_hash, "judge": judging.label(),
               "model": "pocket"}  # fmt: skip
        if world_rows.key_of(row) not in known:
            model.prepare([prompt])
            metrics = measure(model, supplies, prompt, number, options.candidates)
            world_rows.append(path, {**row, "metrics": metrics})
            print(prompt, metrics["rank_correlation"], flush=True)


def main() -> None:
    """Make the rows that are missing and print their means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=int, default=12)
    parser.add_argument("--candidates", type=int, default=10)
    options = parser.parse_args()
    model = longtake.load("pocket", num_steps=24)
    make(model, RESULTS, f"{options.candidates} candidates", options, measure)
    rows = [row["metrics"] for row in world_rows.read(RESULTS) if row["weights"] == model.weights_hash]
    for steps in map(str, GRID):
        told = [f"{name} {sum(r['rank_correlation'][name][steps] for r in rows) / len(rows):+.2f}" for name in REWARDS]
        alike = sum(r["similarity"][steps] for r in rows) / len(rows)
        print(f"{steps:>3} steps: similarity {alike:.3f}, rank correlation {', '.join(told)} (n = {len(rows)})")


if __name__ == "__main__":
    main()
