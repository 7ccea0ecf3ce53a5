"""What Open-Sora, Open-Sora-Plan and ConsistI2V share: x0 by row from what a network predicts, texts, loading.

Each predicts something linear in the clean latents and the noise, so with x = alpha x0 + sigma eps every row has
x0 = keep x + take out, by its own level:

    velocity x0 - eps (rectified flow, alpha = 1 - sigma)      keep 1          take sigma
    v = alpha eps - sigma x0 (Salimans and Ho 2022)            keep alpha      take -sigma
    noise eps                                                  keep 1 / alpha  take -sigma / alpha

At level 0 sigma is 0 and alpha 1, so a clean row comes back as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from longtake.core.model import Blend, Capabilities, Cond, embedded
from longtake.core.noise import normal, root
from longtake.core.schedule import NoiseSchedule
from longtake.errors import UsageError
from longtake.models import folder as folders
from longtake.models.families import Source
from longtake.models.own import build, fill, read_weights
from longtake.models.place import Place

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)

Prediction = Literal["velocity", "v", "noise"]


@dataclass(frozen=True)
class Inputs:
    """One batch for a network, on its device. x and times by row, `levels` on the CPU; `mask` marks real tokens.

    guided: whether the second half of the batch is the unwanted half of guidance pairs.
    """

    x: Float[Tensor, "B F C H W"]
    times: Float[Tensor, "B F"]
    levels: Int[Tensor, "B F"]
    text: Float[Tensor, "B L D"]
    mask: Bool[Tensor, "B L"]
    guided: bool


Network = Callable[[Inputs], Tensor]
"""What a family adds: the prediction for every row, shaped as x."""


class Texts(Protocol):
    """Prompts as embeddings (L, D) of as many tokens as they have."""

    def wanted(self, cond: Cond) -> Tensor: ...

    def unwanted(self, cond: Cond) -> Tensor: ...

    def prepare(self, prompts: Iterable[Cond]) -> None: ...

    def release(self) -> None: ...


class Worker:
    """A network that is called where it works (models/place), which need not be where its weights wait."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.place = module, Place()

    @property
    def device(self) -> torch.device:
        """Where it works."""
        return self.place.home or next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights; rotary frequencies stay float32."""
        return next(value.dtype for name, value in self.module.named_parameters() if not name.endswith(".freqs"))

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The network's forward."""
        with self.place.working(self.module):
            return self.module(*inputs)


class RowDenoiser:
    """A network bound to a schedule, texts and guidance; implements `core.model.Denoiser`.

    `network` calls the worker with what it needs; `guidance` of at most 1 runs it once a window instead of twice.
    Latents stay float32, whatever the network's dtype.
    """

    def __init__(
        self,
        network: Network,
        worker: Worker,
        texts: Texts,
        schedule: NoiseSchedule,
        can: Capabilities,
        guidance: float,
        prediction: Prediction,
    ) -> None:
        self.network, self.texts, self.schedule, self.can = network, texts, schedule, can
        self.guidance = guidance
        self.negative_prompt = str(getattr(texts, "negative", ""))
        self.cost = 2 if guidance > 1 else 1
        self.worker = worker
        self._times = torch.tensor(schedule.times)
        self._keep, self._take = coefficients(schedule, prediction)
        self._last: tuple[tuple[Cond, ...], tuple[Tensor, Tensor]] | None = None

    @property
    def device(self) -> torch.device:
        """Where the network works."""
        return self.worker.device

    @property
    def place(self) -> Place:
        """How the network shares its device with other parts."""
        return self.worker.place

    @place.setter
    def place(self, place: Place) -> None:
        self.worker.place = place

    def prepare(self, prompts: Iterable[Cond]) -> None:
        """Encode these prompts, and what guidance steers away from."""
        self.texts.prepare(prompts)

    def release_text_encoder(self) -> None:
        """Free the text encoder; a later prompt loads it again where that is possible."""
        self.texts.release()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def __call__(
        self, x: Float[Tensor, "B F C H W"], levels: Int[Tensor, "B F"], cond: Sequence[Cond]
    ) -> Float[Tensor, "B F C H W"]:
        """The clean latents that the network expects, each row with its own level."""
        if len(cond) != len(x):
            raise ValueError(f"one prompt a window: got {len(cond)} prompts for {len(x)} windows")
        levels = levels.cpu()
        out = self.predict(x.to(self.device), levels, tuple(cond)).to(x.device)
        keep, take = (table[levels].to(x.device)[:, :, None, None, None] for table in (self._keep, self._take))
        return keep * x + take * out

    def predict(self, x: Tensor, levels: Tensor, cond: tuple[Cond, ...]) -> Float[Tensor, "B F C H W"]:
        """What the network predicts, guided, float32."""
        text, mask = self._texts_of(cond)
        times = self._times[levels].to(self.device)
        if self.cost == 1:
            return self.network(Inputs(x, times, levels, text, mask, guided=False)).float()
        doubled = (torch.cat([part, part]) for part in (x, times, levels))
        wanted, unwanted = self.network(Inputs(*doubled, text, mask, guided=True)).float().chunk(2)
        return unwanted + self.guidance * (wanted - unwanted)

    def _texts_of(self, cond: tuple[Cond, ...]) -> tuple[Tensor, Tensor]:
        # the windows of a run share few prompts: keep the last batch on the device
        if self._last is None or self._last[0] != cond:
            rows = [self.texts.wanted(one) for one in cond]
            if self.cost > 1:
                rows += [self.texts.unwanted(one) for one in cond]
            text, mask = padded(rows)
            self._last = cond, (text.to(self.device, self.worker.dtype), mask.to(self.device))
        return self._last[1]


