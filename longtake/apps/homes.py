"""Where what rewards need lies on this machine, or what to type instead."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longtake.apps.looking import of_world
from longtake.errors import UsageError
from longtake.rewards import reward_model


def home_of_judge(values: Mapping[str, Any], model: Path | None) -> Path:
    """The folder of pocket's judge for `text` with these values. UsageError if it is not here, or if it was not named
    and does not know the model's pictures.
    """
    from longtake.metrics import judge

    if "encoder" not in values and not of_world(model):
        raise UsageError(
            "pocket's judge reads the pictures of pocket's own world; for this model give --set text.encoder=FOLDER, "
            "that of a CLIP model"
        )
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
