"""A live pipeline is left as it was, whatever is done with it and however that ends."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from longtake.models.load import load
from longtake.models.tiny import tiny_wan, tiny_wan_image
from longtake.models.tiny_cogvideox import tiny_cogvideox
from longtake.models.tiny_skyreels import tiny_skyreels, tiny_skyreels_image
from tests.wan_cases import PROMPT, noise

CASES: dict[str, Any] = {
    "two experts": (lambda: tiny_wan(seed=5, boundary=0.7), (32, 64), {}),
    "wan from a picture": (lambda: tiny_wan_image(seed=5), (32, 64), {}),
    "wan, longer": (lambda: tiny_wan(seed=5), (32, 64), {"riflex": 30}),
    "skyreels, longer": (lambda: tiny_skyreels(seed=5, fps=True), (32, 64), {"riflex": 30}),
    "skyreels, causal blocks": (lambda: tiny_skyreels(seed=5, block=2), (32, 64), {}),
    "skyreels from a picture": (lambda: tiny_skyreels_image(seed=5), (32, 64), {"causal_block": 2}),
    "cogvideox 1.5": (lambda: tiny_cogvideox(seed=5, newer=True), (48, 32), {}),
    "cogvideox": (lambda: tiny_cogvideox(seed=5, rotary=True), (48, 32), {}),
    "cogvideox, unsound": (lambda: tiny_cogvideox(seed=5), (48, 32), {"allow_unsound": True}),
}


def fingerprint(pipe: Any) -> list[Any]:
    """All that could have been changed: weights, attributes, hooks and methods of every module, the scheduler."""
    found: list[Any] = [str(vars(pipe.scheduler)), sorted(vars(pipe))]
    for part in pipe.components.values():
        if not isinstance(part, torch.nn.Module):
            continue
        found += [value.double().sum().item() for value in part.state_dict().values()]
        for module in part.modules():
            found.append([(key, id(value)) for key, value in vars(module).items()])
            found.append(
                [len(value) for key, value in vars(module).items() if "hooks" in key and isinstance(value, dict)]
            )
            found.append((module.training, type(module), type(module).forward))
    return found


@pytest.mark.parametrize("fail", [False, True])
@pytest.mark.parametrize("name", list(CASES))
def test_a_live_pipeline_is_left_as_it_was(name: str, fail: bool, monkeypatch):
    make, size, extras = CASES[name]
    pipe = make()
    if getattr(pipe, "image_encoder", None) is not None:
        pipe.encode_image(Image.new("RGB", (16, 16)))  # transformers lays its own lasting hooks at the first use
    before = fingerprint(pipe)
    model = load(pipe, size=size, num_steps=6, extras=extras)
    mixed = torch.tensor([[0, 4, 4]]) if model.denoiser.can.per_row_levels == "no" else torch.tensor([[0, 2, 6]])
    x = noise(model, 1, 3)
    if fail:
        blocks = getattr(pipe.transformer, "blocks", None) or pipe.transformer.transformer_blocks
        with monkeypatch.context() as patch:
            patch.setattr(type(blocks[1]), "forward", lambda *a, **k: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                model.denoiser(x, mixed, [PROMPT])
        with monkeypatch.context() as patch:
            patch.setattr(type(pipe.vae.decoder.mid_block), "forward", lambda *a, **k: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                model.codec.decode(x[0])
    else:
        model.denoiser(x, mixed, [PROMPT])
        frames, _ = model.codec.decode(x[0])
        model.codec.encode(frames)
        model.prepare([PROMPT], release=True)
    assert fingerprint(pipe) == before
