"""How good a take is, by a reward that needs nothing but what is at hand."""

from __future__ import annotations

from longtake.apps.session import Session
from longtake.output import checkpoint
from longtake.output.directory import RunDir
from longtake.output.resuming import trusted


def score_of(session: Session, folder: RunDir, latent: int) -> float | None:
    """Higher is better: how alike neighbouring latents of the stretch from `latent` on are, by cosine, on average.

    Of the newest latents only, as many as a run keeps. A still picture scores best, so it is for takes of one moment,
    beside each other, not a measure of films. None if there is nothing to compare.
    """
    position = trusted(checkpoint.load(folder.path, "state", session.job.engine.denoiser.device), str(folder.path))
    held = position.held.latents if position.held is not None else ()
    end = position.latents + len(held)
    latents = [*position.past, *held]
    fresh = latents[max(len(latents) - (end - latent) - 1, 0) :]  # one before the stretch: the join counts
    pairs = [_cosine(a, b) for a, b in zip(fresh, fresh[1:], strict=False)]
    return sum(pairs) / len(pairs) if pairs else None


def owed(folder: RunDir) -> bool:
    """Whether a take is still to be judged: it was made to be, and a kill came between."""
    content = folder.settings()
    return content.get("branch") is not None and "score" in content and content["score"] is None


def judge(session: Session, folder: RunDir) -> None:
    """Note in run.json the score of a take that has come to its end, if it is owed one."""
    branch = session.settings.branch
    if branch is not None and folder.finished is not None and owed(folder):
        score = score_of(session, folder, branch["latent"])
        if score is not None:
            folder.amend(score=score)


def _cosine(left: object, right: object) -> float:
    import torch

    a, b = (x.flatten().double() for x in (left, right) if isinstance(x, torch.Tensor))
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))
