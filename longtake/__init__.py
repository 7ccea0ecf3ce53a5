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
    from typing import Unpack

    from torch import Tensor

    from longtake.apps.options import Loading, Options
    from longtake.apps.session import Result
    from longtake.models.load import Model

__version__ = "0.1.0"
__all__ = ["generate", "load", "stream"]


def load(source: Any = "pocket", **options: Unpack[Loading]) -> Model:
    """A model by name, folder, hub id or live diffusers pipeline: `denoiser`, `codec`, `window`, `fps` and more.

    Options: size, num_steps, guidance, solver, negative_prompt, device, dtype, lora, offload, compile, attention,
    extras. Raises longtake.errors.UsageError, one line, for anything that cannot work.
    """
    from longtake.apps.options import Loading, known
    from longtake.models.load import load as load_model

    known("load", options, Loading.__annotations__)
    return load_model(source, **options)


def generate(prompt: str = "", out: str | Path | None = None, **options: Unpack[Options]) -> Result:
    """Make a video in a run directory (default runs/...) and return what it is and what it cost.

    Options are the flags of `longtake generate` (`longtake.apps.options.Options`), such as seconds, method, steps,
    seed, model, search, set=("fifo.partitions=2",). A run that is stopped goes on with `longtake resume`. Silent but
    for the log `longtake`. Raises longtake.errors.UsageError, a ValueError of one line, before any weights run.
    """
    from longtake.apps.options import Options, known
    from longtake.apps.session import generate as generate_run

    known("generate", options, Options.__annotations__)
    return generate_run(prompt, out, **options)


def stream(prompt: str = "", **options: Unpack[Options]) -> Iterator[Tensor]:
    """Pixel frames as they come, uint8 (T, H, W, 3) on the CPU; nothing is written.

    Options as `generate`; endless unless `seconds` or `frames` says how long. The model is loaded by the call, so
    that mistakes show there and not at the first frame.
    """
    from longtake.apps.options import Options, known
    from longtake.apps.session import stream as stream_frames

    known("stream", options, Options.__annotations__)
    return stream_frames(prompt, **options)
