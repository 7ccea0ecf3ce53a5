"""Pocket's words: a word-level tokenizer that stock `AutoTokenizer` loads, and a small UMT5 encoder.

`WanPipeline` encodes with an attention mask, zeroes everything after the true length and pads with zero vectors to
`max_sequence_length`, which its cross-attention then reads. A padded position is the zero vector however long the
padding, so training keeps one of them and counts it as many (`PadCount`): equal numbers at a fraction of the cost.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from longtake.training import shapes
from longtake.world.captions import vocabulary

SPECIAL = ("<pad>", "</s>", "<unk>")
PIECES = 256  # rows of the embedding; the unused ones leave room for new words


def new_tokenizer() -> PreTrainedTokenizerFast:
    """Lower-cased words of the world and punctuation; `</s>` at the end, padded with `<pad>`."""
    words = list(SPECIAL) + sorted(set(vocabulary()) | {",", "."})
    if len(words) > PIECES:
        raise ValueError(f"{len(words)} pieces do not fit {PIECES}")
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512,
        padding_side="right", truncation_side="right", model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write it so that transformers 4 and 5 both load it (5 renamed the class)."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(config, indent=2) + "\n")


def new_encoder() -> UMT5EncoderModel:
    return UMT5EncoderModel(UMT5Config(vocab_size=PIECES, **shapes.TEXT))


def tokenize(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Ids and mask [N,32] of the captions."""
    out = tokenizer(
        texts, padding="max_length", max_length=shapes.TEXT_LENGTH, truncation=True, return_tensors="pt",
        return_attention_mask=True,
    )  # fmt: skip
    return out.input_ids, out.attention_mask


def embed(encoder: UMT5EncoderModel, ids: Tensor, mask: Tensor) -> Tensor:
    """Embeddings [N,L+1,128] of ids [N,L]: zero after the text, as `WanPipeline` gives, and one zero more."""
    states = encoder(ids, mask).last_hidden_state * mask[..., None]
    return torch.nn.functional.pad(states, (0, 0, 0, 1))


class PadCount(WanAttnProcessor):
    """Cross-attention in which the last, zero text token stands for all the padding up to a length."""

    def __init__(self) -> None:
        super().__init__()
        self.bias: Tensor | None = None

    def set(self, lengths: list[int], num_tokens: int) -> None:
        """`lengths`: padded text length of each sample; `num_tokens`: how many are really there (L+1)."""
        self.bias = torch.zeros(len(lengths), 1, 1, num_tokens)
        counts = torch.tensor([n - num_tokens + 1 for n in lengths], dtype=torch.float32)
        self.bias[:, 0, 0, -1] = counts.clamp_min(0).log()

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        bias = None if self.bias is None else self.bias.to(hidden_states)
        return super().__call__(attn, hidden_states, encoder_hidden_states, bias, rotary_emb)
