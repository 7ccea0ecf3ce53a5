"""Latte class-conditional on UCF-101 (Ma et al. 2024): 16 frames of 256x256, one latent a frame.

A folder of ours: `longtake.json` with family latte-ucf, `transformer/`, `vae/` (AutoencoderKL), `scheduler/`.
`longtake convert latte-ucf` writes one from the published checkpoint. The prompt is one of the 101 classes, by name
("PlayingGuitar" or "playing guitar") or by number in the order of the data set's folders; the empty prompt is no class,
which guidance steers away from.

Deviation: the published sampler is DDPM with 250 steps whose variance the network also predicts; solvers here draw
their own noise, so `--solver ddim` with eta 1 is its nearest (the lower bound of that variance), eta 0 the default.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKL, CogVideoXPipeline
from jaxtyping import Float
from torch import Tensor

from longtake.core.model import Capabilities, Cond, embedded
from longtake.errors import UsageError
from longtake.models import folder as folders
from longtake.models import parts as shared
from longtake.models.adapt import adapted, check_options, waiting
from longtake.models.epsilon import EpsilonDenoiser
from longtake.models.families import LoadOptions, Model, ModelFacts, Source
from longtake.models.frame_codec import FrameCodec
from longtake.models.latte_ucf_network import LatteConfig, LatteUCF
from longtake.models.opensora_rows import config_of
from longtake.models.own import build, fill, read_weights
from longtake.models.parts import pick
from longtake.models.vp import check_config, vp_schedule

PARTS = ("transformer", "vae", "scheduler")
WEIGHTED = PARTS[:2]
USUAL: dict[str, Any] = dict(fps=8, steps=250, guidance=7.0, solver="ddim")

_NAMES = """
    ApplyEyeMakeup ApplyLipstick Archery BabyCrawling BalanceBeam BandMarching BaseballPitch Basketball
    BasketballDunk BenchPress Biking Billiards BlowDryHair BlowingCandles BodyWeightSquats Bowling BoxingPunchingBag
    BoxingSpeedBag BreastStroke BrushingTeeth CleanAndJerk CliffDiving CricketBowling CricketShot CuttingInKitchen
    Diving Drumming Fencing FieldHockeyPenalty FloorGymnastics FrisbeeCatch FrontCrawl GolfSwing Haircut HammerThrow
    Hammering HandstandPushups HandstandWalking HeadMassage HighJump HorseRace HorseRiding HulaHoop IceDancing
    JavelinThrow JugglingBalls JumpRope JumpingJack Kayaking Knitting LongJump Lunges MilitaryParade Mixing MoppingFloor
    Nunchucks ParallelBars PizzaTossing PlayingCello PlayingDaf PlayingDhol PlayingFlute PlayingGuitar PlayingPiano
    PlayingSitar PlayingTabla PlayingViolin PoleVault PommelHorse PullUps Punch PushUps Rafting RockClimbingIndoor
    RopeClimbing Rowing SalsaSpin ShavingBeard Shotput SkateBoarding Skiing Skijet SkyDiving SoccerJuggling
    SoccerPenalty StillRings SumoWrestling Surfing Swing TableTennisShot TaiChi TennisSwing ThrowDiscus
    TrampolineJumping Typing UnevenBars VolleyballSpiking WalkingWithDog WallPushups WritingOnBoard YoYo
