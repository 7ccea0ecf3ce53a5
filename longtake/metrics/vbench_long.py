"""VBench-Long (Huang et al. 2025, VBench++): long videos in clips of two seconds, and how the clips fit together.

    clips      [0, L), [L, 2L), ... with L = 2 int(fps) frames; a last partial clip is extended backwards to [N - L, N);
               a video shorter than L is one clip
    in-clip    the mean over clips of VBench's score of each
    clip-clip  subject, background: VBench's formula over the first frames of the clips, then remapped by a table that
               brings it to the scale of in-clip scores
    fused      with the toolkit's development flag (in-clip + remapped clip-clip) / 2, without it in-clip alone

Papers rarely say which they printed, and the two differ in the second decimal. A video of one clip has no clip-clip
score and keeps its in-clip score. With the flag the toolkit takes the clip-clip features from DINOv2 ViT-B/14 (subject)
and DreamSim (background), so a fused number from another encoder is one by the formula only.

Deviations. Clips are not cut into files and encoded again, which costs the toolkit's scores some noise. In motion
smoothness the last clip starts at a frame of even index, so it may be one frame shorter.

`REMAP` holds 101 numbers a metric, at 0, .01, ..., 1, rounded to five decimals, from the toolkit's configuration
(Vchitect/VBench, vbench2_beta_long/configs, Apache-2.0): without them its scores cannot be computed. Between two of
them lies a straight line, as in the toolkit (vbench2_beta_long/utils.py, `fuse_inclip_clip2clip`).
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from longtake.metrics.vbench import Consistency, Frames, Motion, Smoothness, average, evenness
from longtake.rewards.features import Encoder

CLIP_SECONDS = 2
FUSED_WEIGHT = 0.5
"""Of the clip-clip score, with the development flag."""

_SUBJECT = """
0 65581 70686 73166 73661 74910 76103 77460 78456 79295 80269 80808 81620 82422 83047 83542 83908 84198 84679 85063
85285 85469 85813 86373 86610 87059 87233 87496 87870 88171 88568 88719 89018 89401 89673 89920 90187 90293 90426 90671
90920 91200 91412 91782 92004 92237 92388 92613 92855 93109 93267 93394 93522 93807 93968 94155 94420 94629 94778 94914
95190 95306 95499 95620 95725 95869 96046 96134 96294 96483 96679 96817 96981 97141 97253 97367 97464 97601 97716 97842
97950 98059 98199 98343 98434 98547 98632 98719 98770 98826 98871 98925 98978 99037 99117 99218 99292 99327 99459 99552
100000"""
_BACKGROUND = """
0 87369 88392 88834 89440 89963 90315 90597 90763 90968 91206 91487 91686 91900 92036 92130 92250 92334 92436 92503
92648 92728 92784 92849 92986 93044 93096 93184 93254 93348 93415 93494 93557 93622 93669 93722 93773 93816 93879 93935
93968 94003 94074 94135 94197 94283 94322 94409 94492 94542 94606 94661 94705 94758 94851 94905 94972 95025 95066 95126
95191 95237 95295 95357 95419 95472 95534 95590 95645 95710 95746 95791 95855 95917 95961 96012 96092 96198 96255 96357
96416 96460 96491 96545 96627 96702 96804 96912 96997 97053 97172 97243 97323 97418 97526 97668 97859 98010 98187 98590
100000"""
REMAP = {
    name: tuple(int(value) / 100000 for value in table.split())
    for name, table in (("subject_consistency", _SUBJECT), ("background_consistency", _BACKGROUND))
}


def clip_length(fps: float) -> int:
    """Frames of a clip."""
    return max(1, CLIP_SECONDS * int(fps))


def clips(num_frames: int, length: int) -> list[range]:
    """The clips of a video, in frames."""
    if num_frames <= length:
        return [range(num_frames)]
    whole = [range(start, start + length) for start in range(0, num_frames - length + 1, length)]
    return whole if num_frames % length == 0 else [*whole, range(num_frames - length, num_frames)]


class LongConsistency:
    """In-clip and clip-to-clip consistency of features that come once each, frame by frame, for a known length.

    across: another encoder for the first frames of the clips; None: the features that come.
    """

    def __init__(self, num_frames: int, length: int, across: Encoder | None = None) -> None:
        self.across = across
        self._clips = clips(num_frames, length)
        self._open: list[tuple[range, Consistency]] = []
        self._firsts = Consistency()
        self._count = 0
        self.scores: list[float] = []
        """VBench's score of every clip of two frames or more, in order."""

    def update(self, features: Float[Tensor, "T D"], frames: Frames | None = None) -> None:
        """Take the features of the next frames, and the frames themselves if another encoder looks at some."""
        start, stop = self._count, self._count + len(features)
        for clip in self._clips:
            if start <= clip.start < stop:
                first = slice(clip.start - start, clip.start - start + 1)
                seen = features[first] if self.across is None or frames is None else self.across(frames[first])
                self._firsts.update(seen)
                self._open.append((clip, Consistency()))
        for clip, fold in self._open:
            fold.update(features[max(clip.start - start, 0) : clip.stop - start])
        done = [(clip, fold) for clip, fold in self._open if clip.stop <= stop]
        self._open = [(clip, fold) for clip, fold in self._open if clip.stop > stop]
        self.scores += [score for _, fold in done if (score := fold.result()) is not None]
        self._clips = [clip for clip in self._clips if clip.start >= stop]
        self._count = stop

    def in_clip(self) -> float | None:
        """The mean of the clips' scores."""
        return average(self.scores)

    def clip_to_clip(self) -> float | None:
        """The score of the clips' first frames, not remapped; None of one clip."""
        return self._firsts.result()


