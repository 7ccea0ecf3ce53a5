"""Prompts to embeddings for Wan: equal to the stock `encode_prompt`, cached by text, the encoder freed when done."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable
from typing import Any

import ftfy
import torch
from jaxtyping import Float
from torch import Tensor, nn

from longtake.errors import UsageError


def clean(prompt: str) -> str:
    """The text as Wan's tokenizer expects it: mended, unescaped twice, single spaces."""
    mended = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return re.sub(r"\s+", " ", mended).strip()


class PromptEncoder:
    """UMT5 embeddings of prompts, kept on the host by text. `max_length` tokens; zeros after a prompt's true length.

    The text encoder is the largest part of a Wan pipeline, so it is loaded when first needed and can be released.
    With `reload` a prompt that comes later loads it again; without, it raises UsageError.
    """

    def __init__(
        self,
        tokenizer: Any,
        encoder: nn.Module | None = None,
        reload: Callable[[], nn.Module] | None = None,
        max_length: int = 512,
    ) -> None:
        if max_length < 1:
            raise UsageError(f"max_sequence_length must be at least 1, got {max_length}")
        self.tokenizer = tokenizer
        self.max_length = max_length
        self._encoder = encoder
        self._reload = reload
        self._known: dict[str, Tensor] = {}

    def __call__(self, prompt: str) -> Float[Tensor, "L D"]:
        """The embedding of one prompt, on the host, in the encoder's dtype."""
        known = self._known.get(prompt)
        if known is None:
            known = self._known[prompt] = self._encode(prompt)
        return known

    def prepare(self, prompts: Iterable[str]) -> None:
        """Encode these prompts now."""
        for prompt in prompts:
            self(prompt)

    def release(self) -> None:
        """Let go of the text encoder; embeddings made so far stay. A live pipeline keeps its own reference."""
        self._encoder = None

    def _encode(self, prompt: str) -> Tensor:
        if self._encoder is None:
            if self._reload is None:
                raise UsageError(
                    f"the text encoder was released and prompt {prompt!r} is new; prepare every prompt first"
                )
            self._encoder = self._reload()
        tokens = self.tokenizer(
            [clean(prompt)],
            padding="max_length",
            max_length=self.max_length,
            truncation=True,
            add_special_tokens=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        device = next(self._encoder.parameters()).device
        # engines call under inference mode; an embedding should stay usable outside it
        with torch.inference_mode(False), torch.no_grad():
            mask = tokens.attention_mask.to(device)
            out = self._encoder(tokens.input_ids.to(device), mask).last_hidden_state[0]
            out = out.clone() if out.is_inference() else out
            out[int(mask.gt(0).sum()) :] = 0
        return out.cpu()
