"""The evidence on searches for n = 120 captions and more: the arms of benchmarks/search.py, many films at a time.

    python benchmarks/gpu/searching.py --to rows.jsonl [--captions 120] [--model pocket] [--arms beam-2 ...]

Films of an arm go in lockstep: the windows that they ask for in a tick are batched over all of them, and each film's
network evaluations are counted as if it had been alone (equal calls once, dead ones never). Rewards are what is slow,
and they are Python: so captions are spread over processes that share the accelerator. Rows are those of
benchmarks/search.py, `seconds` being the group's wall time over its films; what is there is not made again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import search
import torch
import world_rows
from torch import Tensor

import longtake
from longtake.core.engine import Engine, cost_of
from longtake.core.plan import dead_calls
from longtake.core.rollout import Timeline
from longtake.core.step import all_of
from longtake.metrics import judge as judging
from longtake.world.captions import caption
from longtake.world.grammar import scene

GROUP = 10  # films that go in lockstep in one process
BATCH = 256  # windows in one forward
CAPTIONS = 120
WORKERS = 12
MAIN = tuple(name for name, arm in search.ARMS.items() if arm.main and not arm.chain)
MORE = tuple(name for name in search.ARMS if name not in MAIN)


@dataclass
class Film:
    """A film under way: its rollout, where it is, what it has cost and what came out."""

    rollout: Any
    state: Any
    latents: list[Tensor] = field(default_factory=list)
    dead: list[frozenset[int]] | None = None
    cost: dict[str, float] = field(default_factory=lambda: {"nfe": 0, "decodes": 0, "judged": 0})

    def going(self, length: int) -> bool:
        """Whether it wants another tick."""
        return not self.state.finished and self.state.emitted < length


def counted(step: Any, denoiser: Any, film: Film, dead: frozenset[int]) -> Any:
    """A step whose calls are counted for its film, dead ones being answered here as the engine would."""
    reply: Any = None
    asked = 0
    while True:
        try:
            calls = step.send(reply)
        except StopIteration as stop:
            return stop.value
        live = {call.key: call for place, call in enumerate(calls) if asked + place not in dead}
        asked += len(calls)
        film.cost["nfe"] += sum(cost_of(denoiser, call.levels) for call in live.values())
        answers = dict(zip(live, (yield list(live.values())) if live else [], strict=True))
        reply = [answers[call.key] if call.key in answers
                 else torch.stack([row.to(denoiser.device) for row in call.x]) for call in calls]  # fmt: skip


def together(rollouts: Sequence[Any], denoiser: Any, prompts: Sequence[str], seeds: Sequence[int], length: int,
             batch: int = BATCH) -> list[Film]:  # fmt: skip
    """Films of these rollouts, prompts and seeds, as `core.stream` would make each alone up to last bits."""
    engine, films = Engine(denoiser, batch), [Film(rollout, None) for rollout in rollouts]
    begun = [(counted, (film.rollout.init(seed, Timeline.of(prompt)), denoiser, film, frozenset[int]()))
             for film, prompt, seed in zip(films, prompts, seeds, strict=True)]  # fmt: skip
    for film, state in zip(films, engine.drive(all_of(begun)), strict=True):
        film.state = state
    while going := [film for film in films if film.going(length)]:
        tasks = []
        for film in going:
            if film.dead is None and length - film.state.emitted <= film.rollout.in_flight:
                film.dead = dead_calls(film.rollout, film.state, length)
            skip = film.dead.pop(0) if film.dead else frozenset()
            tasks.append((counted, (film.rollout.step(film.state), denoiser, film, skip)))
        for film, (state, emission) in zip(going, engine.drive(all_of(tasks)), strict=True):
            film.state = state
            film.latents += emission.latents
            film.cost["decodes"] += emission.info.decodes
            film.cost["judged"] += emission.info.reward_calls
    return films


def frames_of(model: Any, film: Film, length: int) -> Tensor:
    """Decoded, uint8 [T,H,W,3]."""
    frames, cache = [], None
    for part in torch.stack(film.latents[:length]).split(13):
        shown, cache = model.codec.decode(part, cache)
        frames.append(shown)
    return torch.cat(frames)


def group(model: Any, name: str, numbers: Sequence[int], to: Path, short: bool) -> None:
    """One arm for these captions; appends a row for each."""
    arm, known = search.ARMS[name], world_rows.done(to)
    length = (12 + 10 * (4 if short else 19)) if arm.chain else 14 if short else search.QUEUE
    rows = {}
    for number in numbers:
        prompt = caption(scene(number, "heldout"))
        row = {"arm": name, "caption": prompt, "seed": number, "weights": model.weights_hash,
               "judge": judging.label(), "frames": 4 * length - 3, "model": "pocket"}  # fmt: skip
        if world_rows.key_of(row) not in known:
            rows[number] = row
    if not rows:
        return
    prompts = [row["caption"] for row in rows.values()]
    model.prepare(prompts)
    began = time.monotonic()
    films = together([search.rollout_of(arm, model, length) for _ in rows], model.denoiser, prompts, [*rows], length)
    seconds = (time.monotonic() - began) / len(rows)
    for film, row in zip(films, rows.values(), strict=True):
        clip = frames_of(model, film, length)
        ends = [4 * (12 + 10 * (many - 1)) - 3 for many in (5, 10, 20)] if arm.chain else [len(clip)]
        metrics = {str(end): search.measured(clip[:end], row["caption"]) for end in ends if end <= len(clip)}
        world_rows.append(to, {**row, **film.cost, "seconds": seconds, "metrics": metrics})


def work(model: str, device: str, arms: Sequence[str], numbers: Sequence[int], to: Path, end: float,
         short: bool = False) -> None:  # fmt: skip
    """Group after group, arm after arm, so that what is there at the end is paired."""
    torch.set_num_threads(1)
    loaded = longtake.load(model, num_steps=search.STEPS, device=device, dtype="float32")
    there = [name for name in arms if search.possible(search.ARMS[name], loaded)]
    for first in range(0, len(numbers), GROUP):
        for name in there:
            if time.time() > end:
                print(f"time is up before {name} of captions {numbers[first : first + GROUP]}", flush=True)
                return
            began = time.monotonic()
            group(loaded, name, numbers[first : first + GROUP], to, short)
            print(f"{name} of {numbers[first : first + GROUP]}: {time.monotonic() - began:.1f} s", flush=True)


def spread(model: str, device: str, arms: Sequence[str], captions: int, folder: Path, minutes: float,
           short: bool = False) -> None:  # fmt: skip
    """Captions over processes, each with a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    workers = max(1, min(WORKERS, (os.cpu_count() or 1) - 2, captions))
    spawn, end = multiprocessing.get_context("spawn"), time.time() + 60 * minutes
    every = []
    for first in range(workers):
        mine, to = list(range(first, captions, workers)), folder / f"search-{first:02d}.jsonl"
        every.append(spawn.Process(target=work, args=(model, device, arms, mine, to, end, short)))
    for one in every:
        one.start()
    for one in every:
        one.join()
    if any(one.exitcode for one in every):
        raise SystemExit("a process of the searches failed")


