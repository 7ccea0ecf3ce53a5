"""Searches on pocket, each against the run without it: agreement, motion, cost and time.

    python benchmarks/search.py [--profile quick|full] [--arms beam-2 ...] [--captions 8]
    python benchmarks/search.py --plan           # what the missing rows will cost on this machine, and nothing else
    python benchmarks/search.py --table          # docs/search-evidence.md again, of the rows that are there

The preset `lab`: 24 steps, queues of 101 frames with two partitions, chains of clips. Rewards look with the judge's
set for rewards, metrics with the set for measuring; motion stands beside every agreement. A row an arm and caption in
`results/search.jsonl`; rows that are there are not made again, so a run that was cut off goes on where it stopped.
`quick` is 8 captions, chains of 5 clips and the main arms; `full` is 24 captions (12 for ablations) and 20 clips, of
which 5 and 10 are the beginning.

Tables: k-step over naive chunks with brute force beside it; the queue with best-of-N and beams of width 1 to 4;
reward, proposals and preview ablations of the beam; latsearch, evolution, FreeInit and best-of-N at the same cost.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import search_plan
import search_tables
import torch
import world_rows
from torch import Tensor

import longtake
from longtake.apps.rewarding import Supplies, make_reward, parse_reward
from longtake.apps.searches import SEARCHES, make_search
from longtake.core.engine import Engine
from longtake.core.rollout import Timeline
from longtake.core.solvers import Solver
from longtake.core.stream import stream
from longtake.metrics import judge as judging
from longtake.metrics import vbench
from longtake.rewards import features, reward_model
from longtake.rollouts.chunk import Chunk
from longtake.rollouts.fifo import Fifo
from longtake.world.captions import caption
from longtake.world.grammar import scene

STEPS, QUEUE = 24, 26  # latents of 101 frames
FLOOR = {"motion": {"floor": 0.01}}
RESULTS = world_rows.RESULTS / "search.jsonl"


@dataclass(frozen=True)
class Arm:
    """A row of a table: method, search with its parameters, reward with its own; clips None: 101 frames."""

    method: str
    search: str = "none"
    values: dict[str, Any] = field(default_factory=dict)
    reward: str = "consistency"
    reward_values: dict[str, dict[str, Any]] = field(default_factory=lambda: FLOOR)
    chain: bool = False
    main: bool = True
    quick: bool = True


def _beam(**values: Any) -> dict[str, Any]:
    return {"candidates": 5, **values}


def _only(name: str) -> dict[str, Any]:
    return _beam(width=2, proposals=((name, 1.0),))


def _parts(name: str) -> dict[str, dict[str, Any]]:
    return {**FLOOR, "consistency": {"parts": name}}


ARMS: dict[str, Arm] = {
    # k-step search, Tables 2 and 3; m is not given there for its main rows, 10 in its example
    "chain": Arm("chunk", chain=True),
    "chain-k-step": Arm("chunk", "k-step", {"candidates": 10, "preview_steps": 4}, "clip-min", chain=True),
    "chain-brute": Arm("chunk", "best-of-n", {"candidates": 10}, "clip-min", chain=True, quick=False),
    # ScalingNoise, Table 2 and Fig. 3a
    "fifo": Arm("fifo"),
    "fifo-best-of-3": Arm("fifo", "best-of-n", {"candidates": 3, "scope": "video"}),
    "fifo-best-of-5": Arm("fifo", "best-of-n", {"candidates": 5, "scope": "video"}, quick=False),
    "beam-1": Arm("fifo", "beam", _beam(width=1)),
    "beam-1-two-steps": Arm("fifo", "beam", _beam(width=1, preview_steps=2)),  # on flow, one step sees no new noise
    "beam-1-four-steps": Arm("fifo", "beam", _beam(width=1, preview_steps=4), quick=False),
    "beam-2": Arm("fifo", "beam", _beam(width=2)),
    "beam-3": Arm("fifo", "beam", _beam(width=3)),
    "beam-4": Arm("fifo", "beam", _beam(width=4), quick=False),
    "beam-2-no-floor": Arm("fifo", "beam", _beam(width=2), reward_values={}, main=False),
    # its Table 4 and Table 5, whose width is not told there; 2 is that of its numbers on UCF-101
    "reward-local": Arm("fifo", "beam", _beam(width=2), reward_values=_parts("local"), main=False),
    "reward-anchor": Arm("fifo", "beam", _beam(width=2), reward_values=_parts("anchor"), main=False),
    "reward-first": Arm(
        "fifo", "beam", _beam(width=2), reward_values={**FLOOR, "consistency": {"anchor": "first"}}, main=False
    ),
    **{f"proposal-{name}": Arm("fifo", "beam", _only(name), quick=False)
       for name in ("gaussian", "fft", "renoise", "neighbour", "inversion")},
    # its Table 3, on clips: one step, ten steps, all of them
    "clip-one-step": Arm("chunk", "beam", {"width": 1, "candidates": 10}, main=False),
    "clip-ten-steps": Arm("chunk", "beam", {"width": 1, "candidates": 10, "preview_steps": 10}, main=False),
    "clip-full": Arm("chunk", "best-of-n", {"candidates": 10}, main=False),
    # LatSearch's table: about four times the cost of the run without a search
    "clips": Arm("chunk"),
    "clips-best-of-4": Arm("chunk", "best-of-n", {"candidates": 4}, "consistency+text"),
    "clips-latsearch": Arm("chunk", "latsearch", {"particles": 8}, "consistency+text"),
    "clips-latsearch-latent": Arm(
        "chunk", "latsearch", {"particles": 8}, "latent-reward", {"motion": {"floor": 0.2, "of": "latents"}}
    ),
    "clips-evolve": Arm("chunk", "evolve", {"population": (2, 2, 1)}, "consistency+text", quick=False),
    "clips-freeinit": Arm("chunk", "freeinit", {"iterations": 4}, quick=False),
    "clips-k-step": Arm("chunk", "k-step", {"candidates": 18, "preview_steps": 4}, "consistency+text"),
    # what --search-budget 4x picks: fewer candidates and a better look at each (a test holds these to apps/budget)
    "clips-k-step-4x": Arm(
        "chunk", "k-step", {"candidates": 9, "preview_steps": 8}, "consistency+text", quick=False
    ),
    "beam-4x": Arm("fifo", "beam", {"width": 1, "candidates": 2, "preview_steps": 4}, quick=False),
}  # fmt: skip


def draws(arm: Arm) -> dict[str, str]:
    """What a row says of an arm whose search draws which candidates it tries or keeps: by the seed."""
    names = [name for name, _ in arm.values.get("proposals", ())]
    chosen = {
        "latsearch": True,
        "beam": names not in (["gaussian"], ["fft"], ["inversion"]),
        "evolve": max(arm.values.get("population", ())[1:], default=0) > 2,  # the elite's children are not drawn
    }
    return {"draws": "seed"} if chosen.get(arm.search) else {}


def possible(arm: Arm, model: Any) -> bool:
    """Whether the model has what the arm judges by: freshly trained weights have no latent reward model yet."""
    return arm.reward != "latent-reward" or reward_model.exists(model.source)


def rollout_of(arm: Arm, model: Any, length: int) -> Any:
    """The arm's method and search."""
    can, schedule, solver = model.denoiser.can, model.denoiser.schedule, Solver(model.solver)
    make: Callable[..., Any] = Fifo if arm.method == "fifo" else Chunk
    inner = make(can.latent_shape, schedule, solver, can.window)
    if arm.search == "none":
        return inner
    supplies = Supplies(model.codec, model.source, can.window, schedule)
    reward = make_reward(parse_reward(arm.reward), supplies, arm.reward_values)
    return make_search(SEARCHES[arm.search], inner, reward, arm.values, length)


