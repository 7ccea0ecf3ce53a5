"""Prompts for Open-Sora: T5 embeddings of captions as its training had them.

The release appends a score of how beautiful the video should be and cleans the caption twice, as DeepFloyd IF does
(lower case, mended text, no links, tags or mentions). Deviation: the rarest rules of that cleaner, for captions scraped
from shops and forums (article numbers, file names, advertising phrases), are left out; ordinary prompts come out equal.

No prompt, for guidance, is a stored embedding of 300 tokens, of which the release takes the first n: as many as the
prompt beside it has.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable
from typing import Any

import ftfy
from jaxtyping import Float
from torch import Tensor, nn

from longtake.core.model import Cond
from longtake.models.opensora_rows import mixed, prompts_of
from longtake.models.prompts import Encode, PromptCache

SCORE = " aesthetic score: 6.5."
RULES = (
    (r"(?:https?://|www\.)\S+", ""),
    (r"<[^<>]*>", ""),
    (r"@[\w.]+", ""),
    (r"[\u3040-\u30ff\u31c0-\u31ef\u3200-\u32ff\u3300-\u33ff\u3400-\u4dbf\u4dc0-\u4dff\u4e00-\u9fff]+", ""),
    (r"[\u2010-\u2015\u2212]", "-"),
    (r"[`´«»“”¨]", '"'),
    (r"[‘’]", "'"),
    (r"&quot;?|&amp", ""),
    (r"\\n", " "),
    (r"#\d+\b", ""),
    (r"([\"'.]){2,}", r"\1"),
    (r"\s+", " "),
)


def clean(caption: str) -> str:
    """The caption as the text encoder was trained to read it."""
    text = caption.lower().strip()
    for pattern, instead in RULES:
        text = re.sub(pattern, instead, text)
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text).strip()


def scored(prompt: str) -> str:
    """The prompt with its score, cleaned twice."""
    return clean(clean(prompt + SCORE))


def tokens_encode(tokenizer: Any, max_length: int, prepared: Callable[[str], str]) -> Encode:
    """How T5 reads a prompt: as many embeddings as the prompt has tokens, at most `max_length`."""

    def encode(encoder: nn.Module, prompt: str) -> Tensor:
        tokens = tokenizer(
            [prepared(prompt)],
            padding="max_length",
            max_length=max_length,
            truncation=True,
            add_special_tokens=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        device = next(encoder.parameters()).device
        mask = tokens.attention_mask.to(device)
        out = encoder(tokens.input_ids.to(device), attention_mask=mask).last_hidden_state[0]
        return out[: int(mask.sum())].float()

    return encode


class OpenSoraTexts:
    """What a window is to show, and what guidance steers it away from; implements `opensora_rows.Texts`.

    null      the stored embedding of no prompt
    negative  a prompt in its place, if not empty
    """

    def __init__(self, cache: PromptCache, null: Float[Tensor, "L D"], negative: str = "") -> None:
        self.cache, self.null, self.negative = cache, null.detach().float().cpu(), negative

    def wanted(self, cond: Cond) -> Float[Tensor, "L D"]:
        """The prompt."""
        return mixed(cond, self.cache)

    def unwanted(self, cond: Cond) -> Float[Tensor, "L D"]:
        """The negative prompt, or as much of nothing as `cond` has tokens."""
        if self.negative:
            return self.cache(self.negative)
        return self.null[: len(self.wanted(cond))]

    def prepare(self, prompts: Iterable[Cond]) -> None:
        """Encode these prompts now, and the negative one."""
        self.cache.prepare([*prompts_of(prompts), *([self.negative] if self.negative else [])])

    def release(self) -> None:
        """Let go of the text encoder."""
        self.cache.release()
