"""`eval --suite world`: how well a model of pocket's world draws what held-out captions say.

Clips are made as a user makes them (`plain`, the model's own defaults), one seed a caption. The judge's own accuracy on
rendered truth, as it is and through the model's autoencoder, stands beside every number it gives. What visual quality,
motion quality and text alignment are here stands in `world_quality`; what truth itself scores, in the ceiling.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from longtake.core.engine import Engine
from longtake.core.rollout import Timeline
from longtake.core.solvers import Solver
from longtake.core.stream import stream
from longtake.metrics import judge as judging
from longtake.metrics.world_quality import quality
from longtake.rollouts.plain import Plain
from longtake.world.captions import caption
from longtake.world.grammar import Scene, scene
from longtake.world.renderer import render

FRAMES = 45
FIRST_TRUTH = 5000  # seeds of the scenes that the judge is tested on, apart from those that captions come from
ASKED = ("subject", "place", "motion", "time")
QUALITIES = ("visual_quality", "motion_quality", "text_alignment")

Number = dict[str, float]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Size:
    """How many captions are drawn, clips and stills go through the autoencoder, and clips test the judge."""

    captions: int = 120
    clips: int = 16
    stills: int = 128
    judged: int = 96


def evaluate(model: Any, judge: judging.Judge, size: Size = Size(), say: Say = print) -> dict[str, Any]:
    """The suite's numbers with 95 % intervals; `say` is told what is being done."""
    say(f"autoencoder: {size.clips} held-out clips, {size.stills} stills")
    numbers: dict[str, Any] = {
        "vae_psnr": average(psnr(model, truth(range(size.clips), FRAMES))),
        "vae_psnr_stills": average(psnr(model, truth(range(size.stills), 1))),
    }
    scenes = [scene(seed, "heldout") for seed in range(size.captions)]
    said, good = [], []
    for number, wanted in enumerate(scenes):
        if number % 10 == 0:
            say(f"clips: {number} of {size.captions}")
        clip = draw(model, caption(wanted), seed=number)
        said.append(read(judge, clip))
        good.append(quality(judge, clip, wanted, seed=number))
    for key in ASKED:
        hits = [one[key] == getattr(wanted, key) for one, wanted in zip(said, scenes, strict=True)]
        numbers[f"{key}_accuracy"] = share(hits)
    for key in QUALITIES:
        numbers[key] = average([getattr(one, key) for one in good])
    say("the judge on rendered truth")
    return {**numbers, "judge": judge_accuracy(model, judge, size.judged)}


def draw(model: Any, prompt: str, seed: int) -> Tensor:
    """One clip of the model's window: uint8 (T, H, W, 3)."""
    can, denoiser = model.denoiser.can, model.denoiser
    rollout = Plain(can.latent_shape, denoiser.schedule, Solver(model.solver), can.window)
    engine = Engine(denoiser)
    state = engine.drive(rollout.init(seed, Timeline.of(prompt)))
    latents = [latent for _, emission in stream(rollout, engine, state) for latent in emission.latents]
    return model.codec.decode(torch.stack(latents))[0]


def truth(seeds: range, num_frames: int) -> list[Tensor]:
    """Rendered held-out clips, each uint8 (T, H, W, 3)."""
    return [clip_of(scene(seed, "heldout"), num_frames) for seed in seeds]


def clip_of(wanted: Scene, num_frames: int) -> Tensor:
    """A scene as it should look: uint8 (T, H, W, 3)."""
    return render([wanted], num_frames).pixels[0].permute(0, 2, 3, 1).contiguous()


def psnr(model: Any, clips: list[Tensor]) -> list[float]:
    """Decibels of each clip after its way through the autoencoder, on the uint8 pictures that a viewer sees."""
    found = []
    for clip in clips:
        error = (recoded(model, clip).float() - clip.float()).square().mean()
        found.append(10 * math.log10(255**2 / max(float(error), 1e-6)))
    return found


def recoded(model: Any, clip: Tensor) -> Tensor:
    """A clip through the autoencoder: uint8 (T, H, W, 3) to the same."""
    return model.codec.decode(model.codec.encode(clip))[0]


def read(judge: judging.Judge, clip: Tensor) -> dict[str, str]:
    """What the judge sees in a clip, by attribute."""
    said = judging.classify(judge, clip.permute(0, 3, 1, 2)[None])
    return {key: judging.CLASSES[key][int(said[key][0])] for key in ASKED}


def judge_accuracy(model: Any, judge: judging.Judge, num: int) -> dict[str, Number]:
    """What the judge gets right on held-out truth, as rendered and through the autoencoder."""
    hits: dict[str, list[bool]] = {f"{kind}_{key}": [] for kind in ("truth", "through_vae") for key in ASKED}
    for seed in range(FIRST_TRUTH, FIRST_TRUTH + num):
        wanted = scene(seed, "heldout")
        clip = clip_of(wanted, FRAMES)
        for kind, shown in (("truth", clip), ("through_vae", recoded(model, clip))):
            said = read(judge, shown)
            for key in ASKED:
                hits[f"{kind}_{key}"].append(said[key] == getattr(wanted, key))
    return {name: share(values) for name, values in hits.items()}


def share(hits: list[bool]) -> Number:
    """A fraction with its 95 % Wilson interval."""
    n, z = len(hits), 1.96
    p = sum(hits) / n
    middle, half = p + z * z / (2 * n), z * math.sqrt((p * (1 - p) + z * z / (4 * n)) / n)
    scale = 1 + z * z / n
    return {"mean": p, "low": max(0.0, (middle - half) / scale), "high": min(1.0, (middle + half) / scale), "n": n}


def average(values: list[float]) -> Number:
    """A mean with its 95 % bootstrap interval."""
    data = torch.tensor(values, dtype=torch.float64)
    picks = torch.randint(0, len(values), (2000, len(values)), generator=torch.Generator().manual_seed(0))
    low, high = torch.quantile(data[picks].mean(1), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return {"mean": float(data.mean()), "low": low, "high": high, "n": len(values)}
