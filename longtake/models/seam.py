"""The values that pass between the loader, the families of models and what runs them (see models/families)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import torch

from longtake.core.model import Codec, Denoiser
from longtake.core.rows import Queue
from longtake.errors import UsageError


@dataclass(frozen=True)
class LoadOptions:
    """The arguments of `load`, None where the model's own default holds.

    lora     "PATH_OR_ID[:SCALE]", in the order in which they are added
    offload  none, model (a part on the device at a time) or group (blocks at a time)
    attention  the name of a backend in diffusers' dispatcher (models/attention)
    extras   options of a family: `riflex`, `allow_unsound`, `freelong`, ... as `--set` has them
    """

    size: str | tuple[int, int] | None = None
    num_steps: int | None = None
    guidance: float | None = None
    solver: str | None = None
    negative_prompt: str = ""
    device: str = "auto"
    dtype: str | torch.dtype | None = None
    lora: tuple[str, ...] = ()
    offload: str = "none"
    compile: bool = False
    attention: str | None = None
    extras: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, eq=False)
class Source:
    """Where a model comes from: a folder, or a live pipeline (`folder` None).

    index     model_index.json; {} for an own layout or a live pipeline
    settings  longtake.json, its keys checked
    base      the folder with the parts that `folder` lacks
    whole     whether the weights are here too; False when only JSON was fetched
    """

    name: str
    folder: Path | None
    pipe: Any = None
    index: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    base: Path | None = None
    whole: bool = True

    def path(self, part: str) -> Path:
        """The folder of a part such as "vae". UsageError if there is none."""
        assert self.folder is not None
        for folder in (self.folder, self.base):
            if folder is not None and (folder / part).is_dir():
                return folder / part
        raise UsageError(f"{self.folder} has no folder {part!r}, which its pipeline needs")


@dataclass(frozen=True)
class ModelFacts:
    """What JSON tells of a model under some options. Units as in `core.model.Capabilities` and `Model`.

    channels and factor: of a latent, and pixels of its side; guided: a window costs two network evaluations.
    passes: network evaluations of a window where they are not 1, or 2 with guidance; 0: they are.
    experts: networks that a window may need, so that its cost is a bound where there are two.
    method: the default method; None: by levels and search, see `apps/deciding`.
    chunk_overlap: latents that the authors let a clip read of the one before; 0: any, joined as `chunk` does.
    labels: classes that a prompt may name; 0: it may say anything.
    begins: how frames begin that enter together is the model's own (`Model.begin`).
    """

    family: str
    window: int
    channels: int
    factor: int
    fps: float
    steps: int
    size: tuple[int, int]
    guided: bool
    experts: int = 1
    passes: int = 0
    method: str | None = None
    chunk_overlap: int = 0
    begins: bool = False
    per_row_levels: str = "native"
    image_first: bool = False
    image_only: bool = False
    last_image: bool = False
    clean_rows: bool = False
    compression: int = 4
    first_is_image: bool = True
    latent_group: int = 1
    latents_at_once: int = 1
    frames_behind: int = 0
    labels: int = 0


@runtime_checkable
class Prompted(Protocol):
    """What a model's denoiser has besides `core.model.Denoiser`."""

    negative_prompt: str

    def prepare(self, prompts: Iterable[str]) -> None: ...

    def release_text_encoder(self) -> None: ...


Begin = Callable[[Queue, range], Queue]
"""A queue whose rows at these indices have just entered, all together, with the noise that they are to begin with."""


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model with its settings.

    window in latent frames; size is (width, height) in pixels; fps in pixel frames; weights_hash names the weights;
    source is the folder, or None for a live pipeline; license as the model card states it, None if unknown;
    notes are lines for the user, such as evidence against an unsound choice;
    begin: how frames that enter together begin, None: each from noise of its own.
    """

    name: str
    family: str
    source: Path | None
    denoiser: Denoiser
    codec: Codec
    solver: str
    window: int
    fps: float
    steps: int
    guidance: float
    size: tuple[int, int]
    negative_prompt: str
    dtype: str
    weights_hash: str
    license: str | None
    notes: tuple[str, ...] = ()
    begin: Begin | None = None

    def prepare(self, prompts: list[str], release: bool = False) -> None:
        """Encode every prompt of a run; `release` then frees the text encoder, the largest part of a real model."""
        if isinstance(self.denoiser, Prompted):
            self.denoiser.prepare(prompts)
            if release:
                self.denoiser.release_text_encoder()

    def end_with(self, picture: Any, frames: int | None = None) -> None:
        """End every window with this picture (PIL, None: no more). UsageError if the model cannot (`can.last_image`).

        frames: of a window up to it, where a film shows less than all of a window; None: all of them.
        It is not part of a run's state: a run that goes on has to be told again.
        """
        end = getattr(self.denoiser, "end_with", None)
        if not self.denoiser.can.last_image or end is None:
            raise UsageError(
                f"{self.name} cannot end with a picture; use one that can (Wan 2.2 I2V-A14B, Wan 2.1 FLF2V)"
            )
        end(picture, self.size, frames)
