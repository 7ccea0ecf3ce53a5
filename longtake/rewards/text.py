"""Text alignment: how well a clip shows what its prompt says.

Two readers. `Words` asks pocket's judge (its set for rewards) for the log probability of each word that the prompt says
of subject, place and time, and of motion where all frames are seen; the mean over the words said. `Clip` is the cosine
of CLIP's embeddings of picture and prompt, the mean over pictures (the CLIP score without its factor), from a folder of
a `CLIPModel` on this machine.

The prompt is that of most of the clip's rows (`View.prompt`). A prompt that the judge knows no word of scores 0 for
every candidate, so it does not decide.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from longtake.core.rollout import Emission, View
from longtake.errors import UsageError
from longtake.rewards.anchors import Seen, remembered
from longtake.rewards.eyes import Eyes, Pictures

LEAST = math.log(1e-4)
"""No word counts less: a classifier that is sure of itself must not decide a sum."""
STATISTICS = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of the pictures that CLIP was trained on (Radford et al. 2021)."""


class Reader(Protocol):
    """Scores pictures by a prompt."""

    name: str

    def __call__(self, clips: Sequence[Pictures], prompts: Sequence[str]) -> list[float]: ...


class Text:
    """A reader on a finished clip, or on the last `span` latents of an unfinished one (None: all of it)."""

    def __init__(self, eyes: Eyes, reader: Reader, span: int | None = None) -> None:
        self.eyes, self.reader, self.span, self.needs = eyes, reader, span, eyes.needs

    @property
    def decodes(self) -> int:
        """Latents decoded so far."""
        return self.eyes.decodes

    def follow(self, memory: Any, emission: Emission) -> Seen:
        """The branch's decoder cache after more finished latents."""
        return remembered(self.eyes, None, 0, memory, emission)

    def __call__(self, views: list[View]) -> list[float]:
        """A score a view; 0 where nothing is to be seen yet."""
        clips = self.eyes.look(views, self.span)
        shown = [place for place, clip in enumerate(clips) if len(clip)]
        told = self.reader([clips[place] for place in shown], [views[place].prompt for place in shown])
        scores = dict(zip(shown, told, strict=True))
        return [scores.get(place, 0.0) for place in range(len(views))]


class Words:
    """Pocket's judge on the words of a prompt, as metrics.judge.load gives it. `motion`: all frames are seen."""

    def __init__(self, judge: Any, name: str = "pocket-judge/reward", motion: bool = False) -> None:
        self.judge, self.name, self.motion = judge, name, motion

    @torch.no_grad()
    def __call__(self, clips: Sequence[Pictures], prompts: Sequence[str]) -> list[float]:
        """Mean log probability of the words said."""
        return [self._one(clip, prompt) for clip, prompt in zip(clips, prompts, strict=True)]

    def _one(self, clip: Pictures, prompt: str) -> float:
        from longtake.metrics import judge as judging
        from longtake.world.captions import parse

        said = parse(prompt)
        video = clip.permute(0, 3, 1, 2)
        logits = {key: value.mean(0) for key, value in self._pictures(video).items()}
        if self.motion and len(video) > 1:
            span = judging.spans(len(video))[-1]
            logits["motion"] = self.judge.course(judging.pairs_of(video[None, span]))[1][0].log_softmax(0)
        found = []
        for key, value in logits.items():
            word = getattr(said, key)
            if word is not None:
                found.append(max(float(value.log_softmax(0)[judging.CLASSES[key].index(word)]), LEAST))
        return sum(found) / len(found) if found else 0.0

    def _pictures(self, video: Tensor) -> dict[str, Tensor]:
        from longtake.metrics import judge as judging

        logits = self.judge.named(self.judge.look(judging.unit(video)))
        return {key: value.log_softmax(1) for key, value in logits.items()}


TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.json")
"""A tokenizer's folder has one of these."""


def clip_folder(name: str) -> Path:
    """The folder of a CLIP model. UsageError if it does not look like one."""
    folder = Path(os.path.expanduser(name))
    told = folder / "config.json"
    try:
        clip = json.loads(told.read_text(encoding="utf-8")).get("model_type") == "clip" if told.is_file() else False
    except (ValueError, AttributeError):
        clip = False
    if not clip or not list(folder.glob("*.safetensors")) or not any((folder / name).is_file() for name in TOKENIZERS):
        raise UsageError(
            f"text.encoder={folder} is no folder of a CLIP model in safetensors with its tokenizer; give one, or "
            f"pocket-judge"
        )
    return folder


class Clip:
    """CLIP's cosine of picture and prompt, from a folder with `config.json`, safetensors and a tokenizer."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer, CLIPModel

        self.name = f"clip:{folder.name}"
        self.model: Any = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._texts: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, clips: Sequence[Pictures], prompts: Sequence[str]) -> list[float]:
        """Mean cosine of each clip's pictures to its prompt."""
        if not clips:
            return []
        hidden = self.model.vision_model(pixel_values=self._prepared(torch.cat(list(clips)))).pooler_output
        pictures = F.normalize(self.model.visual_projection(hidden), dim=-1).split([len(clip) for clip in clips])
        return [float((part @ self._text(prompt)).mean()) for part, prompt in zip(pictures, prompts, strict=True)]

    def _text(self, prompt: str) -> Tensor:
        if prompt not in self._texts:
            most = self.model.config.text_config.max_position_embeddings
            tokens = self.tokenizer(prompt, truncation=True, max_length=most, return_tensors="pt")
            hidden = self.model.text_model(**{key: tokens[key] for key in ("input_ids", "attention_mask")})
            self._texts[prompt] = F.normalize(self.model.text_projection(hidden.pooler_output), dim=-1)[0]
        return self._texts[prompt]

    def _prepared(self, pictures: Pictures) -> Tensor:
        # as CLIP's processor: shorter side to its size, bicubic, the middle, its own mean and deviation
        size = self.model.config.vision_config.image_size
        x = pictures.permute(0, 3, 1, 2).float() / 255
        scale = size / min(x.shape[-2:])
        shape = [max(size, round(side * scale)) for side in x.shape[-2:]]
        x = F.interpolate(x, shape, mode="bicubic", antialias=True).clamp(0, 1)
        top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
        mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in STATISTICS)
        return (x[..., top : top + size, left : left + size] - mean) / std
