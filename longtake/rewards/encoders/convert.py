"""Weights as their authors name them, to `model.safetensors` as the modules here do. One function a family.

Each takes the tensors of a file by name and returns those that the network reads. Only names change and parts that
encoders do not use (classifiers, teachers, optimisers) are left out; numbers stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

Weights = Mapping[str, Tensor]


def trunk(weights: Weights) -> dict[str, Tensor]:
    """EfficientNet-Lite and MobileNetV2 without their classifiers."""
    return {name: value for name, value in weights.items() if not name.startswith(("_fc.", "classifier."))}


def rife(weights: Weights) -> dict[str, Tensor]:
    """RIFE's four blocks, without the teacher and the refining network."""
    plain = {name.removeprefix("module."): value for name, value in weights.items()}
    return {
        name: value for name, value in plain.items() if name.split(".")[0] in ("block0", "block1", "block2", "block3")
    }
