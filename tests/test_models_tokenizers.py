"""Tokenizers in the form that checkpoints are published in, which is not the one that tiny pipelines are saved in."""

from __future__ import annotations

import json
import random
from pathlib import Path

from transformers import AutoTokenizer

from longtake.models.parts import load_part


def published(folder: Path) -> Path:
    """A slow T5 tokenizer as CogVideoX and Latte have it: `spiece.model` and settings, no `tokenizer.json`."""
    import sentencepiece

    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 7))) for _ in range(400)]
    lines = (" ".join(draw.choices(words, k=8)) for _ in range(500))
    folder.mkdir()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_prefix=str(folder / "spiece"), vocab_size=200, minloglevel=2,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
    )  # fmt: skip
    settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": 100, "legacy": True, "model_max_length": 226,
                "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_words_are_read_from_a_sentencepiece_file(tmp_path):
    tokenizer = load_part(AutoTokenizer, published(tmp_path / "tokenizer"), "a checkpoint")
    ids = tokenizer("abc def", padding="max_length", max_length=16).input_ids
    assert 2 not in ids and ids[-1] == 0, "words, then padding"
    assert ids[ids.index(1) + 1 :] == [0] * (15 - ids.index(1)), "the prompt's end is marked"
