"""What a user may ask of any loaded network: LoRAs, offloading, compiling. Networks of live pipelines are left alone.

LoRA. diffusers reads the file (its pipelines' `lora_state_dict` knows the formats in use); the product of each pair is
added to the weight it belongs to, W + scale * (alpha / rank) * B A (Hu et al. 2021, Eq. 3), so that a call costs what
it cost before, and offloading and compiling see ordinary weights. alpha is that of a pair, or what the file's metadata
say of all (diffusers and PEFT write them there); without either it is the rank.

Offloading. `model`: each part is on the device while it works and in the host's memory otherwise. `group`: the blocks
of the transformer come one after the other (diffusers' group offloading), the other parts as with `model`.

Compiling. The transformer's repeated blocks, each compiled once (regional compilation).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from longtake.errors import UsageError
from longtake.models.attention import attend
from longtake.models.families import LoadOptions, Model, Source
from longtake.models.parts import dtype_of, pick_device
from longtake.models.place import Place, Stage


def check_options(source: Source, options: LoadOptions) -> None:
    """UsageError for what cannot be asked of a live pipeline, whose networks stay as they are."""
    asked = [name for name, value in (("--lora", options.lora), ("--offload", options.offload != "none"),
                                      ("--compile", options.compile), ("--attention", options.attention))
             if value]  # fmt: skip
    if source.pipe is not None and asked:
        raise UsageError(f"{asked[0]} changes networks, and a live pipeline is left as it is; do it to the pipeline")
    if options.offload not in ("none", "model", "group"):
        raise UsageError(f"offload {options.offload!r} is not known; known: none, model, group")
    if source.pipe is None:
        dtype_of(options.dtype, torch.device("cpu"))
    for item in options.lora:
        _found(parsed(item)[0])


def waiting(options: LoadOptions, device: torch.device) -> torch.device:
    """Where weights are loaded to: the host's memory if they are to be offloaded."""
    return torch.device("cpu") if options.offload != "none" else device


def adapted(model: Model, options: LoadOptions, networks: Sequence[nn.Module | None], reader: Any) -> Model:
    """The model as its options ask: LoRA, attention, compiling, offloading. Its weights are named anew by LoRAs."""
    named, left = add_loras(networks, options.lora, reader)
    around = None
    if options.attention is not None:
        around = attend(networks, options.attention, pick_device(options.device))
    if options.compile:
        for network in networks:
            if network is not None:
                compile_blocks(network)
    denoiser: Any = model.denoiser
    codec: Any = model.codec
    if options.offload != "none":
        denoiser.place = codec.place = placed(networks, pick_device(options.device), options.offload)
    denoiser.place.around = around or denoiser.place.around
    if named:
        named = sha256(f"{model.weights_hash} {named}".encode()).hexdigest()[:16]
    return replace(model, weights_hash=named or model.weights_hash, notes=(*model.notes, *left))


# -- LoRA --------------------------------------------------------------------------------------------------------


def parsed(text: str) -> tuple[str, float, str]:
    """(path or hub id, scale, expert) of "[high=|low=]PATH_OR_ID[:SCALE]"; expert "" means every network."""
    expert, sign, rest = text.partition("=")
    if not sign or expert not in ("high", "low"):
        expert, rest = "", text
    place, colon, scale = rest.rpartition(":")
    if colon:
        try:
            return place, float(scale), expert
        except ValueError:
            pass
    return rest, 1.0, expert


def add_loras(networks: Sequence[nn.Module | None], texts: Sequence[str], reader: Any) -> tuple[str, list[str]]:
    """Add LoRAs to networks (the first expert and, where there is one, the second): (what names them, notes of what is
    in their files and not added).

    `reader` is a pipeline class with diffusers' `lora_state_dict`. UsageError for a file that is missing or unfit.
    """
    digest, notes = sha256(), []
    for text in texts:
        place, scale, expert = parsed(text)
        if expert == "low" and (len(networks) < 2 or networks[1] is None):
            raise UsageError(f"--lora {text}: this model has no second expert; leave out low=")
        state, told = _read(place, reader)
        pairs = _pairs(state, text, told)
        left = _unused(state)
        if left:
            notes.append(f"--lora {text}: {len(left)} of its weights belong to no layer that is changed, as {left[0]}")
        chosen = {"high": networks[:1], "low": networks[1:2], "": networks}[expert]
        for network in chosen:
            if network is not None:
                _fuse(network, pairs, scale, text)
        for name in sorted(pairs):
            digest.update(f"{name} {scale} {expert} ".encode())
            if told:
                digest.update(f"{pairs[name][2]} ".encode())
            digest.update(pairs[name][0].float().numpy().tobytes() + pairs[name][1].float().numpy().tobytes())
            if pairs[name][3] is not None:
                digest.update(pairs[name][3].float().numpy().tobytes())
    return digest.hexdigest()[:16] if texts else "", notes


def _found(place: str) -> Path:
    # where a LoRA is, or the hub id as a path
    path = Path(place).expanduser()
    if not path.exists() and (path.suffix or place.count("/") != 1):
        raise UsageError(f"--lora {place}: there is no such file; give a .safetensors file, a folder or a hub id")
    if path.is_file() and path.suffix != ".safetensors":
        raise UsageError(f"--lora {place} is not a .safetensors file; no other kind is loaded")
    return path


