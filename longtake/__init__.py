"""longtake: long, consistent video from short-clip video diffusion models, by searching at inference time.

    import longtake
    longtake.generate("a dog walks right across green hills at noon", seconds=30)

`generate` makes a run directory, `stream` hands out frames as they come, `load` gives the parts to compose yourself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from longtake.apps.session import Result
    from longtake.models.load import Model

__version__ = "0.1.0"
__all__ = ["generate", "load", "stream"]


def load(source: Any = "pocket", **options: Any) -> Model:
    """A model by name, folder, hub id or live pipeline; options as `longtake.models.load.load` takes them."""
    from longtake.models.load import load as load_model

    return load_model(source, **options)


def generate(prompt: str, out: str | Path | None = None, **options: Any) -> Result:
    """Make a video in a run directory (default runs/...), resumable; options as the flags of `longtake generate`."""
    from longtake.apps.session import generate as generate_run

    return generate_run(prompt, out, **options)


def stream(prompt: str, **options: Any) -> Iterator[Tensor]:
    """Pixel frames as they come, uint8 (T, H, W, 3), endless unless `seconds` or `frames` says how long."""
    from longtake.apps.session import stream as stream_frames

    return stream_frames(prompt, **options)
