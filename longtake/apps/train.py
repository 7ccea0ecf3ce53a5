"""The command `train`: pocket's parts, each stage resumable and stoppable at any moment. Needs no network."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

train = typer.Typer(help="Train the embedded model and what measures it.", rich_markup_mode=None)

Minutes = Annotated[float, typer.Option(help="wall time to spend; what is done is kept")]
Device = Annotated[str, typer.Option(help="cpu or cuda")]
Cache = Annotated[Path, typer.Option("--cache", help="where checkpoints and curves are kept")]
Weights = Annotated[Path | None, typer.Option(help="an exported folder to continue from")]
CACHE = Path(".cache/longtake")


class VaeStage(StrEnum):
    """Pictures first, then clips; later the decoder alone, which keeps latents and transformer valid."""

    stills = "stills"
    clips = "clips"
    decoder = "decoder"


class PocketStage(StrEnum):
    """Single latents, then 4, then the whole window of 12."""

    stills = "stills"
    short = "short"
    long = "long"


@train.command()
def vae(
    minutes: Minutes,
    stage: Annotated[VaeStage, typer.Option(help="what to train on")] = VaeStage.stills,
    device: Device = "cpu",
    cache: Cache = CACHE,
    weights: Weights = None,
) -> None:
    """The video autoencoder of pocket."""
    from longtake.training.vae import train_vae

    train_vae(minutes, stage.value, device, cache, weights)


@train.command()
def pocket(
    minutes: Minutes,
    stage: Annotated[PocketStage, typer.Option(help="what to train on")] = PocketStage.stills,
    device: Device = "cpu",
    cache: Cache = CACHE,
    weights: Weights = None,
) -> None:
    """The transformer and text encoder of pocket."""
    from longtake.training.pocket import train_pocket

    train_pocket(minutes, stage.value, device, cache, weights)


@train.command()
def judge(
    minutes: Minutes,
    device: Device = "cpu",
    cache: Cache = CACHE,
    seed: Annotated[int, typer.Option(help="another seed makes an independent judge")] = 0,
) -> None:
    """The classifiers of subject, place, time and motion that measure pocket."""
    from longtake.training.judge import train_judge

    train_judge(minutes, device, cache, seed=seed)
