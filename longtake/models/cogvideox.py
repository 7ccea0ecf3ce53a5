"""CogVideoX as an x0 denoiser: v-prediction, one level a window, a picture by channels in its image-to-video form.

x0 = alpha x - sigma v (Salimans and Ho 2022, Eq. 12). Guidance runs as one batch, as stock. Clean leading rows (the end
of the clip before, a picture) are shown noised to the level that the other rows share and come back as they are.
Image-to-video networks take 16 more channels: the picture's latent in the first row, zeros elsewhere. Here that is the
first known row; `open_with` sets a picture for windows that have none, whose every row is then noisy, as stock.

CogVideoX 1.5 reads two latents in one token, so a window has an even number of them. It was trained with a copy of the
first latent in front where the number was odd. So are odd windows shown here, and what is predicted for the copy is
left out: behind a known first row the copy has noise of its own, as in training; a noisy first row is copied with its
noise, which training had not, so whole windows of noise should be even. The stock pipeline denoises the row in front as
one of its own and drops it; an even window here is just that, with every row kept. The picture's latent stands in the
very first row. The image-to-video network is also told a constant, `ofs`, always 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from longtake.core.model import Capabilities, Cond, embedded
from longtake.core.noise import normal, root
from longtake.core.schedule import NoiseSchedule
from longtake.models.cogvideox_rows import Tables, forward_mixed, forward_shared, rotary
from longtake.models.parts import noised_prefix
from longtake.models.place import Place
from longtake.models.prompts import PromptCache

EVIDENCE = (
    "allow_unsound: CogVideoX's text tokens share one time with the video's, and one level a row gave abnormal videos "
    "with it (MIGA, App. A.4, Fig. A3); methods that share a level (plain, chunk) are what it was made for"
)


@dataclass(frozen=True)
class Picture:
    """How a picture goes into the network: `scale` times its latent; latents are what the codec makes."""

    scale: float = 1.0


class CogVideoXDenoiser:
    """A CogVideoX transformer bound to a schedule, prompts and guidance; implements `core.model.Denoiser`.

    picture  None for text-to-video networks
    riflex   the length in latents that positions in time are stretched to
    """

    def __init__(
        self,
        transformer: nn.Module,
        text: PromptCache,
        schedule: NoiseSchedule,
        can: Capabilities,
        guidance: tuple[float, str] = (6.0, ""),
        picture: Picture | None = None,
        riflex: int | None = None,
    ) -> None:
        self.transformer, self.text, self.schedule, self.can = transformer, text, schedule, can
        self.guidance, self.negative_prompt = guidance
        self.picture, self.riflex = picture, riflex
        self.cost = 2 if self.guidance > 1 else 1
        self.patch = transformer.config.patch_size_t or 1
        self.opening: Tensor | None = None
        self.place = Place()
        self._alphas, self._sigmas = torch.tensor(schedule.alphas), torch.tensor(schedule.sigmas)
        self._times = torch.tensor(schedule.times)
        self._last: tuple[tuple[Cond, ...], Tensor] | None = None
        self._tables: tuple[tuple[int, int, int], Tables | None] | None = None

    @property
    def device(self) -> torch.device:
        """Where the transformer works."""
        return self.place.home or self.transformer.proj_out.weight.device

    def prepare(self, prompts: Iterable[str]) -> None:
        """Encode these prompts, and the negative one if guidance needs it."""
        self.text.prepare([*prompts, *([self.negative_prompt] if self.cost == 2 else [])])

    def release_text_encoder(self) -> None:
        """Free the text encoder."""
        self.text.release()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def open_with(self, latent: Float[Tensor, "C H W"] | None) -> None:
        """The picture's latent that windows without known rows are conditioned on; None takes it away."""
        self.opening = latent

    def __call__(
        self, x: Float[Tensor, "B F C H W"], levels: Int[Tensor, "B F"], cond: Sequence[Cond]
    ) -> Float[Tensor, "B F C H W"]:
        """The clean latents that the network expects: alpha * x - sigma * v; clean rows as they are."""
        if len(cond) != len(x):
            raise ValueError(f"one prompt a window: got {len(cond)} prompts for {len(x)} windows")
        levels = levels.cpu()
        top = levels.amax(dim=1)
        # windows whose noisy rows share a level are what the network knows, also where more is allowed
        shared = bool(((levels == top[:, None]) | (levels == 0)).all())
        if shared or self.can.per_row_levels == "no":
            shown, top = noised_prefix(x, levels, self.schedule)
            used = top[:, None].expand_as(levels)
        else:
            shown, used = x, levels
        told = self._with_picture(padded(shown, x, levels, self.schedule, self.patch), x, levels)
        v = self._predict(told, top if used is not levels else levels, cond)[:, told.shape[1] - x.shape[1] :]
        alphas, sigmas = (table[used].to(x.device)[:, :, None, None, None] for table in (self._alphas, self._sigmas))
        x0 = alphas * shown - sigmas * v.to(x.device)
        return torch.where((levels == 0).to(x.device)[:, :, None, None, None], x, x0)

    def _with_picture(self, shown: Tensor, x: Tensor, levels: Tensor) -> Tensor:
        if self.picture is None:
            return shown
        given = torch.zeros_like(shown)
        for window, known in enumerate((levels[:, 0] == 0).tolist()):
            if known:
                given[window, 0] = self.picture.scale * x[window, 0]
            elif self.opening is not None:
                given[window, 0] = self.picture.scale * self.opening.to(x)
        return torch.cat([shown, given], dim=2)

    def _predict(self, x: Tensor, levels: Tensor, cond: Sequence[Cond]) -> Tensor:
        """The guided v, float32; `levels` is one a window, or one a row."""
        inputs, times = x.to(self.device, self.transformer.dtype), self._times[levels]
        if self.cost == 2:
            inputs, times = torch.cat([inputs, inputs]), torch.cat([times, times])
        shape = (x.shape[1], x.shape[3], x.shape[4])
        if self._tables is None or self._tables[0] != shape:
            self._tables = shape, rotary(self.transformer.config, shape, self.riflex)
        forward = forward_shared if times.ndim == 1 else forward_mixed
        text = self._embeddings(tuple(cond))
        with self.place.working(self.transformer):
            v = forward(self.transformer, inputs, times, text, self._tables[1]).float()
        if self.cost == 2:
            unwanted, wanted = v.chunk(2)
            v = unwanted + self.guidance * (wanted - unwanted)
        return v

    def _embeddings(self, cond: tuple[Cond, ...]) -> Float[Tensor, "N L D"]:
        if self._last is None or self._last[0] != cond:
            texts = [*([self.negative_prompt] * len(cond) if self.cost == 2 else []), *cond]
            stacked = torch.stack([embedded(text, self.text) for text in texts])
            self._last = cond, stacked.to(self.device, self.transformer.dtype)
        return self._last[1]


def padded(
    shown: Float[Tensor, "B F C H W"], x: Tensor, levels: Int[Tensor, "B F"], schedule: NoiseSchedule, patch: int
) -> Float[Tensor, "B G C H W"]:
    """The rows with a copy of the first in front where `patch` latents a token ask for one more.

    `x` and `levels` are those of the rows themselves, `shown` what the network sees of them. The copy of a known row
    (level 0) is noised to the level of the others with noise of its own, always the same.
    """
    if shown.shape[1] % patch == 0:
        return shown
    lead = shown[:, :1].clone()
    for window, level in enumerate(levels.amax(dim=1).tolist()):
        if levels[window, 0] == 0:
            eps = normal(x.shape[2:], root(0), "padding row", 0).to(x)
            lead[window, 0] = schedule.alphas[level] * x[window, 0] + schedule.sigmas[level] * eps
    return torch.cat([lead, shown], dim=1)