def leading(levels: Sequence[int]) -> int:
    """How many rows at the front are at level 0."""
    return next((place for place, level in enumerate(levels) if level), len(levels))


def as_noisy(
    x: Float[Tensor, "K C H W"], level: int, schedule: NoiseSchedule, start: int = 0
) -> Float[Tensor, "K C H W"]:
    """Known latents at places `start`.. of a window noised to `level`, with noise that depends on the place alone."""
    eps = torch.stack([normal(x.shape[1:], root(0), "known row", start + place) for place in range(len(x))])
    return schedule.alphas[level] * x + schedule.sigmas[level] * eps.to(x)


def coefficients(schedule: NoiseSchedule, prediction: Prediction) -> tuple[Tensor, Tensor]:
    """(keep, take) by level, float32."""
    alphas = torch.tensor(schedule.alphas, dtype=torch.float64)
    sigmas = torch.tensor(schedule.sigmas, dtype=torch.float64)
    keep, take = {
        "velocity": (torch.ones_like(alphas), sigmas),
        "v": (alphas, -sigmas),
        "noise": (1 / alphas, -sigmas / alphas),
    }[prediction]
    return keep.float(), take.float()


def padded(rows: Sequence[Float[Tensor, "L D"]]) -> tuple[Float[Tensor, "B L D"], Bool[Tensor, "B L"]]:
    """Embeddings of different lengths side by side, zeros behind them, and a mask of what is real."""
    longest = max(len(row) for row in rows)
    text = torch.stack([nn.functional.pad(row, (0, 0, 0, longest - len(row))) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return text, torch.arange(longest)[None] < lengths[:, None]


def mixed(cond: Cond, embed: Callable[[str], Tensor]) -> Float[Tensor, "L D"]:
    """The embedding of a prompt, or of two in cross-fade, the shorter filled up with zeros."""
    if not isinstance(cond, Blend):
        return embed(cond)
    both = dict(zip((cond.first, cond.second), padded([embed(cond.first), embed(cond.second)])[0], strict=True))
    return embedded(cond, both.__getitem__)


def prompts_of(conds: Iterable[Cond]) -> list[str]:
    """Every prompt that these name, once."""
    found: dict[str, None] = {}
    for cond in conds:
        for prompt in (cond.first, cond.second) if isinstance(cond, Blend) else (cond,):
            found[prompt] = None
    return list(found)


def config_of(kind: type[T], source: Source, part: str, names: Mapping[str, str] | None = None) -> T:
    """A dataclass of sizes from a part's config.json: `names` maps our names to the file's; absent ones keep defaults.

    UsageError if a value is not of the kind that the default is.
    """
    content = folders.read_json(source.path(part) / "config.json")
    chosen: dict[str, Any] = {}
    for item in fields(kind):  # type: ignore[arg-type]
        key = (names or {}).get(item.name, item.name)
        if key not in content:
            continue
        value = tuple(content[key]) if isinstance(content[key], list) else content[key]
        like = type(value) is type(item.default) or (isinstance(item.default, float) and isinstance(value, int))
        if not like or (type(value) is int and value < 1 <= item.default):
            raise UsageError(f"{source.path(part) / 'config.json'}: {key} is {content[key]!r}, not like {item.default}")
        chosen[item.name] = value
    return kind(**chosen)


def load_own(make: Callable[[], M], source: Source, part: str, device: torch.device, dtype: torch.dtype) -> M:
    """One of our networks with the weights of a part. Rotary frequencies stay float32 whatever the dtype."""
    weights = read_weights(source.path(part))
    network = fill(build(make, source.path(part)), weights, source.path(part), device, dtype)
    for name, parameter in network.named_parameters():
        if name.endswith(".freqs"):
            parameter.data = weights[name].to(device, torch.float32)
    return network


def window_of(usual: Mapping[str, Any], family: str) -> int:
    """The rows of a window. UsageError unless there is at least one."""
    window = usual["window"]
    if not isinstance(window, int) or window < 1:
        raise UsageError(f"{family}: window must be a number of latents from 1 up, got {window!r}")
    return window
