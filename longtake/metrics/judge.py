"""Pocket's judge: what a picture shows, who is in it and where, and how a clip moves. Torch only, no diffusers.

There are two independent sets: `reward`, which a search may follow, and `measure`, which tables are made with. They
differ in trunk, seed, augmentation and training scenes (`longtake.training.judge`), as the published roles differ:

    subject   features of the subject alone     the role of DINO in VBench's subject consistency
    place     features of everything else       the role of CLIP in its background consistency

Both come from one look at one picture. The trunk also says where the subject is (a mask of 8 x 8 cells, learnt from
exact truth); the subject's features are averages under that mask, the place's averages outside it, by four bands of
height. They are trained so that the same subject elsewhere, and the same place with another subject, have the same
features, and the same kind of subject with another tint or size does not. Classifiers read these features.

Motion is read apart, from 15 pairs of neighbouring frames spread over 45 frames: where the subject is, how large, how
fast the ground passes (the estimator), and of which kind the motion is. Longer clips are read 45 frames at a time.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from longtake.world.grammar import MOTIONS, PLACES, SUBJECTS, TIMES

CLASSES = {"subject": SUBJECTS, "place": PLACES, "time": TIMES, "motion": MOTIONS}
SETS = ("reward", "measure")
WEIGHTS = Path(__file__).parent.parent / "models" / "weights" / "pocket-judge"
FEATURES = 64
SIZE = 64  # pixels, both ways, of what is looked at
CELLS = 8  # of the mask, both ways
BANDS = 4  # of height, that the place is read by
SPAN, PAIRS = 45, 15  # frames that motion is read over at a time, and pairs of them
LOOKS = 12  # frames of a span that are looked at for subject, place and time
COURSE = 4  # what the estimator says of a pair: x, y and edge of the subject's cell (0..1), speed of the ground


@dataclass(frozen=True)
class Look:
    """N pictures: features [N,64] each of subject and place (not normalised), mask logits [N,8,8]."""

    subject: Tensor
    place: Tensor
    mask: Tensor


def _conv(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1), nn.GroupNorm(8, after), nn.SiLU())


class Residual(nn.Module):
    """Two convolutions around which the input is led."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.GroupNorm(1, width), nn.Conv2d(width, width, 3, 1, 1), nn.GELU(), nn.Conv2d(width, width, 3, 1, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def _trunk(kind: str) -> nn.Sequential:
    """Pictures [N,3,64,64] to maps [N,96,8,8]: a chain of convolutions, or residual blocks on coarse patches."""
    if kind == "plain":
        widths = [(12, 32, 1), (32, 48, 2), (48, 48, 1), (48, 96, 2), (96, 96, 1), (96, 96, 1), (96, 96, 1)]
        return nn.Sequential(nn.PixelUnshuffle(2), *(_conv(*width) for width in widths))
    down = nn.Conv2d(56, 96, 3, 2, 1)
    return nn.Sequential(
        nn.PixelUnshuffle(4), nn.Conv2d(48, 56, 3, 1, 1), Residual(56), down, Residual(96), Residual(96),
        nn.GroupNorm(1, 96), nn.GELU(),
    )  # fmt: skip


