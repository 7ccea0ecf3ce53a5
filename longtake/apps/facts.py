"""What is known of a model before its weights are loaded."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from longtake.core.model import Capabilities


@dataclass(frozen=True)
class Facts:
    """A model as its JSON tells it.

    source    what to load it by, also from another folder
    size      (width, height) of the run, in pixels, known to fit the model
    window    latent frames of one call
    factor    pixels of a latent's side; `compression` pixel frames of a latent after the first
    guided    whether a window costs two network evaluations (or `passes`), times `experts` at most
    folder    where its files are, None for a live pipeline
    method    the model's own default; `chunk_overlap` and `begins`, `labels` as in `models/seam.ModelFacts`
    """

    name: str
    source: str
    family: str
    window: int
    channels: int
    factor: int
    fps: float
    steps: int
    size: tuple[int, int]
    vocabulary: str | None
    per_row_levels: str
    image_first: bool
    guided: bool
    experts: int = 1
    passes: int = 0
    method: str | None = None
    chunk_overlap: int = 0
    begins: bool = False
    compression: int = 4
    first_is_image: bool = True
    image_only: bool = False
    last_image: bool = False
    clean_rows: bool = False
    latent_group: int = 1
    latents_at_once: int = 1
    frames_behind: int = 0
    labels: int = 0
    folder: Path | None = None

    @property
    def cost(self) -> int:
        """Network evaluations of a window, at one expert."""
        return self.passes or (2 if self.guided else 1)

    def clip_frames(self, context: int = 0) -> int:
        """Pixel frames of one clip, behind `context` latents that are read and not shown."""
        if not context:
            return self.can.num_frames(self.window)
        if self.latent_group > 1:  # whole groups are read
            return self.can.num_frames(self.window - -(-context // self.latent_group) * self.latent_group)
        return (self.window - context) // self.latents_at_once * self.latents_at_once * self.compression

    def num_latents(self, num_frames: int, after: bool) -> int:
        """Latents that decode to `num_frames` frames, behind others or (not `after`) from the start of a video."""
        return self.can.num_latents(num_frames, after)

    @property
    def can(self) -> Capabilities:
        """The same as the loaded model will say it."""
        names = {item.name for item in fields(Capabilities)} & {item.name for item in fields(self)}
        return Capabilities(
            latent_shape=self.shape(self.size),
            temporal_compression=self.compression,
            **{name: getattr(self, name) for name in names},
        )

    def shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """(C, H, W) of a latent of pictures of `size`."""
        return self.channels, size[1] // self.factor, size[0] // self.factor
