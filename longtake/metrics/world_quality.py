"""What good means in pocket's world, where the truth can be rendered.

    visual quality   how near a clip's pictures are to rendered clips of the same caption, in the judge's features:
                     every picture's cosine to the nearest of 96 true pictures (8 clips whose hidden attributes and
                     moments differ), averaged over 12 pictures and over the roles subject and place
    motion quality   probability of the captioned motion, as the judge reads it, times warp consistency
    text alignment   log probability of the caption's words for subject, place, time and motion, summed; no word counts
                     less than log 1e-4, so that a classifier's arrogance does not decide a mean

Warp consistency is how well each picture can be made of the one after it by moving small patches: a picture whose
patches (5 x 5) are all found again within 4 pixels scores 1, one that differs by a tenth of the full scale or more
everywhere scores 0. A still video scores 1 there and fails by the probability of its motion.

The set of judges is `measure`; a search must not follow it. What rendered truth scores is the ceiling
(`benchmarks/ceiling.py`): none of these numbers reaches 1, or 0, by itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from longtake.metrics import judge as judging
from longtake.world.grammar import Scene, scene
from longtake.world.renderer import render

NUM_REFERENCES = 8  # rendered clips of a caption
FIRST_REFERENCE = 70_000_000  # numbers of the scenes whose hidden attributes they take
REACH, PATCH, SCALE = 4, 5, 0.1  # of warp consistency: pixels, pixels, difference of full scale that counts as lost
LEAST = math.log(1e-4)
WORDS = ("subject", "place", "time", "motion")


@dataclass(frozen=True)
class Quality:
    """One clip's numbers; higher is better everywhere. `words` are log probabilities by attribute."""

    visual_quality: float
    motion_quality: float
    text_alignment: float
    warp: float
    words: dict[str, float]


def quality(judge: judging.Judge, clip: Tensor, wanted: Scene, seed: int = 0) -> Quality:
    """Judge a clip uint8 [T,H,W,3] of at least 2 frames by the scene its caption tells; `seed` is the references'."""
    reading = judging.read(judge, clip.permute(0, 3, 1, 2)[None])
    words = {key: max(said_of(reading, key, getattr(wanted, key)), LEAST) for key in WORDS}
    warp = warp_consistency(clip)
    return Quality(
        visual_quality=nearness(judge, clip, references(wanted, seed)),
        motion_quality=math.exp(words["motion"]) * warp,
        text_alignment=sum(words.values()),
        warp=warp,
        words=words,
    )


def said_of(reading: judging.Reading, key: str, word: str) -> float:
    """Log probability of one word in the reading of one clip."""
    return float(reading.says[key][0, judging.CLASSES[key].index(word)])


@lru_cache(maxsize=4)
def references(wanted: Scene, seed: int = 0, num_frames: int = judging.SPAN) -> list[Tensor]:
    """Rendered clips of the same caption, each uint8 [T,H,W,3]: other tints, sizes, ridges, moments."""
    others = [scene(FIRST_REFERENCE + NUM_REFERENCES * seed + i) for i in range(NUM_REFERENCES)]
    told = {key: getattr(wanted, key) for key in ("subject", "place", "time", "motion", "camera", "prop")}
    clip = render([replace(other, **told) for other in others], num_frames, start=[37 * i for i in range(len(others))])
    return [pixels.permute(0, 2, 3, 1).contiguous() for pixels in clip.pixels]


def nearness(judge: judging.Judge, clip: Tensor, truth: list[Tensor]) -> float:
    """Mean cosine of the clip's pictures to the nearest true picture, over both roles."""
    found = []
    for role in ("subject", "place"):
        encode = judging.Encoder(judge, role, role)
        own = F.normalize(encode(spread(clip)), dim=1)
        known = F.normalize(torch.cat([encode(spread(one)) for one in truth]), dim=1)
        found.append((own @ known.mT).amax(1).mean())
    return float(torch.stack(found).mean())


def spread(clip: Tensor, num: int = judging.LOOKS) -> Tensor:
    """Up to 12 pictures of a clip, evenly over it."""
    return clip[torch.linspace(0, len(clip) - 1, min(num, len(clip))).round().long()]


def warp_consistency(clip: Tensor) -> float:
    """How well each picture is made of patches of the next, 0..1; clip uint8 [T,H,W,3], read at 64 x 64."""
    video = (judging.unit(clip.permute(0, 3, 1, 2)) + 1) / 2
    here, after = video[:-1], F.pad(video[1:], (REACH,) * 4, mode="replicate")
    height, width = video.shape[-2:]
    best = torch.full((len(here), 1, height, width), torch.inf)
    for dy in range(2 * REACH + 1):
        for dx in range(2 * REACH + 1):
            moved = after[:, :, dy : dy + height, dx : dx + width]
            lost = (moved - here).abs().mean(1, keepdim=True)
            best = torch.minimum(best, F.avg_pool2d(lost, PATCH, 1, PATCH // 2, count_include_pad=False))
    edge = REACH + PATCH // 2  # what scrolls in at the edge has no past
    inner = best[:, :, edge:-edge, edge:-edge]
    return float((1 - inner / SCALE).clamp_min(0).mean())
