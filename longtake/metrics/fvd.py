"""FVD between two collections of videos, over any video features, and the inception score of one, on clips.

Clips of two seconds are PA-VDM's way (Sec. 4): long videos are few, so each is cut into clips, and the distance is that
of the clips' features. Clips do not overlap and a last partial one is left out, so no frame counts twice. The encoder
samples a clip to the length it was made for. With VideoMAE-v2 or I3D features this is FVD as published (Unterthiner et
al. 2018, Ge et al. 2024) up to the choice of clips; the entry names the encoder, the numbers of clips, their frames
and shrinkage.

Memory: one clip and the features.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from longtake.metrics.frechet import frechet, inception_score, over_clips
from longtake.metrics.measure import portions
from longtake.output.video import probe
from longtake.rewards.features import VideoEncoder

CLIP_SECONDS = 2.0


def fvd(
    encoder: VideoEncoder,
    first: Iterable[Path],
    second: Iterable[Path],
    seconds: float = CLIP_SECONDS,
    shrink: bool = False,
) -> dict[str, Any]:
    """{"value", "encoder", "n", "dimensions", "shrinkage", "frames"} of two collections of video files.

    frames: the lengths of each one's clips. Where these differ (files of unlike rates) and the encoder takes any length
    (I3D does), clips of one length in seconds are compared, which papers with clips of 16 frames do not do.
    UsageError if one has too few clips for the encoder's dimensions (see `frechet`).
    """
    lengths: list[set[int]] = [set(), set()]
    with torch.inference_mode():
        one, two = (
            over_clips(encoder, _measured(_clips(paths, seconds), known))
            for paths, known in zip((first, second), lengths, strict=True)
        )
    return {"encoder": encoder.name, **frechet(one, two, shrink), "frames": [sorted(known) for known in lengths]}


def inception(classifier: VideoEncoder, videos: Iterable[Path], seconds: float = CLIP_SECONDS) -> dict[str, Any]:
    """{"value", "encoder", "n"}: the inception score of the clips of a collection.

    The features are read as logits of classes, such as C3D's on UCF-101, which papers take.
    """
    with torch.inference_mode():
        logits = over_clips(classifier, _clips(videos, seconds))
    return {"value": inception_score(logits.double().softmax(1)), "encoder": classifier.name, "n": len(logits)}


def clips_of(path: Path, seconds: float = CLIP_SECONDS) -> Iterator[UInt8[Tensor, "T H W 3"]]:
    """The whole clips of a video, one after the other; a shorter video is one clip."""
    length = max(1, round(seconds * float(probe(path).fps)))
    held: Tensor | None = None
    whole = False
    for frames in portions(path):
        held = frames if held is None else torch.cat([held, frames])
        while len(held) >= length:
            yield held[:length]
            held, whole = held[length:], True
    if held is not None and not whole:
        yield held


def _measured(clips: Iterable[Tensor], known: set[int]) -> Iterator[Tensor]:
    for clip in clips:
        known.add(len(clip))
        yield clip


def _clips(paths: Iterable[Path], seconds: float) -> Iterator[Tensor]:
    for path in paths:
        yield from clips_of(path, seconds)
