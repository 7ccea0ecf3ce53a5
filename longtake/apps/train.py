"""The command `train`: pocket's parts, each stage resumable and stoppable at any moment. Needs no network."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from longtake.apps import train_reward

train = typer.Typer(help="Train the embedded model and what measures it.", rich_markup_mode=None)

Minutes = Annotated[float, typer.Option(help="wall time to spend; what is done is kept")]
Device = Annotated[str, typer.Option(help="cpu or cuda")]
Cache = Annotated[Path, typer.Option("--cache", help="where checkpoints and curves are kept")]
Weights = Annotated[Path | None, typer.Option(help="an exported folder to continue from")]
CACHE = Path(".cache/longtake")


class VaeStage(StrEnum):
    """Pictures first, then clips; then the decoder alone, which keeps latents and transformer valid, or both again."""

    stills = "stills"
    clips = "clips"
    decoder = "decoder"
    joint = "joint"


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
def balance(cache: Cache = CACHE) -> None:
    """The autoencoder's last turn: latents vary as much as pixels notice. Needs no training; before `train pocket`."""
    import torch

    from longtake.errors import UsageError
    from longtake.training.balance import make

    try:
        values = torch.linalg.svdvals(make(cache))
    except (FileExistsError, FileNotFoundError) as error:
        raise UsageError(str(error)) from None
    typer.echo(f"balanced; singular values {float(values[0]):.2f} to {float(values[-1]):.3f}")


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


class JudgeSet(StrEnum):
    """One set to follow in a search, another to measure with."""

    measure = "measure"
    reward = "reward"


@train.command()
def judge(
    minutes: Minutes,
    which: Annotated[JudgeSet, typer.Option("--set", help="which of the two independent judges")] = JudgeSet.measure,
    device: Device = "cpu",
    cache: Cache = CACHE,
    to: Annotated[Path | None, typer.Option(help="folder to write  [default: the one in this installation]")] = None,
) -> None:
    """The encoders and classifiers that measure pocket, and those that a search may follow."""
    from longtake.metrics.judge import WEIGHTS
    from longtake.training.judge import train_judge

    train_judge(minutes, which.value, device, cache, to or WEIGHTS)


@train.command()
def preview(minutes: Minutes, cache: Cache = CACHE) -> None:
    """The preview decoder of pocket: one small picture a latent."""
    from longtake.training.preview import train_preview

    train_preview(minutes, cache)


@train.command()
def progressive(
    minutes: Minutes,
    model: Annotated[str, typer.Option(help="a Wan model: a name, a folder or a hub id")] = "pocket",
    clips: Annotated[Path | None, typer.Option(help="folder of name.mp4 and name.txt  [default: the cache]")] = None,
    to: Annotated[Path | None, typer.Option(help="folder to write  [default: NAME-progressive]")] = None,
    device: Device = "cpu",
    cache: Cache = CACHE,
    batch: Annotated[int, typer.Option(help="clips a step", min=1)] = 16,
) -> None:
    """Fine-tune a Wan model to rising noise levels (PA-VDM, Sec. 3.5), for the methods that work on queues."""
    from longtake.training.progressive import train_progressive

    train_progressive(minutes, model, clips, to, device, cache, batch)


train_reward.register(train)