def film(rollout: Any, model: Any, prompt: str, seed: int, length: int) -> tuple[Tensor, dict[str, Any]]:
    """(frames uint8 [T,H,W,3], what they cost). Time is that of the whole, decoding for rewards included."""
    engine, cache, frames, left = Engine(model.denoiser), None, [], length
    began, decodes, judged, seconds = time.monotonic(), 0, 0, 0.0
    state = engine.drive(rollout.init(seed, Timeline.of(prompt)))
    for _, emission in stream(rollout, engine, state, length):
        seconds += time.monotonic() - began
        latents = emission.latents[:left]
        left -= len(latents)
        decodes, judged = decodes + emission.info.decodes, judged + emission.info.reward_calls
        if latents:
            part, cache = model.codec.decode(torch.stack(list(latents)), cache)
            frames.append(part)
        began = time.monotonic()
    cost = {"nfe": engine.meter.nfe, "decodes": decodes, "judged": judged, "seconds": seconds}
    return torch.cat(frames), cost


def measured(clip: Tensor, prompt: str) -> dict[str, float | None]:
    """Agreement of subject and place, mean flow in pixels, words of the prompt: by what no reward looks with."""
    subject, place = (vbench.Consistency(judging.encoder("measure", role)) for role in ("subject", "place"))
    flow = features.find("flow")
    assert flow is not None
    motion = vbench.Motion(flow, 1)
    for fold in (subject, place, motion):
        fold.update(clip)
    from longtake.rewards.text import Words

    words = Words(judging.load(judging.WEIGHTS / "measure"), "pocket-judge/measure", motion=True)
    return {
        "subject": subject.result(),
        "subject_consecutive": vbench.consecutive(subject.to_previous),
        "place": place.result(),
        "flow": motion.mean(),
        "words": words([clip], [prompt])[0],
    }


