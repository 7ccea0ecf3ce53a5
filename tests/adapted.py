"""What LoRAs, offloading and compiling have to keep, for any family's folder."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from longtake.models.adapt import compile_blocks
from longtake.models.load import Model, load
from longtake.models.place import Stage

PROMPT = "a dog runs right over the hills"


def x0(model: Model, picture: bool = True) -> Tensor:
    """Of one window behind a clean row; steps 3."""
    shape = model.denoiser.can.latent_shape
    x = torch.randn(1, 3, *shape, generator=torch.Generator().manual_seed(0))
    return model.denoiser(x, torch.tensor([[0, 2, 3]]), [PROMPT])


def assert_adapts(folder: Path, tmp_path: Path, layer: str) -> None:
    """A LoRA is its product on its layer; offloaded parts take turns and give the same numbers."""
    plain = load(folder, num_steps=3)
    weight = dict(plain.denoiser.worker.module.named_modules())[layer].weight
    draw = torch.Generator().manual_seed(3)
    low, high = torch.randn(2, weight.shape[1], generator=draw), torch.randn(weight.shape[0], 2, generator=draw)
    save_file({f"{layer}.lora_A.weight": low, f"{layer}.lora_B.weight": high}, tmp_path / "style.safetensors")
    styled = load(folder, num_steps=3, lora=[f"{tmp_path / 'style.safetensors'}:0.5"])
    changed = dict(styled.denoiser.worker.module.named_modules())[layer].weight
    assert torch.allclose(changed, weight + 0.5 * high @ low, atol=1e-5)
    assert styled.weights_hash != plain.weights_hash
    before = x0(plain)
    assert not torch.allclose(before, x0(styled), atol=1e-3)
    latents = before[0, 1:].clamp(-1, 1)
    frames = plain.codec.pixels(latents)
    for mode in ("model", "group"):
        model = load(folder, num_steps=3, offload=mode)
        assert torch.equal(before, x0(model)), mode
        stage: Stage = model.denoiser.place.stage
        assert model.codec.place.stage is stage, "network and autoencoder share the device"
        assert (stage.front is model.denoiser.worker.module) == (mode == "model")
        assert torch.allclose(frames, model.codec.pixels(latents), atol=1e-5)
        assert stage.front is model.codec.vae


def assert_compiles(folder: Path) -> None:
    """Traced block by block, the network says what it said; the backend runs the traced operations as they are."""
    model = load(folder, num_steps=3)
    plain = x0(model)
    assert compile_blocks(model.denoiser.worker.module, backend="eager") > 1
    assert torch.equal(plain, x0(model))
