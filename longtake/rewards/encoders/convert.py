"""Weights as their authors name them, to `model.safetensors` as the modules here do. One function a family.

Each takes the tensors of a file by name and returns those that the network reads. Names change, and parts that encoders
do not use (classifiers, teachers, projection heads) are left out; numbers stay as they are. Where two publishers name
the same network differently, both names are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


def trunk(weights: Weights) -> dict[str, Tensor]:
    """EfficientNet-Lite and MobileNetV2 without their classifiers."""
    return {name: value for name, value in weights.items() if not name.startswith(("_fc.", "classifier."))}


def rife(weights: Weights) -> dict[str, Tensor]:
    """RIFE's four blocks, without the teacher and the refining network."""
    blocks = ("block0", "block1", "block2", "block3")
    return {name: value for name, value in _bare(weights).items() if name.split(".")[0] in blocks}


def raft(weights: Weights) -> dict[str, Tensor]:
    """RAFT; the norm of a shortcut is saved twice, under two names."""
    return {name: value for name, value in _bare(weights).items() if ".norm3." not in name}


def same(weights: Weights) -> dict[str, Tensor]:
    """As they are."""
    return dict(_bare(weights))


def vit(weights: Weights) -> dict[str, Tensor]:
    """DINO and DINOv2, as their authors name them or as the transformers library does."""
    bare = {name.removeprefix("teacher.").removeprefix("backbone."): value for name, value in _bare(weights).items()}
    if "patch_embed.proj.weight" not in bare:
        bare = _renamed({name.removeprefix("vit.").removeprefix("dinov2."): bare[name] for name in bare}, HUGGING_VIT)
        bare = _joined(
            bare, r"(.*)\.attn\.(query|key|value)\.(weight|bias)", "{}.attn.qkv.{}", ("query", "key", "value")
        )
    unused = ("head.", "mask_token", "pooler.", "classifier.")
    return {name: value for name, value in bare.items() if not name.startswith(unused)}


HUGGING_VIT = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.mask_token", "mask_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.", r"blocks.\1.attn."),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    (r"encoder\.layer\.(\d+)\.layernorm_before\.", r"blocks.\1.norm1."),
    (r"encoder\.layer\.(\d+)\.layernorm_after\.", r"blocks.\1.norm2."),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.", r"blocks.\1.mlp.fc1."),
    (r"encoder\.layer\.(\d+)\.output\.dense\.", r"blocks.\1.mlp.fc2."),
    (r"encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"encoder\.layer\.(\d+)\.(norm|mlp)", r"blocks.\1.\2"),
    (r"layernorm\.", "norm."),
)


def clip(weights: Weights) -> dict[str, Tensor]:
    """CLIP's picture tower, as the transformers library names it or as OpenAI and OpenCLIP do."""
    if "visual.conv1.weight" in weights:
        named = {name.removeprefix("visual."): value for name, value in weights.items() if name.startswith("visual.")}
        weights = _renamed(_split(named), OPENAI_CLIP)
        weights["visual_projection.weight"] = weights["visual_projection.weight"].T
    wanted = ("vision_model.", "visual_projection.")
    found = {name: value for name, value in weights.items() if name.startswith(wanted)}
    found.pop("vision_model.embeddings.position_ids", None)  # a count that older versions of the library saved
    return found


OPENAI_CLIP = (
    (r"class_embedding", "vision_model.embeddings.class_embedding"),
    (r"positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    (r"conv1\.weight", "vision_model.embeddings.patch_embedding.weight"),
    (r"ln_pre\.", "vision_model.pre_layrnorm."),
    (r"ln_post\.", "vision_model.post_layernorm."),
    (r"proj$", "visual_projection.weight"),
    (r"transformer\.resblocks\.(\d+)\.ln_([12])\.", r"vision_model.encoder.layers.\1.layer_norm\2."),
    (r"transformer\.resblocks\.(\d+)\.attn\.", r"vision_model.encoder.layers.\1.self_attn."),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"vision_model.encoder.layers.\1.mlp.fc1."),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"vision_model.encoder.layers.\1.mlp.fc2."),
)


def musiq(weights: Weights) -> dict[str, Tensor]:
    """MUSIQ of pyiqa."""
    named = _renamed(dict(_bare(weights)), MUSIQ)
    return _joined(named, r"(.*)\.attn\.(query|key|value)\.(weight|bias)", "{}.attn.qkv.{}", ("query", "key", "value"))


MUSIQ = (
    (r"transformer_encoder\.posembed_input\.", ""),
    (r"transformer_encoder\.scaleembed_input\.", ""),
    (r"transformer_encoder\.transformer\.encoderblock_(\d+)\.attention\.out\.", r"blocks.\1.attn.proj."),
    (r"transformer_encoder\.transformer\.encoderblock_(\d+)\.attention\.", r"blocks.\1.attn."),
    (r"transformer_encoder\.transformer\.encoderblock_(\d+)\.", r"blocks.\1."),
    (r"transformer_encoder\.", ""),
)


def videomae(weights: Weights) -> dict[str, Tensor]:
    """VideoMAE-v2: queries and values have biases, keys have none."""
    bare, found = _bare(weights), {}
    for name, value in bare.items():
        block, _, part = name.rpartition(".")
        if part == "q_bias":
            found[f"{block}.qkv.bias"] = torch.cat([value, torch.zeros_like(value), bare[f"{block}.v_bias"]])
        elif part != "v_bias" and not name.startswith("head."):
            found[name] = value
    return found


def _bare(weights: Weights) -> dict[str, Tensor]:
    # what wrappers for several devices put before every name
    return {name.removeprefix("module."): value for name, value in weights.items()}


def _renamed(weights: Weights, rules: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    found = {}
    for name, value in weights.items():
        for pattern, new in rules:
            if re.match(pattern, name):
                name = re.sub("^" + pattern, new, name)
                break
        found[name] = value
    return found


def _joined(weights: Weights, pattern: str, new: str, order: tuple[str, ...]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in weights.items():
        match = re.fullmatch(pattern, name)
        if match is None:
            found[name] = value
        else:
            parts.setdefault(new.format(match[1], match[3]), {})[match[2]] = value
    return found | {name: torch.cat([part[key] for key in order]) for name, part in parts.items()}


def _split(weights: Weights) -> dict[str, Tensor]:
    found = {}
    for name, value in weights.items():
        if ".attn.in_proj_" in name:
            block, _, kind = name.partition("in_proj_")
            found |= {f"{block}{part}_proj.{kind}": third for part, third in zip("qkv", value.chunk(3), strict=True)}
        else:
            found[name] = value
    return found
