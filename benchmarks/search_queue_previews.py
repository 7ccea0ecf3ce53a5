"""What a look at the newest row of a queue knows: whether it ranks its noises as the finished window will.

    python benchmarks/search_queue_previews.py [--captions 12] [--candidates 10]

ScalingNoise's Fig. 3b where its beam works: at two ticks of FIFO on pocket the row that enters is given other noise, is
looked at by 1 (the estimate that the tick makes), 2, 4, 8 and 12 steps, and each copy of the queue then goes on until
the row is out, with the same noise in all rows that enter later. Both are scored as one window behind the same anchor,
the newest finished latent when the row enters. A row a caption in `results/queue_previews.jsonl`,
averaged over its ticks; rows that are there are not made again.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import search_previews
import world_rows

import longtake
from longtake.apps.rewarding import Supplies, make_reward, parse_reward
from longtake.core.engine import Engine
from longtake.core.noise import fold
from longtake.core.rollout import Timeline, View
from longtake.core.solvers import Solver
from longtake.core.step import all_of
from longtake.rollouts.fifo import Fifo
from longtake.search import branch

GRID, TICKS, KEEP = (2, 4, 8, 12), (30, 48), 16
RESULTS = world_rows.RESULTS / "queue_previews.jsonl"


def looked(fifo: Any, engine: Engine, parent: branch.Member, line: Timeline, many: int) -> Any:
    """(views of the finished windows, previews by steps) of `many` noises of the row that enters."""
    (row,) = fifo.fresh(parent.state)
    assert parent.memory is not None, "nothing is finished yet, so there is no anchor"
    forks = [fifo.fork(parent.state, fold(0, "candidate", number) if number else 0) for number in range(many)]
    forks = [replace(fork, path=parent.state.path) for fork in forks]  # what enters later is the same in all
    members = [replace(parent, state=state) for state in forks]
    found: dict[int, list[View]] = {1: []}
    for steps in GRID:
        seen = engine.drive(all_of([(fifo.preview, (member.state, steps)) for member in members]))
        found[steps] = [branch.look(fifo, member, line, view) for member, view in zip(members, seen, strict=True)]
    out: list[list[Any]] = [[] for _ in members]
    while members[0].state.emitted <= row:
        moves = engine.drive(all_of([(fifo.step, (member.state,)) for member in members]))
        members = [replace(member, state=state) for member, (state, _) in zip(members, moves, strict=True)]
        for latents, (_, emission) in zip(out, moves, strict=True):
            latents += emission.latents
        if not found[1]:
            found[1] = [branch.look(fifo, member, line) for member in members]
    window = fifo.window
    finished = [replace(view, index=(), x=(), x0=tuple(latents[-window:]), level=(), cond=())
                for view, latents in zip(found[1], out, strict=True)]  # fmt: skip
    found[1] = [replace(view, x0=view.x0[-window:]) for view in found[1]]
    return finished, dict(sorted(found.items()))


def measure(model: Any, supplies: Supplies, prompt: str, seed: int, candidates: int) -> dict[str, Any]:
    """Rank correlations and spreads by reward, averaged over ticks."""
    can, line, engine = model.denoiser.can, Timeline.of(prompt), Engine(model.denoiser, batch=4)
    fifo = Fifo(can.latent_shape, model.denoiser.schedule, Solver(model.solver), can.window)
    reward = make_reward(parse_reward("+".join(search_previews.REWARDS)), supplies, {})
    member = branch.first(reward, engine.drive(fifo.init(seed, line)), (), KEEP, branch.begun(fifo, seed))
    told: list[dict[str, Any]] = []
    for tick in range(max(TICKS) + 1):
        if tick in TICKS:
            member, _ = branch.settled(reward, member)
            finished, previews = looked(fifo, engine, member, line, candidates)
            told.append(agreement(supplies, finished, previews))
        member = branch.moved(member, *engine.drive(fifo.step(member.state)), KEEP)
    return averaged(told)


def agreement(supplies: Supplies, finished: list[View], previews: dict[int, list[View]]) -> dict[str, Any]:
    """Of search_previews, each reward with its own part of the branch's memory."""
    names = search_previews.REWARDS

    def own(view: View, place: int) -> View:
        return replace(view, memory=view.memory[place] if view.memory else None)

    found: dict[str, Any] = {}
    for place, name in enumerate(names):
        here = [own(view, place) for view in finished]
        looks = {steps: [own(view, place) for view in views] for steps, views in previews.items()}
        for key, value in search_previews.agreement(supplies, here, looks, (name,)).items():
            found.setdefault(key, {}).update(value)
    return found


def averaged(told: list[Any]) -> Any:
    """Nested numbers, each as their mean."""
    if isinstance(told[0], dict):
        return {key: averaged([one[key] for one in told]) for key in told[0]}
    return sum(told) / len(told)


def main() -> None:
    """Make the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=int, default=12)
    parser.add_argument("--candidates", type=int, default=10)
    options = parser.parse_args()
    model = longtake.load("pocket", num_steps=24)
    search_previews.make(model, RESULTS, f"{options.candidates} candidates on the queue", options, measure)


if __name__ == "__main__":
    main()
