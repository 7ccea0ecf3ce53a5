"""What looks at pictures: encoders, scorers, optical flow, interpolation. Found by role, or loaded by name.

Metrics and rewards take these as arguments and print their names beside every value, so that a stand-in is never taken
for the published network. Weights are read from safetensors only, in a folder of the user's cache
(`$LONGTAKE_CACHE/encoders/NAME`, which `longtake convert` fills) or, for networks of the transformers library, in the
hub's cache on this machine. Nothing is downloaded.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

from jaxtyping import Float, UInt8
from torch import Tensor

from longtake.errors import UsageError

Use = Literal["measure", "reward"]


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

    make    "module:function", called with the folder of the weights, or with nothing if `folder` is None
    folder  name of the folder of weights; None: nothing to load from a user's disk
    origin  where the weights come from, told when they are missing
    hub     id under which the transformers library keeps them
    """

    make: str
    folder: str | None = None
    origin: str = ""
    hub: str | None = None


HERE = "longtake.rewards.encoders."
KNOWN: dict[str, Known] = {}
"""Every name that `load` takes."""

ROLES: dict[str, tuple[str, ...]] = {
    "subject": (),
    "background": (),
    "aesthetic": (),
    "imaging": (),
    "flow": (),
    "middle": (),
    "video": (),
}
"""Names by role, the published choice first, then what stands in for it."""


def find(role: str, use: Use = "measure") -> Any | None:
    """The best that is at hand for a role, else None. What `use="reward"` gets never measures: nothing marks itself."""
    if role not in ROLES:
        raise UsageError(f"unknown role {role!r}; known: {', '.join(ROLES)}")
    names = [name for name in ROLES[role] if at_hand(name)]
    measure = next((name for name in names if "/reward/" not in name), None)
    if use == "reward":
        names = [name for name in names if name != measure and "/measure/" not in name]
        return load(names[0]) if names else None
    return load(measure) if measure else None


def at_hand(name: str) -> bool:
    """Whether `load(name)` finds what it needs on this machine."""
    known = KNOWN[name]
    return known.folder is None or folder_of(known) is not None


@lru_cache(maxsize=16)
def load(name: str) -> Any:
    """An encoder, scorer, flow or interpolation by name. UsageError says what is known and where weights belong."""
    if name not in KNOWN:
        raise UsageError(f"unknown encoder {name!r}; known: {', '.join(KNOWN)}")
    known = KNOWN[name]
    module, _, function = known.make.partition(":")
    make = getattr(importlib.import_module(module), function)
    if known.folder is None:
        return make()
    folder = folder_of(known)
    if folder is None:
        raise UsageError(
            f"there are no weights of {name} on this machine: they belong in {cache() / known.folder}; get {known.origin}"
            f" and type: longtake convert {known.folder} FILE"
        )
    return make(folder)


def cache() -> Path:
    """Where encoders' weights lie, a folder each: $LONGTAKE_CACHE/encoders or the user's cache folder."""
    own = os.environ.get("LONGTAKE_CACHE")
    base = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "longtake"
    return base / "encoders"


def folder_of(known: Known) -> Path | None:
    """The folder that holds the weights, or None."""
    own = cache() / str(known.folder)
    if (own / "model.safetensors").is_file():
        return own
    if known.hub is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(known.hub, "model.safetensors")
    return Path(found).parent if isinstance(found, str) else None