def missing(options: argparse.Namespace, model: Any) -> list[tuple[dict[str, Any], int]]:
    """(row without its results, length in latents) of all that is to be made: caption by caption, so that what is
    there is always paired.
    """
    known, quick, found = world_rows.done(RESULTS), options.profile == "quick", []
    chain = 5 if quick else 20
    for number in range(options.captions or (8 if quick else 24)):
        prompt = caption(scene(number, "heldout"))
        for name in options.arms or ARMS:
            arm = ARMS[name]
            if not possible(arm, model):
                continue
            if not options.arms and ((quick and not (arm.quick and arm.main)) or (not arm.main and number >= 12)):
                continue
            length = 12 + 10 * (chain - 1) if arm.chain else QUEUE
            row = {"arm": name, "caption": prompt, "seed": number, "weights": model.weights_hash,
                   "judge": judging.label(), "frames": 4 * length - 3, "model": "pocket", **draws(arm)}  # fmt: skip
            if world_rows.key_of(row) not in known:
                found.append((row, length))
    return found


def planned(options: argparse.Namespace, model: Any) -> str:
    """What the missing rows will cost here."""
    films: dict[tuple[str, int], int] = {}
    for row, length in missing(options, model):
        films[row["arm"], length] = films.get((row["arm"], length), 0) + 1
    supplies = Supplies(model.codec, model.source, model.denoiser.can.window, model.denoiser.schedule)
    speed = search_plan.measured(model, make_reward(parse_reward("consistency"), supplies, FLOOR))
    costs = [
        search_plan.cost_of(name, rollout_of(ARMS[name], model, length), model.denoiser.cost, length, many)
        for (name, length), many in films.items()
    ]
    return search_plan.told(costs, speed)


def make(options: argparse.Namespace, model: Any) -> None:
    """Make the rows that are missing."""
    for row, length in missing(options, model):
        name, prompt, number = row["arm"], row["caption"], row["seed"]
        arm = ARMS[name]
        model.prepare([prompt])
        clip, cost = film(rollout_of(arm, model, length), model, prompt, number, length)
        prefixes = [4 * (12 + 10 * (many - 1)) - 3 for many in (5, 10, 20)] if arm.chain else [len(clip)]
        metrics = {str(end): measured(clip[:end], prompt) for end in prefixes if end <= len(clip)}
        world_rows.append(RESULTS, {**row, **cost, "metrics": metrics})
        print(f"{number} {name}: {cost['nfe']} NFE, {cost['seconds']:.0f} s", flush=True)


def main() -> None:
    """Make rows, print tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", choices=("quick", "full"), default="quick")
    parser.add_argument("--arms", nargs="+", choices=ARMS)
    parser.add_argument("--captions", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--table", action="store_true", help="only write the page of what is there")
    parser.add_argument(
        "--later", type=int, default=0, help="tables printed here leave out so many captions: a hint of theirs, tested"
    )
    parser.add_argument("--plan", action="store_true", help="only say what it will cost")
    options = parser.parse_args()
    if not options.table:
        model = longtake.load("pocket", num_steps=STEPS, device=options.device)
        print(planned(options, model), flush=True)
        if options.plan:
            return
        make(options, model)
    print(search_tables.tables([row for row in world_rows.read(RESULTS) if row["seed"] >= options.later]))
    search_tables.write()


if __name__ == "__main__":
    main()
