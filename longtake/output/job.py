"""What a run is to make (`Job`), where it stands (`Position`), and latents turned into frames."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from longtake.core.engine import Engine
from longtake.core.model import Codec
from longtake.core.rollout import Emission, Timeline
from longtake.core.stream import stream
from longtake.output.turns import Turn
from longtake.output.video import Format, Tail


@dataclass(frozen=True)
class Job:
    """What is to be made, with everything needed to make it.

    context        clean latents (C, H, W) to continue, oldest first
    shows_context  whether their frames open the film (a picture does, a clip does not)
    num_frames     pixel frames of the film; None: endless
    num_latents    latents to emit for them
    expected_nfe   of the whole run, for the time left; None if unknown
    timeline       prompts before any turn
    turns          changes of direction, in order of time
    """

    rollout: Any
    engine: Engine
    codec: Codec
    timeline: Timeline
    seed: int
    form: Format
    num_frames: int | None = None
    num_latents: int | None = None
    context: tuple[Tensor, ...] = ()
    shows_context: bool = False
    expected_nfe: int | None = None
    turns: tuple[Turn, ...] = ()

    @property
    def memory(self) -> int:
        """Finished latents that a position keeps, for another method to go on from."""
        return max(self.engine.denoiser.can.window - 1, 1)

    @property
    def opening(self) -> Emission:
        """The context as an emission before the first: what warms the decoder's cache."""
        return Emission(-len(self.context), self.context)


@dataclass(frozen=True, eq=False)
class Position:
    """Where a run stands between two ticks: everything that the rest of it depends on.

    held        an emission not yet decoded; only at the end of a run
    frames      pixel frames of the film so far
    owed_*      cost of the ticks since the last non-empty emission, and their seconds
    digest      of the frames so far (`chain`)
    pruned_for  the number of latents for which calls were skipped: good for that length alone; None: good for any
    offset      latents released before `state` began to count
    turns       how many turns have been made
    past        the newest latents
    """

    state: Any
    cache: Any = None
    tail: Tail = field(default_factory=Tail)
    held: Emission | None = None
    frames: int = 0
    latents: int = 0
    nfe: int = 0
    frame_nfe: int = 0
    owed_nfe: int = 0
    owed_frame_nfe: int = 0
    owed_seconds: float = 0.0
    seconds: float = 0.0
    digest: str = ""
    trace_bytes: int = 0
    pruned_for: int | None = None
    offset: int = 0
    turns: int = 0
    past: tuple[Tensor, ...] = ()

    @property
    def released(self) -> int:
        """Latents released so far, those of an emission that is held included."""
        return self.offset + (0 if self.state is None else int(self.state.emitted))


@dataclass(frozen=True)
class Progress:
    """What to show of a run. `new` are the frames filmed since the last one, each (T, H, W, 3) uint8."""

    frames: int
    num_frames: int | None
    fps: float
    nfe: int
    nfe_per_second: float
    seconds_left: float | None
    new: tuple[Tensor, ...] = ()

    @property
    def video_seconds(self) -> float:
        """Length of the film so far."""
        return self.frames / self.fps


def progressed(job: Job, position: Position, new: list[Tensor], nfe_per_second: float) -> Progress:
    """What to show of a run that stands here and has just filmed `new`."""
    left = None
    if job.expected_nfe is not None and nfe_per_second > 0:
        left = max(job.expected_nfe - position.nfe, 0) / nfe_per_second
    fps = float(job.form.fps)
    return Progress(position.frames, job.num_frames, fps, position.nfe, nfe_per_second, left, tuple(new))


def decoded(
    codec: Codec, emission: Emission, cache: Any = None, last: int | None = None
) -> Iterator[tuple[Tensor, Any]]:
    """(frames, decoder cache) of each latent of an emission, those from index `last` on left out."""
    latents = emission.latents if last is None else emission.latents[: max(last - emission.start, 0)]
    if emission.guide and latents:
        with torch.inference_mode():
            _, cache = codec.decode(torch.stack(emission.guide))
    for latent in latents:
        with torch.inference_mode():
            frames, cache = codec.decode(latent[None], cache)
        yield frames.cpu().contiguous(), cache


def film(job: Job) -> Iterator[Tensor]:
    """The frames of `job` as they come, each (T, H, W, 3) uint8, with nothing written anywhere."""
    state, left = job.engine.drive(job.rollout.init(job.seed, job.timeline, job.context)), job.num_frames
    cache: Any = None
    ticks = stream(job.rollout, job.engine, state, job.num_latents)
    for _, emission in itertools.chain([(state, job.opening)], ticks):
        for made, after in decoded(job.codec, emission, cache, job.num_latents):
            cache = after
            frames = made if left is None else made[:left]
            if len(frames) and (emission.start >= 0 or job.shows_context):
                left = None if left is None else left - len(frames)
                yield frames


def chain(digest: str, frames: Tensor) -> str:
    """SHA-256 over all frames so far: of the last digest and the next frame, frame by frame, from "" on.

    Unlike a hash over one long string it can be kept in a checkpoint, and it does not depend on how emissions fell.
    """
    for frame in frames:
        digest = hashlib.sha256(digest.encode() + frame.numpy().tobytes()).hexdigest()
    return digest