def remapped(name: str, score: float) -> float:
    """A clip-to-clip score on the scale of in-clip scores, by the toolkit's table for metric `name`."""
    table = REMAP[name]
    place = min(max(score, 0.0), 1.0) * (len(table) - 1)
    low = min(int(place), len(table) - 2)
    return table[low] + (place - low) * (table[low + 1] - table[low])


def fused(name: str, in_clip: float, clip_to_clip: float | None, dev_flag: bool) -> float:
    """VBench-Long's number of one video."""
    if not dev_flag or clip_to_clip is None:
        return in_clip
    return (1 - FUSED_WEIGHT) * in_clip + FUSED_WEIGHT * remapped(name, clip_to_clip)


def in_clip_pairs(errors: Sequence[float], num_frames: int, length: int) -> list[float]:
    """Temporal flickering of every clip, from the error of every pair of neighbouring frames."""
    found = [evenness(errors[clip.start : clip.stop - 1]) for clip in clips(num_frames, length)]
    return [score for score in found if score is not None]


def in_clip_frames(values: Sequence[float], num_frames: int, length: int) -> list[float]:
    """The mean of every clip, from one number a frame: aesthetic and imaging quality."""
    found = [average(values[clip.start : clip.stop]) for clip in clips(num_frames, length)]
    return [score for score in found if score is not None]


def in_clip_smoothness(fold: Smoothness, num_frames: int, length: int) -> list[float]:
    """Motion smoothness of every clip, from the whole video's fold."""
    found = []
    for clip in clips(num_frames, length):
        # error k is that of frame 2k + 1, foretold from 2k and 2k + 2, all of which have to be in the clip
        first, last = -(-clip.start // 2), (clip.stop - 3) // 2
        found.append(evenness(fold.errors[first : last + 1]))
    return [score for score in found if score is not None]


def motion_grids(num_frames: int, length: int, interval: int) -> list[range]:
    """Which frames `Motion` samples: those of the whole video first, then those of every clip."""
    whole = range(0, num_frames, interval)
    return [whole, *(range(clip.start, clip.stop, interval) for clip in clips(num_frames, length))]


def in_clip_motion(fold: Motion) -> list[float]:
    """Dynamic degree of every clip as 0 or 1, of a fold over `motion_grids`."""
    found = [fold.moves(grid) for grid in fold.grids[1:]]
    return [float(moves) for moves in found if moves is not None]
