"""Where a run can go on from: its checkpoint, read with mistrust. A file of someone else's must not do harm.

Nothing is changed here, so that a run that is refused stays as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longtake.core.rollout import Emission
from longtake.errors import UsageError
from longtake.output import checkpoint
from longtake.output.checkpoint import CheckpointError
from longtake.output.directory import RunDir
from longtake.output.job import Job, Position
from longtake.output.video import Tail, head_of

LARGEST = 2**53  # of any count in a checkpoint


def resumable(job: Job, folder: RunDir) -> Position | None:
    """The position that `job` can go on from: the latest, or `open` if that skipped calls for another length.

    None if the run has none yet. UsageError for a checkpoint that is damaged or of another run.
    """
    device: torch.device = job.engine.denoiser.device
    if not checkpoint.exists(folder.path):
        return None
    position = trusted(checkpoint.load(folder.path, "state", device), f"{folder.path}/state.json", job)
    if position.pruned_for is not None and position.pruned_for != job.num_latents:
        position = trusted(checkpoint.load(folder.path, "open", device), f"{folder.path}/open.json", job)
    for path, need in ((folder.trace, position.trace_bytes), (folder.video, position.tail.size)):
        size = path.stat().st_size if path.exists() else 0
        head = head_of(path)[0] if path == folder.video else 0
        if size - head < need:
            raise UsageError(
                f"{path} has {size} bytes, fewer than the {head + need} of its checkpoint; "
                "it was cut off or changed, so the run cannot be resumed"
            )
    return position


def trusted(value: Any, name: str, job: Job | None = None) -> Position:
    """The value if it is a position whose every part is of its kind and size, and fits the job. Else UsageError."""
    fault = _fault(value) or (_misfit(value, job) if job is not None else None)
    if fault:
        raise CheckpointError(f"{name} does not hold the state of this run: {fault}; it was changed, or is another's")
    return value


def _fault(value: Any) -> str | None:
    if type(value) is not Position:
        return f"it holds {type(value).__name__}"
    for name in ("frames", "latents", "nfe", "frame_nfe", "owed_nfe", "owed_frame_nfe", "trace_bytes", "offset",
                 "turns"):  # fmt: skip
        if not _count(getattr(value, name)):
            return f"{name} is no count"
    for time in (value.seconds, value.owed_seconds):
        if not isinstance(time, (int, float)) or not 0 <= time < LARGEST:
            return "seconds is no time"
    if not isinstance(value.digest, str) or not (value.pruned_for is None or _count(value.pruned_for)):
        return "digest or pruned_for is of another kind"
    if not isinstance(value.past, tuple) or not all(isinstance(latent, Tensor) for latent in value.past):
        return "past is of another kind"
    if not (value.held is None or isinstance(value.held, Emission)):
        return "held is of another kind"
    if not _count(getattr(value.state, "emitted", None)) or not hasattr(value.state, "finished"):
        return "its state is none of a method"
    return _tail_fault(value.tail)


def _tail_fault(tail: Any) -> str | None:
    if type(tail) is not Tail or not _count(tail.size) or not _count(tail.num_frames):
        return "tail is of another kind"
    pending = tail.pending
    if pending is not None and (not isinstance(pending, Tensor) or pending.dtype != torch.uint8 or pending.dim() != 4):
        return "tail holds no frames"
    return None


def _misfit(position: Position, job: Job) -> str | None:
    pending = position.tail.pending
    if pending is not None and tuple(pending.shape[1:]) != (job.form.height, job.form.width, 3):
        return f"its frames are {tuple(pending.shape[1:3])}"
    if any(tuple(latent.shape) != tuple(job.rollout.shape) for latent in position.past):
        return "its latents have another shape"
    if position.turns > len(job.turns):
        return "it has made turns that run.json does not know"
    return None


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < LARGEST
