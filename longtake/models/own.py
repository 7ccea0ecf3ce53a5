"""Networks written here: their weights read from a folder of safetensors and put in place by name and shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from longtake.errors import UsageError

M = TypeVar("M", bound=nn.Module)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the folder's safetensors, shards together. UsageError if there is none."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UsageError(f"{folder} holds no weights (*.safetensors)")
    found: dict[str, Tensor] = {}
    for file in files:
        found.update(load_file(file))
    return found


def build(make: Callable[[], M], owner: Any = "the model") -> M:
    """A network whose weights take no memory until they are filled in. UsageError if sizes make none."""
    try:
        with torch.device("meta"):
            return make()
    except UsageError:
        raise
    except (TypeError, ValueError, IndexError, AttributeError, RuntimeError, ArithmeticError) as problem:
        said = " ".join(str(problem).split())[:200]
        raise UsageError(f"{owner}: the sizes in config.json make no network of this family: {said}") from problem


def fill(network: M, weights: Mapping[str, Tensor], owner: Any, device: torch.device, dtype: torch.dtype) -> M:
    """Put `weights` into a network made by `build`, in `dtype` on `device`, frozen.

    UsageError names the first weight that is missing, unknown or of another shape.
    """
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    for name in sorted(set(wanted) | set(weights)):
        if name not in weights:
            raise UsageError(f"{owner} lacks the weight {name}; {len(set(wanted) - set(weights))} are missing in all")
        if name not in wanted:
            raise UsageError(f"{owner} has a weight {name} that the network does not; is it of this family?")
        if tuple(weights[name].shape) != wanted[name]:
            raise UsageError(
                f"{owner}: the weight {name} has shape {tuple(weights[name].shape)}, the network needs {wanted[name]}"
            )
    placed = {name: value.to(device, dtype) if value.is_floating_point() else value.to(device)
              for name, value in weights.items()}  # fmt: skip
    network.load_state_dict(placed, strict=True, assign=True)
    return network.eval().requires_grad_(False)
