"""Fits the whitening of EfficientNet-Lite on rendered subjects, and says what it is worth on subjects it never saw.

python -m longtake.training.whitening efficientnet-lite0

A subject is an animal or vehicle with its tint and size; its pictures differ in place, time of day, motion, camera,
props, shade and backdrop. A third of the kinds of subject is kept for the test, which asks how often two pictures of
the same subject are nearer (cosine) than two of different kinds: the area under the ROC curve (AUC).
"""

from __future__ import annotations

import argparse
import dataclasses
import random

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from longtake.rewards import features
from longtake.rewards.encoders.whitening import WEIGHTS, fit
from longtake.world.grammar import SUBJECTS, Scene, scene
from longtake.world.renderer import render

SUBJECTS_OF_A_KIND, PICTURES = 10, 5


def pictures(num_subjects: int, num_pictures: int) -> tuple[Tensor, Tensor, Tensor]:
    """(pictures uint8 [N,64,64,3], whose [N], of which kind [N]) of `num_subjects` subjects of every kind."""
    pool: dict[str, list[Scene]] = {name: [] for name in SUBJECTS}
    for seed in range(6000):
        found = scene(seed, "train")
        pool[found.subject].append(found)
    scenes, whose, kinds = [], [], []
    for kind, name in enumerate(SUBJECTS):
        for number in range(num_subjects):
            draw = random.Random(f"whitening/{name}/{number}")
            one = draw.choice(pool[name])
            for other in draw.sample(pool[name], num_pictures):
                scenes.append(dataclasses.replace(other, tint=one.tint, size=one.size))
                whose.append(kind * num_subjects + number)
                kinds.append(kind)
    starts = [random.Random(f"whitening/start/{i}").randrange(24) for i in range(len(scenes))]
    shots = [render(scenes[i : i + 50], 1, start=starts[i : i + 50]).pixels[:, 0] for i in range(0, len(scenes), 50)]
    return torch.cat(shots).permute(0, 2, 3, 1).contiguous(), torch.tensor(whose), torch.tensor(kinds)


def auc(vectors: Tensor, whose: Tensor, kinds: Tensor) -> float:
    """How often two pictures of one subject are nearer than two of different kinds of subject."""
    unit = F.normalize(vectors.double(), dim=1)
    near = unit @ unit.T
    upper = torch.ones_like(near, dtype=torch.bool).triu(1)
    same = near[upper & (whose[:, None] == whose)]
    other = near[upper & (kinds[:, None] != kinds)].sort().values
    below = torch.searchsorted(other, same) + torch.searchsorted(other, same, right=True)
    return float(below.double().mean() / (2 * len(other)))


def main() -> None:
    """Fit, test, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["efficientnet-lite0", "efficientnet-lite2"])
    kind = parser.parse_args().kind
    shots, whose, kinds = pictures(SUBJECTS_OF_A_KIND, PICTURES)
    found = features.load(kind)(shots)
    kept = kinds % 3 == 0
    fitted = fit(found[~kept], whose[~kept])
    test = (whose[kept], kinds[kept])
    centred = found[kept] - found[~kept].mean(0)
    print(f"{kind}: fitted on {int((~kept).sum())} pictures, tested on {int(kept.sum())} of other kinds of subject")
    print(f"AUC raw {auc(found[kept], *test):.3f}, centred {auc(centred, *test):.3f}, ", end="")
    white = (found[kept].double() - fitted["mean"]) @ fitted["matrix"]
    print(f"whitened {auc(white, *test):.3f}")
    WEIGHTS.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half().contiguous() for name, value in fitted.items()}, WEIGHTS / f"{kind}.safetensors")


if __name__ == "__main__":
    main()
