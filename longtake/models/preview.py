"""The preview decoder: one picture a latent frame, from that latent alone. For live previews and cheap rewards.

A model folder that has one holds `preview.safetensors` and an entry "preview" in `longtake.json`. It learnt what the
real decoder draws last for each latent (longtake.training.preview). Reads normalised latents, as the transformer does.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from safetensors.torch import load_file
from torch import Tensor, nn

FILE = "preview.safetensors"


class Preview(nn.Sequential):
    """Latents [N,z,h,w] (normalised) to pictures [N,3,8h,8w], about -1..1."""

    def __init__(self, channels: int = 32, widths: tuple[int, ...] = (96, 48, 24)) -> None:
        a, b, c = widths
        super().__init__(
            nn.Conv2d(channels, a, 3, padding=1), nn.SiLU(), nn.Conv2d(a, a, 3, padding=1), nn.SiLU(),
            nn.Upsample(scale_factor=2), nn.Conv2d(a, b, 3, padding=1), nn.SiLU(),
            nn.Upsample(scale_factor=2), nn.Conv2d(b, c, 3, padding=1), nn.SiLU(),
            nn.Conv2d(c, 12, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip
        self.config = {"channels": channels, "widths": list(widths)}

    @torch.no_grad()
    def pictures(self, latents: Float[Tensor, "N C H W"]) -> UInt8[Tensor, "N H2 W2 3"]:
        """Pictures of latents, on the CPU. Each is drawn by itself, so that a batch gives the bits of its parts."""
        weight = self[0].weight
        drawn = [self(latent[None].to(weight.device, weight.dtype)) for latent in latents]
        frames = ((torch.cat(drawn).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return frames.permute(0, 2, 3, 1).contiguous().cpu()


def home(folder: Path) -> Path | None:
    """Where the preview decoder of a model folder is: with it, or with the model whose autoencoder it shares."""
    from longtake.models import folder as folders
    from longtake.models import parts

    if (folder / FILE).is_file():
        return folder
    base = None if (folder / "vae").is_dir() else parts.base_of(folder, folders.settings(folder))
    return base if base is not None and (base / FILE).is_file() else None


def exists(folder: Path) -> bool:
    """Whether a model folder has a preview decoder, its own or that of its base."""
    return home(folder) is not None


def load(folder: Path) -> Preview:
    """The preview decoder of a model folder. FileNotFoundError if it has none."""
    folder = home(folder) or folder
    net = Preview(**json.loads((folder / "longtake.json").read_text())["preview"])
    net.load_state_dict({name: value.float() for name, value in load_file(folder / FILE).items()})
    return net.eval().requires_grad_(False)