def part(place: Any, arms: Sequence[str]) -> None:
    """For everything.py: with the pocket that was trained here, if there is one, else the one that ships."""
    import packing
    import search_tables

    own = place.work / "pocket"
    chosen = ("fifo", "beam-1") if place.dry else arms
    spread(str(own) if own.is_dir() else "pocket", place.device, chosen, 1 if place.dry else CAPTIONS,
           place.work / "search", place.minutes - 0.7, place.dry)  # fmt: skip
    rows = [row for path in sorted((place.work / "search").glob("search-*.jsonl")) for row in packing.read(path)]
    print(search_tables.tables(rows))
    packing.row(place.work, "search", place.device, {"rows": len(rows), "arms": sorted({row["arm"] for row in rows})})


def main_arms(place: Any) -> None:
    """The main rows."""
    part(place, MAIN)


def more_arms(place: Any) -> None:
    """Ablations and chains."""
    part(place, (*MAIN, *MORE))


def main() -> None:
    """Make the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, required=True, help="a folder of files of rows")
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--captions", type=int, default=CAPTIONS)
    parser.add_argument("--arms", nargs="+", choices=search.ARMS, default=[*MAIN, *MORE])
    parser.add_argument("--minutes", type=float, default=8.5)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    spread(options.model, options.device, options.arms, options.captions, options.to, options.minutes)


if __name__ == "__main__":
    main()
