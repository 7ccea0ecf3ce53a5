"""CLIP's picture tower (Radford et al. 2021) and LAION's aesthetic head on it, as VBench runs them.

The network is the transformers library's; sizes are read off the weights (heads are 64 wide). Preparation: shorter side
224, bicubic without antialiasing, the middle square, CLIP's statistics. VBench runs CLIP in half precision on a GPU;
here it is float32, so values agree to about three digits.

aesthetic quality   features of ViT-L/14, normalised, through a linear layer: a score of about 0..10, divided by 10
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from longtake.errors import UsageError
from longtake.rewards.encoders.pictures import CLIP, Pictured, centre, filled, normalised, shorter_side

HEAD = 64


class Tower(nn.Module):
    """Pictures to CLIP's shared space."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """[B,3,224,224] normalised to features [B,D], not normalised."""
        return self.net(pixel_values=x).image_embeds


class Aesthetic(nn.Module):
    """Scores 0..1 of pictures."""

    def __init__(self, tower: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.tower, self.head = tower, head

    def forward(self, x: Tensor) -> Tensor:
        """[B,3,224,224] normalised to scores [B]."""
        return self.head(F.normalize(self.tower(x), dim=-1))[:, 0] / 10


def sized(weights: Mapping[str, Tensor]) -> Any:
    """The tower that these weights belong to, not yet filled."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    width, _, patch, _ = weights["vision_model.embeddings.patch_embedding.weight"].shape
    positions = weights["vision_model.embeddings.position_embedding.weight"].shape[0]
    names = [name.split(".") for name in weights if name.startswith("vision_model.encoder.layers.")]
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=weights["vision_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        projection_dim=weights["visual_projection.weight"].shape[0],
        num_hidden_layers=1 + max(int(name[3]) for name in names),
        num_attention_heads=width // HEAD,
        image_size=patch * round((positions - 1) ** 0.5),
        patch_size=patch,
        hidden_act="quick_gelu",
    )
    return CLIPVisionModelWithProjection(config)


def prepare(pictures: Tensor) -> Tensor:
    """Shorter side 224, the middle square, CLIP's statistics."""
    return normalised(centre(shorter_side(pictures, 224, "bicubic"), 224), CLIP)


def clip(folder: Path) -> Pictured:
    """CLIP's features of a picture."""
    return Pictured(folder.name, prepare, _tower(folder))


def aesthetic(tower: Path, head: Path) -> Pictured:
    """LAION's aesthetic predictor on ViT-L/14."""
    net, linear = _tower(tower), nn.Linear(load_file(head / "model.safetensors")["weight"].shape[1], 1)
    return Pictured("laion-aesthetic", prepare, Aesthetic(net, filled(linear, head)).eval(), batch=32)


def _tower(folder: Path) -> Tower:
    try:
        net = sized(load_file(folder / "model.safetensors"))
    except (KeyError, ValueError) as error:
        raise UsageError(f"{folder} does not hold the weights of CLIP's picture tower") from error
    return Tower(filled(net, folder))
