"""Everything that `eval` says of one video, in one pass over its frames (and one before it that counts them).

Each metric is an entry {"value", "encoder", "n"} under its name; `n` counts what the value is a mean of (pairs, frames,
clips) or found in. Some entries say more: "flow" of dynamic_degree, "cuts", "period", "curve" (a value for every two
seconds), "slope" (a minute, with its 95 % interval).

Names: `temporal_flickering`, `scene_count` and `dynamic_degree` are always there, and need no network. `@vbench`,
`@kstep`, `@vbench-long` name the formula; where the encoder is not the one that was published with it, `-formula` is
appended, so that a stand-in is never taken for VBench. `@vbench-long-dev` is VBench-Long with its development flag.

Cost: that of the folds in `vbench`, `scenes`, `drift`, `repetition`. Memory: a portion of frames, some numbers a frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from longtake.errors import UsageError
from longtake.metrics.entries import Entry, entries
from longtake.metrics.look import Eyes, Look
from longtake.output.video import probe, read_frames

PORTION_FRAMES, PORTION_BYTES = 16, 64 << 20


def measure(path: Path | str, eyes: Eyes, joins: Sequence[int] = (), turns: Sequence[int] = ()) -> dict[str, Entry]:
    """All metrics of a video. `joins`: the first frame after each join, if it was made in pieces; `turns`: the first
    frame of each new prompt. What changes there was asked for: it is no drift and no seam.

    UsageError of what is no video, of fewer than two frames, and of frames of several sizes.
    """
    fps = float(probe(path).fps)
    num_frames = sum(1 for _ in read_frames(path))
    if num_frames < 2:
        raise UsageError(f"{path} holds {num_frames or 'no'} frame{'s' * (num_frames != 1)}; give a video of 2 or more")
    look = Look(eyes, num_frames, fps)
    with torch.inference_mode():
        seen = 0
        for frames in portions(path):
            look.update(frames[: num_frames - seen])  # a video that is being made may have grown since it was counted
            seen += len(frames)
    return entries(look, joins, turns)


def portions(path: Path | str) -> Iterator[UInt8[Tensor, "T H W 3"]]:
    """The frames of a video, a few at a time. UsageError of frames of several sizes."""
    held: list[np.ndarray] = []
    shape: tuple[int, ...] | None = None
    for number, frame in enumerate(read_frames(path)):
        if shape is not None and frame.shape != shape:
            raise UsageError(
                f"{path} changes its size at frame {number}, from {_size(shape)} to {_size(frame.shape)}; give one size"
            )
        shape = frame.shape
        held.append(frame)
        if len(held) * frame.nbytes >= PORTION_BYTES or len(held) == PORTION_FRAMES:
            yield torch.from_numpy(np.stack(held))
            held = []
    if held:
        yield torch.from_numpy(np.stack(held))


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