def _read(place: str, reader: Any) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
    # the weights, and what the file says of how they were trained
    path = _found(place)
    asked: dict[str, Any] = {"use_safetensors": True, "return_lora_metadata": True}
    try:
        if path.is_file():
            state, told = reader.lora_state_dict(str(path.parent), weight_name=path.name, **asked)
        else:
            state, told = reader.lora_state_dict(str(path) if path.is_dir() else place, **asked)
        return state, told or {}
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as problem:
        raise UsageError(f"--lora {place} cannot be read: {' '.join(str(problem).split())[:200]}") from problem


Pair = tuple[Tensor, Tensor, float, Any]
"""A, B, alpha / rank, and what is added to the bias or None."""
PARTS = (".lora_A.weight", ".lora_B.weight", ".lora_B.bias", ".alpha")


def _unused(state: Mapping[str, Tensor]) -> list[str]:
    """Weights of a LoRA that are not of a pair."""
    stems = {name.removesuffix(PARTS[0]) for name in state if name.endswith(PARTS[0])}
    return sorted(set(state) - {stem + part for stem in stems for part in PARTS})


def _pairs(state: Mapping[str, Tensor], text: str, told: Mapping[str, Any] | None = None) -> dict[str, Pair]:
    """Pairs by the name of the layer; `told` are the metadata of the file."""
    pairs: dict[str, Pair] = {}
    for name, low in state.items():
        if not name.endswith(".lora_A.weight"):
            continue
        stem = name.removesuffix(".lora_A.weight")
        high, alpha = state.get(f"{stem}.lora_B.weight"), state.get(f"{stem}.alpha")
        if high is None:
            raise UsageError(f"--lora {text} lacks {stem}.lora_B.weight; it is cut off or of another kind")
        layer = stem.removeprefix("transformer.").removeprefix("diffusion_model.").removeprefix("unet.")
        bias = state.get(f"{stem}.lora_B.bias")  # diffusers makes it of `diff_b`, as distilled Wan LoRAs have it
        ratio = _told_ratio(layer, low.shape[0], told or {}) if alpha is None else float(alpha) / low.shape[0]
        pairs[layer] = low.cpu(), high.cpu(), ratio, None if bias is None else bias.cpu()
    if not pairs:
        raise UsageError(f"--lora {text} holds no LoRA (no lora_A and lora_B weights)")
    return pairs


def _told_ratio(layer: str, rank: int, told: Mapping[str, Any]) -> float:
    """alpha / rank as PEFT scales the pair of a layer by the metadata of its file; 1 where they say nothing."""
    known = {key.removeprefix("transformer.").removeprefix("unet."): value for key, value in told.items()}
    alpha = known.get("lora_alpha")
    for name, value in (known.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({name})$", layer):
            alpha = value
            break
    if alpha is None:
        return 1.0
    return float(alpha) / (math.sqrt(rank) if known.get("use_rslora") else rank)


@torch.no_grad()
def _fuse(network: nn.Module, pairs: Mapping[str, Pair], scale: float, text: str) -> None:
    layers = dict(network.named_modules())
    for name, (low, high, ratio, more) in pairs.items():
        weight = getattr(layers.get(name), "weight", None)
        if weight is None:
            raise UsageError(f"--lora {text} is for another model: it names {name}, a layer that this one lacks")
        if weight.shape[:2] != (high.shape[0], low.shape[1]):
            raise UsageError(f"--lora {text} is for another model: {name} has {tuple(weight.shape)}, not "
                             f"{(high.shape[0], low.shape[1])}")  # fmt: skip
        change = high.flatten(1).float() @ low.flatten(1).float() * (scale * ratio)
        weight.copy_((weight.float().cpu() + change.reshape(weight.shape)).to(weight))
        if more is not None:
            bias = layers[name].bias
            if bias is None or bias.shape != more.shape:
                raise UsageError(f"--lora {text} is for another model: it has a bias for {name}, which has none such")
            bias.copy_((bias.float().cpu() + more.float() * (scale * ratio)).to(bias))


# -- offloading --------------------------------------------------------------------------------------------------


def placed(networks: Sequence[nn.Module | None], device: torch.device, offload: str) -> Place:
    """How networks, a codec and a denoiser share the device under an offload mode."""
    if offload == "none":
        return Place()
    streamed = tuple(network for network in networks if network is not None) if offload == "group" else ()
    for network in streamed:
        stream_blocks(network, device)
    return Place(device, Stage(device), streamed)


def stream_blocks(network: nn.Module, device: torch.device) -> None:
    """Keep the network's blocks in the host's memory, and bring them to the device one after the other."""
    from diffusers.hooks import apply_group_offloading

    apply_group_offloading(
        network,
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=device.type == "cuda",
    )


# -- compiling ---------------------------------------------------------------------------------------------------


def compile_blocks(network: nn.Module, backend: str = "inductor") -> int:
    """Compile every repeated block of a transformer; returns how many there are."""
    lists = [child for child in network.children() if isinstance(child, nn.ModuleList) and len(child)]
    blocks = [block for found in lists for block in found]
    if not blocks:
        raise UsageError(f"{type(network).__name__} has no repeated blocks to compile; leave out --compile")
    for block in blocks:
        block.compile(backend=backend)
    return len(blocks)
