"""What looks at the frames of one video: the encoders at hand, and the folds of one pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import UInt8
from torch import Tensor

from longtake.metrics import drift, vbench, vbench_long
from longtake.metrics.repetition import Thumbnails
from longtake.metrics.scenes import Scenes
from longtake.rewards import features
from longtake.rewards.features import Encoder, Flow, Middle, Scorer

PUBLISHED: Mapping[str, tuple[str, ...]] = {
    "subject": ("dino-vitb16",),
    "background": ("clip-vitb32",),
    "aesthetic": ("laion-aesthetic",),
    "imaging": ("musiq-spaq",),
    "flow": ("raft-things",),
    "middle": ("amt-s",),
}
"""Encoders that VBench was published with, by role."""

ACROSS: Mapping[str, str] = {"subject": "dinov2-vitb14", "background": "dreamsim"}
"""Encoders of VBench-Long's clip-to-clip scores with its development flag."""

METRIC_OF = {
    "subject": "subject_consistency",
    "background": "background_consistency",
    "aesthetic": "aesthetic_quality",
    "imaging": "imaging_quality",
    "flow": "dynamic_degree",
    "middle": "motion_smoothness",
}


STAND_IN_SIDE = 512
"""Pixels of the shorter side of what stand-ins for RAFT and AMT look at: VBench's threshold scales with the size."""
SMALL_SIDE = 64
"""Pixels of the shorter side of what colours and thumbnails are averaged from."""


@dataclass(frozen=True)
class Eyes:
    """What looks at the frames; metrics of a role that is None are left out.

    across: encoders of clip-to-clip scores by role, where not the role's own looks at the clips' first frames.
    """

    subject: Encoder | None = None
    background: Encoder | None = None
    aesthetic: Scorer | None = None
    imaging: Scorer | None = None
    flow: Flow | None = None
    middle: Middle | None = None
    across: Mapping[str, Encoder] = field(default_factory=dict)

    @classmethod
    def at_hand(cls) -> Eyes:
        """The best of each role that this machine has."""
        across = {
            role: features.load(name)
            for role, name in ACROSS.items()
            if name in features.KNOWN and features.at_hand(name)
        }
        return cls(**{role: features.find(role) for role in METRIC_OF}, across=across)

    def missing(self) -> list[str]:
        """The metrics that have no encoder."""
        return [METRIC_OF[role] for role in METRIC_OF if getattr(self, role) is None]

    def stand_ins(self) -> dict[str, str]:
        """Encoders by metric that are not the published ones."""
        named = {role: getattr(getattr(self, role), "name", None) for role in METRIC_OF}
        return {METRIC_OF[role]: name for role, name in named.items() if name and name not in PUBLISHED[role]}


class Look:
    """The folds of one video of known length and rate."""

    def __init__(self, eyes: Eyes, num_frames: int, fps: float) -> None:
        self.eyes, self.num_frames, self.fps = eyes, num_frames, fps
        self.length = vbench_long.clip_length(fps)
        self.flicker, self.scenes = vbench.Flicker(), Scenes()
        self.colours, self.thumbnails = drift.Colours(), Thumbnails()
        self.interval = min(vbench.interval_of(fps), num_frames - 1)  # the shortest video has a pair
        grids = vbench_long.motion_grids(num_frames, self.length, self.interval)
        flow, middle = eyes.flow, eyes.middle
        self.motion = vbench.Motion(flow, self.interval, grids, most_side("flow", flow.name)) if flow else None
        self.smoothness = vbench.Smoothness(middle, most_side("middle", middle.name)) if middle else None
        self.scores = {
            METRIC_OF[role]: vbench.Scores(scorer)
            for role, scorer in (("aesthetic", eyes.aesthetic), ("imaging", eyes.imaging))
            if scorer is not None
        }
        self.similar = {
            METRIC_OF[role]: (
                encoder,
                vbench.Consistency(),
                vbench_long.LongConsistency(num_frames, self.length, eyes.across.get(role)),
            )
            for role, encoder in (("subject", eyes.subject), ("background", eyes.background))
            if encoder is not None
        }

    def update(self, frames: UInt8[Tensor, "T H W 3"]) -> None:
        """Take the next frames."""
        for fold in (self.flicker, self.scenes, *self.scores.values()):
            fold.update(frames)
        small = vbench.reduced(frames, SMALL_SIDE)
        self.colours.update(small)
        self.thumbnails.update(small)
        if self.motion is not None:
            self.motion.update(frames)
        if self.smoothness is not None:
            self.smoothness.update(frames)
        seen: dict[str, Tensor] = {}  # subject and background may have the same encoder
        for encoder, whole, long in self.similar.values():
            if encoder.name not in seen:
                seen[encoder.name] = encoder(frames)
            whole.update(seen[encoder.name])
            long.update(seen[encoder.name], frames)


def most_side(role: str, encoder: str) -> int | None:
    """Up to which size an encoder is shown pictures as they are: the published ones at any."""
    return None if encoder in PUBLISHED[role] else STAND_IN_SIDE