class Course(nn.Module):
    """Pairs of neighbouring frames to what moves: the estimator's numbers a pair, and the kind of motion."""

    def __init__(self, memory: int = 64) -> None:
        super().__init__()
        self.eye = nn.Sequential(
            nn.PixelUnshuffle(2), _conv(24, 48), _conv(48, 64, 2), _conv(64, 64, 2), nn.Flatten(),
            nn.Linear(16 * 64, memory), nn.SiLU(),
        )  # fmt: skip
        self.estimate = nn.Linear(memory, COURSE)
        wide = memory + COURSE
        self.course = nn.Sequential(
            nn.Conv1d(wide, memory, 5, padding=2), nn.SiLU(), nn.Conv1d(memory, memory, 5, padding=2), nn.SiLU()
        )
        self.motion = nn.Linear(2 * memory, len(MOTIONS))

    def forward(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Course [B,15,4] and logits of motion [B,7] of `pairs` [B,15,6,32,32] in -1..1."""
        seen = self.eye(pairs.flatten(0, 1)).unflatten(0, pairs.shape[:2])
        numbers = self.estimate(seen)
        told = self.course(torch.cat([seen, numbers], dim=2).transpose(1, 2))
        return numbers, self.motion(torch.cat([told.mean(2), told.amax(2)], dim=1))


class Judge(nn.Module):
    """One set: looks at pictures, says what they show, and reads motion."""

    def __init__(self, trunk: str = "plain") -> None:
        super().__init__()
        self.config, width = {"trunk": trunk}, 96
        self.trunk = _trunk(trunk)
        self.where = nn.Conv2d(width, 1, 1)
        self.subject = nn.Linear(2 * width, FEATURES)
        self.place = nn.Linear(BANDS * width, FEATURES)
        self.says = nn.ModuleDict(
            {
                "subject": nn.Linear(FEATURES, len(SUBJECTS)),
                "place": nn.Linear(FEATURES, len(PLACES)),
                "time": nn.Linear(FEATURES, len(TIMES)),
            }
        )
        self.course = Course()

    def look(self, pictures: Tensor) -> Look:
        """Look at pictures [N,3,64,64] in -1..1, each by itself."""
        seen = self.trunk(pictures)
        where = self.where(seen)
        inside = where.sigmoid()
        middle = (seen * inside).sum(dim=(2, 3)) / (inside.sum(dim=(2, 3)) + 0.1)
        peak = (seen * inside).amax(dim=(2, 3))
        outside = 1 - inside
        bands = (seen * outside).unflatten(2, (BANDS, -1)).sum(dim=(3, 4))
        bands = bands / (outside.unflatten(2, (BANDS, -1)).sum(dim=(3, 4)) + 0.1)
        return Look(self.subject(torch.cat([middle, peak], 1)), self.place(bands.flatten(1)), where[:, 0])

    def named(self, look: Look) -> dict[str, Tensor]:
        """Logits [N,classes] of subject, place and time."""
        return {key: head(look.subject if key == "subject" else look.place) for key, head in self.says.items()}


@dataclass(frozen=True)
class Reading:
    """What a judge says of B clips: log probabilities [B,classes] by attribute, the course [B,P,4] of its pairs."""

    says: dict[str, Tensor]
    course: Tensor


def unit(video: Tensor) -> Tensor:
    """Pictures [...,3,H,W] (uint8, or float in 0..1) at the judge's size, in -1..1."""
    video = (video.float() / 255 if video.dtype == torch.uint8 else video) * 2 - 1
    if video.shape[-2:] != (SIZE, SIZE):
        flat = F.interpolate(video.flatten(0, -4), (SIZE, SIZE), mode="area")
        video = flat.unflatten(0, video.shape[:-3])
    return video


def pairs_of(video: Tensor) -> Tensor:
    """Clips [B,F,3,H,W] of 2 to 45 frames to what motion is read from: [B,15,6,32,32] in -1..1."""
    first = torch.linspace(0, video.shape[1] - 2, PAIRS).round().long()
    both = unit(torch.cat([video[:, first], video[:, first + 1]], dim=1))
    small = F.avg_pool2d(both.flatten(0, 1), 2).unflatten(0, both.shape[:2])
    return torch.cat([small[:, :PAIRS], small[:, PAIRS:]], dim=2)


def spans(num_frames: int) -> list[slice]:
    """The pieces of at most 45 frames that a clip is read in; the last one ends with the clip."""
    starts = list(range(0, max(num_frames - SPAN, 0) + 1, SPAN))
    if num_frames > SPAN and starts[-1] + SPAN < num_frames:
        starts.append(num_frames - SPAN)
    return [slice(start, start + SPAN) for start in starts]


@torch.no_grad()
def read(judge: Judge, video: Tensor) -> Reading:
    """Read clips [B,F,3,H,W] of at least 2 frames. Log probabilities are averaged over frames and pieces."""
    if video.ndim != 5 or video.shape[1] < 2:
        raise ValueError(f"the judge reads clips [B,F,3,H,W] of at least 2 frames, not {tuple(video.shape)}")
    said: dict[str, list[Tensor]] = {key: [] for key in CLASSES}
    courses = []
    for span in spans(video.shape[1]):
        part = video[:, span]
        picks = torch.linspace(0, part.shape[1] - 1, min(LOOKS, part.shape[1])).round().long()
        logits = judge.named(judge.look(unit(part[:, picks]).flatten(0, 1)))
        for key, value in logits.items():
            said[key].append(value.log_softmax(1).unflatten(0, (len(video), -1)).mean(1))
        course, motion = judge.course(pairs_of(part))
        said["motion"].append(motion.log_softmax(1))
        courses.append(course)
    means = {key: torch.stack(parts).mean(0).log_softmax(1) for key, parts in said.items()}
    return Reading(means, torch.cat(courses, dim=1))


def classify(judge: Judge, video: Tensor, batch: int = 16) -> dict[str, Tensor]:
    """Class indices [B] by attribute of clips [B,F,3,H,W]; see `CLASSES` for the names."""
    parts = [read(judge, part).says for part in video.split(batch)]
    return {name: torch.cat([part[name] for part in parts]).argmax(1) for name in CLASSES}


@dataclass(frozen=True, eq=False)
class Encoder:
    """Features of the subject or of the place, one vector a picture; the seam of metrics and rewards."""

    judge: Judge
    role: str
    name: str

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> Tensor:
        """Pictures uint8 [T,H,W,3] to features [T,64], not normalised."""
        parts = [self.judge.look(unit(part.permute(0, 3, 1, 2))) for part in frames.split(64)]
        return torch.cat([getattr(part, self.role) for part in parts])


def encoder(which: str, role: str) -> Encoder:
    """The encoder of a set (`reward`, `measure`) for a role (`subject`, `place`)."""
    if which not in SETS or role not in ("subject", "place"):
        raise ValueError(f"no encoder {which}/{role}; sets: {', '.join(SETS)}; roles: subject, place")
    return Encoder(load(WEIGHTS / which), role, f"pocket-judge/{which}/{role}")


def label(which: str = "measure") -> str:
    """What tables call a set: its name and eight digits that change with its weights."""
    return f"{which}-{sha256((WEIGHTS / which / 'judge.safetensors').read_bytes()).hexdigest()[:8]}"


@lru_cache(maxsize=4)
def load(folder: Path = WEIGHTS / "measure") -> Judge:
    """A judge from `config.json` and `judge.safetensors`; the one for measuring unless told."""
    judge = Judge(**json.loads((folder / "config.json").read_text())["model"])
    judge.load_state_dict({name: value.float() for name, value in load_file(folder / "judge.safetensors").items()})
    return judge.eval().requires_grad_(False)
