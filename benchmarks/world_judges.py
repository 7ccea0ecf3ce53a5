"""The judges judged: what each set gets right on held-out truth, as rendered and through pocket's autoencoder.

    python benchmarks/world_judges.py [--clips 120]

A row a set in `results/judges.jsonl`. Beside the accuracies: mean cosines of features between two pictures of the same
subject in two places (`near`), of two subjects of one kind that differ in tint and size (`kind`), and of two subjects
of different kinds (`far`); and so for places.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import world_rows

import longtake
from longtake.metrics import judge as judging
from longtake.metrics.world import ASKED, average, clip_of, read, recoded, share
from longtake.training.judge_data import four
from longtake.world.grammar import scene
from longtake.world.renderer import render

FIRST, FIRST_FOUR = 20_000, 3 * 10**9  # numbers of scenes that nothing is trained on
FOURS = 150


def accuracies(model: Any, judges: dict[str, judging.Judge], num: int) -> dict[str, dict[str, Any]]:
    """Shares right, by set."""
    hits: dict[str, dict[str, list[bool]]] = {name: {} for name in judges}
    for seed in range(FIRST, FIRST + num):
        wanted = scene(seed, "heldout")
        clip = clip_of(wanted, judging.SPAN)
        for kind, shown in (("truth", clip), ("through_vae", recoded(model, clip))):
            for name, judge in judges.items():
                said = read(judge, shown)
                for key in ASKED:
                    hits[name].setdefault(f"{kind}_{key}", []).append(said[key] == getattr(wanted, key))
    return {name: {key: share(values) for key, values in found.items()} for name, found in hits.items()}


def cosines(which: str) -> dict[str, Any]:
    """How near the features of pictures are that share a subject, a kind of subject, or neither; and so for places."""
    groups = [four(FIRST_FOUR + seed) for seed in range(FOURS)]
    pictures = render([one for group in groups for one in group], 1, start=11).pixels[:, 0].permute(0, 2, 3, 1)
    found: dict[str, Any] = {}
    for role, same in (("subject", ((0, 1), (2, 3))), ("place", ((0, 2), (1, 3)))):
        unit = F.normalize(judging.encoder(which, role)(pictures), dim=1).unflatten(0, (-1, 4))
        values: dict[str, list[float]] = {"near": [], "kind": [], "far": []}
        for vectors, group in zip(unit, groups, strict=True):
            values["near"] += [float(vectors[i] @ vectors[j]) for i, j in same]
            a, b = group[same[0][0]], group[same[1][0]]
            alike = getattr(a, role) == getattr(b, role)
            values["kind" if alike else "far"].append(float(vectors[same[0][0]] @ vectors[same[1][0]]))
        found |= {f"{role}_{key}": average(part) for key, part in values.items()}
    return found


def main() -> None:
    """Measure both sets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=120)
    parser.add_argument("--out", type=Path, default=world_rows.RESULTS / "judges.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = longtake.load("pocket")
    rows = {which: {"arm": which, "caption": f"{options.clips} held-out", "seed": FIRST, "weights": model.weights_hash,
                    "judge": judging.label(which), "frames": judging.SPAN} for which in judging.SETS}  # fmt: skip
    known = world_rows.done(options.out)
    rows = {which: row for which, row in rows.items() if world_rows.key_of(row) not in known}
    judges = {which: judging.load(judging.WEIGHTS / which) for which in rows}
    for which, found in accuracies(model, judges, options.clips).items() if rows else ():
        world_rows.append(options.out, rows[which] | {"metrics": found | cosines(which)})
        print(which, {key: round(value["mean"], 3) for key, value in found.items()}, flush=True)


if __name__ == "__main__":
    main()
