"""Networks that predict the noise, as x0 denoisers with one level a row and classifier-free guidance.

x = alpha x0 + sigma eps, so x0 = (x - sigma eps) / alpha (Ho et al. 2020, Eq. 15); a row at level 0 has sigma 0 and
comes back as it is. The guidance pair runs as one batch. What a family adds is a `Network`: how noisy frames, their
training times and prompts become a noise estimate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from longtake.core.model import Capabilities, Cond
from longtake.core.schedule import NoiseSchedule
from longtake.models.place import Place
from longtake.models.prompts import texts_of


class Network(Protocol):
    """A network with its way to read prompts; `module` is what has the weights.

    Called with x (B, F, C, H, W) in its dtype where it works, times (B, F) on the CPU, a prompt a window, and in
    `leads` the prompt that guidance wants for that window, equal to the first in the wanted half of a pair. Returns
    the noise estimate, shaped as x.
    """

    @property
    def module(self) -> nn.Module: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def __call__(self, x: Tensor, times: Tensor, prompts: Sequence[Cond], leads: Sequence[Cond]) -> Tensor: ...

    def prepare(self, prompts: Iterable[str]) -> None: ...

    def release(self) -> None: ...


class EpsilonDenoiser:
    """A noise-predicting network bound to a schedule, prompts and guidance; implements `core.model.Denoiser`.

    guidance         scale of classifier-free guidance; at most 1 runs the network once a window instead of twice
    negative_prompt  what guidance steers away from
    """

    def __init__(
        self,
        network: Network,
        schedule: NoiseSchedule,
        can: Capabilities,
        guidance: float = 7.5,
        negative_prompt: str = "",
    ) -> None:
        self.network = network
        self.schedule = schedule
        self.can = can
        self.guidance = guidance
        self.negative_prompt = negative_prompt
        self.cost = 2 if guidance > 1 else 1
        self.place = Place()
        self._times = torch.tensor(schedule.times)
        self._alphas = torch.tensor(schedule.alphas)
        self._sigmas = torch.tensor(schedule.sigmas)

    @property
    def device(self) -> torch.device:
        """Where the network works."""
        return self.place.home or next(self.network.module.parameters()).device

    def prepare(self, prompts: Iterable[str]) -> None:
        """Read these prompts, and the negative one if guidance needs it."""
        self.network.prepare([*prompts, *([self.negative_prompt] if self.cost == 2 else [])])

    def release_text_encoder(self) -> None:
        """Free the text encoder; a prompt that comes later loads it again where that is possible."""
        self.network.release()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def __call__(
        self, x: Float[Tensor, "B F C H W"], levels: Int[Tensor, "B F"], cond: Sequence[Cond]
    ) -> Float[Tensor, "B F C H W"]:
        """The clean latents that the network expects, each row with its own level."""
        if len(cond) != len(x):
            raise ValueError(f"one prompt a window: got {len(cond)} prompts for {len(x)} windows")
        levels = levels.cpu()
        inputs, times = x.to(self.device, self.network.dtype), self._times[levels]
        prompts: list[Cond] = list(cond)
        if self.cost == 2:
            inputs, times = torch.cat([inputs, inputs]), torch.cat([times, times])
            prompts = [*prompts, *[self.negative_prompt] * len(cond)]
        self.network.prepare(texts_of(prompts))  # before the network works: an encoder is another one
        with self.place.working(self.network.module):
            noise = self.network(inputs, times, prompts, list(cond) * self.cost).float()
        if self.cost == 2:
            wanted, unwanted = noise.chunk(2)
            noise = unwanted + self.guidance * (wanted - unwanted)
        alphas, sigmas = (table[levels].to(x.device)[:, :, None, None, None] for table in (self._alphas, self._sigmas))
        return (x - sigmas * noise.to(x.device)) / alphas