"""
CLASSES = tuple(_NAMES.split())
"""UCF-101's classes in the order of the network's labels: its folders sorted, capitals before small letters."""


def label_of(prompt: str, num_classes: int = len(CLASSES)) -> int:
    """The label of a class by name or number; `num_classes` for the empty prompt. UsageError names near classes."""
    text = re.sub(r"[^a-z0-9]", "", prompt.lower())
    if not text:
        return num_classes
    if text.isdecimal() and int(text) < num_classes:
        return int(text)
    known = {name.lower(): place for place, name in enumerate(CLASSES[:num_classes])}
    if text in known:
        return known[text]
    near = difflib.get_close_matches(text, known, 3, 0.3) or list(known)[:3]
    names = ", ".join(CLASSES[known[name]] for name in near)
    raise UsageError(f"{prompt!r} is no class of UCF-101; near it: {names} (or a number from 0 to {num_classes - 1})")


@dataclass(frozen=True, eq=False)
class ClassNetwork:
    """The network with its classes; an `epsilon.Network`."""

    network: LatteUCF

    @property
    def module(self) -> LatteUCF:
        """What has the weights."""
        return self.network

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.network.dtype

    def __call__(
        self,
        x: Float[Tensor, "B F C H W"],
        times: Float[Tensor, "B F"],
        prompts: Sequence[Cond],
        leads: Sequence[Cond],
    ) -> Float[Tensor, "B F C H W"]:
        """The noise in each frame."""
        if x.shape[1] > self.network.config.frames:
            raise ValueError(f"this network has positions for {self.network.config.frames} frames, got {x.shape[1]}")
        label = torch.stack([embedded(prompt, self._embed) for prompt in prompts]).to(x.device)
        return self.network(x, times.to(x.device), label)[:, :, : x.shape[2]]

    def _embed(self, prompt: str) -> Float[Tensor, " D"]:
        return self.network.y_embedder.embedding_table.weight[label_of(prompt, self.network.config.classes)]

    def prepare(self, prompts: Iterable[str]) -> None:
        """UsageError for a prompt that is no class."""
        for prompt in prompts:
            label_of(prompt, self.network.config.classes)

    def release(self) -> None:
        """There is no text encoder."""


# -- the family --------------------------------------------------------------------------------------------------


def facts(source: Source, options: LoadOptions) -> ModelFacts:
    """What the JSON of a folder tells."""
    shared.check_folder(source, PARTS, WEIGHTED)
    config = _config(source)
    vae = folders.read_json(source.path("vae") / "config.json")
    check_config(folders.read_json(source.path("scheduler") / "scheduler_config.json"))
    usual = shared.usual({**USUAL, "window": config.frames}, source)
    factor = 2 ** (len(vae.get("block_out_channels", (0,) * 4)) - 1)
    side = factor * config.side
    size = shared.fit_size(pick(options.size, (side, side)), 1)
    if size != (side, side):
        raise UsageError(
            f"{source.name} makes {side}x{side} only, since its positions are stored; got {size[0]}x{size[1]}"
        )
    if not 1 <= int(usual["window"]) <= config.frames:
        raise UsageError(f"{source.name}: window must be in 1..{config.frames} frames, got {usual['window']}")
    return ModelFacts(
        family="latte-ucf",
        window=int(usual["window"]),
        channels=config.channels,
        factor=factor,
        fps=usual["fps"],
        steps=int(usual["steps"]),
        size=size,
        guided=float(pick(options.guidance, usual["guidance"])) > 1,
        per_row_levels="own",
        compression=1,
        first_is_image=False,
        labels=config.classes,
    )


def load_family(source: Source, options: LoadOptions) -> Model:
    """A class-conditional Latte from a folder; there is no stock pipeline that could be live."""
    check_options(source, options)
    known, usual = facts(source, options), shared.usual(USUAL, source)
    device = shared.pick_device(options.device)
    kind, rest = shared.dtype_of(options.dtype, device), waiting(options, device)
    steps = int(pick(options.num_steps, usual["steps"]))
    guidance = float(pick(options.guidance, usual["guidance"]))
    schedule = vp_schedule(scheduler_config(source), steps)
    folder, config = source.path("transformer"), _config(source)
    network = fill(build(partial(LatteUCF, config), folder), read_weights(folder), folder, rest, kind)
    vae = shared.load_module(source, "vae", AutoencoderKL, rest, torch_dtype=torch.float32)
    can = Capabilities(
        known.window, (config.channels, config.side, config.side), "own", temporal_compression=1, first_is_image=False
    )
    model = Model(
        name=source.name,
        family="latte-ucf",
        source=source.folder,
        denoiser=EpsilonDenoiser(ClassNetwork(network), schedule, can, guidance, options.negative_prompt),
        codec=FrameCodec(vae, bool(options.extras.get("tiling"))),
        solver=options.solver or usual["solver"],
        window=known.window,
        fps=usual["fps"],
        steps=steps,
        guidance=guidance,
        size=known.size,
        negative_prompt=options.negative_prompt,
        dtype=str(kind).removeprefix("torch."),
        weights_hash=shared.weights_hash(source, WEIGHTED),
        license=shared.license_of(source),
    )
    return adapted(model, options, (network,), CogVideoXPipeline)


def scheduler_config(source: Source) -> dict[str, Any]:
    """The folder's scheduler, its grid spread over all training times (0, 4, 8, ..., 999 for 250 steps) by default."""
    return {"timestep_spacing": "linspace", **folders.read_json(source.path("scheduler") / "scheduler_config.json")}


def _config(source: Source) -> LatteConfig:
    config = config_of(LatteConfig, source, "transformer")
    if config.width % config.heads:
        raise UsageError(
            f"{source.path('transformer') / 'config.json'}: {config.heads} heads do not share {config.width}"
        )
    return config
