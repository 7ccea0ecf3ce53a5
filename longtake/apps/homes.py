"""Where what rewards need lies on this machine, or what to type instead."""

from __future__ import annotations

from pathlib import Path

from longtake.errors import UsageError
from longtake.rewards import reward_model


def home_of_judge() -> Path:
    """The folder of pocket's judge for rewards. UsageError if it is not here."""
    from longtake.metrics import judge

    folder = judge.WEIGHTS / "reward"
    if not folder.is_dir():
        raise UsageError(
            f"pocket's judge for rewards is not part of this installation ({folder}); give text.encoder=FOLDER"
        )
    return folder


def home_of_reward(folder: Path | None) -> Path:
    """The model folder if it has a latent reward model. UsageError if it has none."""
    if folder is None or not reward_model.exists(folder):
        raise UsageError("this model has no latent reward model; make one with: longtake train reward --minutes 120")
    return folder
