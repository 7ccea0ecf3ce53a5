"""Searches at equal cost and at equal quality: whether each finds what it looks for, and for how much.

    python benchmarks/search_equal.py [--captions 12] [--first 24]

One clip of pocket (12 latents, 24 steps), 2, 4 and 8 times the cost of making it once, each search at the size that
`--search-budget` picks, which may cost less. All look by consistency+text with the floor under motion, but for
`latsearch-latent` (the latent reward model) and `freeinit` (nothing); `score` is that of the finished clip by
consistency+text, so it tells how well a search searches; whether the clip is better by what no reward looks with stands
beside it. LatSearch's comparison, and the k-step paper's claim that short looks buy the
quality of full ones. A row a run and caption in `results/equal.jsonl`; rows that are there are not made again.

Held-out captions from the 25th on: no other table of searches and no threshold of theirs was made with them.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from typing import Any

import search
import torch
import world_rows

import longtake
from longtake.apps.budget import afford
from longtake.apps.rewarding import Supplies, make_reward, parse_reward
from longtake.apps.searches import SEARCHES
from longtake.core.engine import Engine
from longtake.core.rollout import Timeline, View
from longtake.core.stream import stream
from longtake.errors import UsageError
from longtake.metrics import judge as judging
from longtake.world.captions import caption
from longtake.world.grammar import scene

FIRST, FACTORS = 24, (2, 4, 8)
BY = "consistency+text"
LATENT = {"reward": "latent-reward", "reward_values": {"motion": {"floor": 0.2, "of": "latents"}}}
RUNS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "best-of-n": ("best-of-n", {}, {}),
    "k-step": ("k-step", {}, {}),
    "k-step of one": ("k-step", {"preview_steps": 1}, {}),
    "latsearch": ("latsearch", {}, {}),
    "latsearch apart": ("latsearch", {"correlation": 1.0}, {}),  # added when latsearch was seen to stay near one noise
    "latsearch-latent": ("latsearch", {}, LATENT),
    "evolve": ("evolve", {}, {}),
    "local": ("local", {"mode": "zero-order"}, {}),
    "paths": ("local", {"mode": "paths"}, {}),
    "freeinit": ("freeinit", {}, {}),
}
"""Name of a run -> its search, what is set of it, and what of its arm differs."""
RESULTS = world_rows.RESULTS / "equal.jsonl"


def arms(model: Any) -> dict[str, search.Arm]:
    """Every run at every cost that can pay for it, by a name such as "k-step 4x"; "once" is none."""
    plain = search.Arm("chunk", reward=BY)
    found, inner = {"once": plain}, search.rollout_of(plain, model, model.window)
    for name, (row, values, more) in RUNS.items():
        for factor in FACTORS:
            try:
                size, reached = afford(SEARCHES[row], inner, values, float(factor), model.window)
            except UsageError:
                continue  # its smallest costs more
            if reached < 0.7 * factor:
                continue  # it has no more use for more
            arm = replace(plain, search=row, values=size, **more)
            if search.possible(arm, model):
                found[f"{name} {factor}x"] = arm
    return found


def run(model: Any, arm: search.Arm, prompt: str, seed: int, reward: Any) -> dict[str, Any]:
    """Make a clip; its cost, its score, and what no reward looks with."""
    rollout, engine = search.rollout_of(arm, model, model.window), Engine(model.denoiser)
    began, judged, latents = time.monotonic(), 0, []
    state = engine.drive(rollout.init(seed, Timeline.of(prompt)))
    for _, emission in stream(rollout, engine, state, model.window):
        latents += emission.latents
        judged += emission.info.reward_calls
    seconds = time.monotonic() - began
    view = View((), (), (), (), (), tuple(latents), len(latents), prompt=prompt)
    frames, _ = model.codec.decode(torch.stack(latents), None)
    metrics = {"score": reward([view])[0], **search.measured(frames, prompt)}
    return {"nfe": engine.meter.nfe, "judged": judged, "seconds": seconds, "metrics": metrics}


def there(row: dict[str, Any]) -> bool:
    """Whether the row was made, at the size that it has now."""
    key, size = world_rows.key_of(row), json.dumps(row["size"])
    return any(world_rows.key_of(old) == key and json.dumps(old["size"]) == size for old in world_rows.read(RESULTS))


def main() -> None:
    """Make the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=int, default=12)
    parser.add_argument("--runs", nargs="+", choices=RUNS, help="only these, and the clip made once")
    parser.add_argument("--first", type=int, default=FIRST, help="where to begin, for two processes side by side")
    options = parser.parse_args()
    model = longtake.load("pocket", num_steps=search.STEPS)
    supplies = Supplies(model.codec, model.source, model.window, model.denoiser.schedule)
    reward, every = make_reward(parse_reward(BY), supplies, search.FLOOR), arms(model)
    for number in range(options.first, options.first + options.captions):
        prompt = caption(scene(number, "heldout"))
        for name, arm in every.items():
            if options.runs and name != "once" and name.rpartition(" ")[0] not in options.runs:
                continue
            row = {"arm": name, "caption": prompt, "seed": number, "weights": model.weights_hash,
                   "judge": judging.label(), "model": "pocket", "size": arm.values, **search.draws(arm)}  # fmt: skip
            if not there(row):  # looked up anew: two processes may share the work
                model.prepare([prompt])
                made = run(model, arm, prompt, number, reward)
                world_rows.append(RESULTS, {**row, **made})
                print(f"{number} {name}: {made['nfe']} NFE, score {made['metrics']['score']:+.3f}", flush=True)


if __name__ == "__main__":
    main()
