"""Embeddings of prompts kept by text, and CLIP's. The text encoder is loaded when first needed and can be released."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from longtake.core.model import Blend, Cond, embedded
from longtake.errors import UsageError

Encode = Callable[[nn.Module, str], Tensor]
"""How an encoder turns one prompt into its embedding (L, D)."""


class PromptCache:
    """What `encode` makes of each prompt, on the host. A prompt is encoded once.

    With `reload` a prompt that comes after `release` loads the encoder again; without, it raises UsageError.
    """

    def __init__(
        self, encode: Encode, encoder: nn.Module | None = None, reload: Callable[[], nn.Module] | None = None
    ) -> None:
        self._encode, self._encoder, self._reload = encode, encoder, reload
        self._known: dict[str, Tensor] = {}
        self._last: tuple[Any, Tensor] | None = None

    def __call__(self, prompt: str) -> Float[Tensor, "L D"]:
        """The embedding of one prompt, on the host, in the encoder's dtype."""
        if prompt not in self._known:
            if self._encoder is None:
                if self._reload is None:
                    raise UsageError(
                        f"the text encoder was released and prompt {prompt!r} is new; prepare every prompt first"
                    )
                self._encoder = self._reload()
            # engines call under inference mode; an embedding should stay usable outside it
            with torch.inference_mode(False), torch.no_grad():
                made = self._encode(self._encoder, prompt)
                self._known[prompt] = (made.clone() if made.is_inference() else made).cpu()
        return self._known[prompt]

    def batch(
        self, prompts: Sequence[Cond], device: torch.device, dtype: torch.dtype, length: int | None = None
    ) -> Float[Tensor, "N L D"]:
        """The embeddings of several prompts, `length` tokens of each; the last batch stays on its device."""
        key = (tuple(prompts), device, dtype, length)
        if self._last is None or self._last[0] != key:
            stacked = torch.stack([embedded(prompt, self)[:length] for prompt in prompts])
            self._last = key, stacked.to(device, dtype)
        return self._last[1]

    def prepare(self, prompts: Iterable[str]) -> None:
        """Encode these prompts now."""
        for prompt in prompts:
            self(prompt)

    def release(self) -> None:
        """Let go of the encoder; embeddings made so far stay. A live pipeline keeps its own reference."""
        self._encoder = None


def texts_of(conds: Iterable[Cond]) -> list[str]:
    """The prompts in these conditions, both of a cross-fade."""
    return [text for cond in conds for text in ((cond.first, cond.second) if isinstance(cond, Blend) else (cond,))]


def clip_encode(tokenizer: Any, max_length: int = 77) -> Encode:
    """CLIP's text tower: the last layer that its checkpoint holds, behind the final norm, all `max_length` tokens."""

    def encode(encoder: nn.Module, prompt: str) -> Tensor:
        tokens = tokenizer(prompt, padding="max_length", max_length=max_length, truncation=True, return_tensors="pt")
        return encoder(tokens.input_ids.to(next(encoder.parameters()).device)).last_hidden_state[0]

    return encode
