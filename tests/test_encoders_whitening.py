"""Whitening: what varies within a subject counts for nothing, and the fitted one helps with subjects it never saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from longtake.rewards import features
from longtake.rewards.encoders import mobile, whitening
from longtake.training.whitening import auc, pictures
from tests.encoder_cases import fill, shapes_of


def _synthetic(count: int, each: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Subjects that differ in 6 directions of 12, drowned in strong variation of the other 6."""
    draw = np.random.RandomState(seed)
    own = np.repeat(draw.standard_normal((count, 6)), each, axis=0) + 0.3 * draw.standard_normal((count * each, 6))
    noise = 3 * draw.standard_normal((count * each, 6))
    turn, _ = np.linalg.qr(np.random.RandomState(9).standard_normal((12, 12)))
    return torch.from_numpy(np.concatenate([own, noise], 1) @ turn + 3), torch.arange(count).repeat_interleave(each)


def test_variation_within_a_subject_becomes_round():
    x, whose = _synthetic(200, 6, 0)
    fitted = whitening.fit(x, whose, width=12)
    y = (x - fitted["mean"]) @ fitted["matrix"]
    own = torch.stack([y[whose == i].mean(0) for i in range(200)])
    rest = y - own[whose]
    within = rest.T @ rest / (len(x) - 200)
    # W + s tr(W)/12 I is whitened, so the largest variance within a subject is 1 - s tr(W)/12 / largest
    values = torch.linalg.eigvalsh(within)
    assert values.max() < 1 and values.min() > 0
    raw_rest = x - torch.stack([x[whose == i].mean(0) for i in range(200)])[whose]
    raw = torch.linalg.eigvalsh(raw_rest.T @ raw_rest / (len(x) - 200))
    wanted = raw / (raw + whitening.SHRINK * raw.mean())
    assert torch.allclose(values.sort().values, wanted.sort().values, atol=1e-8)
    assert torch.allclose(y.mean(0), torch.zeros(12, dtype=y.dtype), atol=1e-9)


def test_unseen_subjects_are_told_apart():
    x, whose = _synthetic(100, 6, 0)
    fitted = whitening.fit(x, whose, width=12)
    unseen, others = _synthetic(40, 6, 1)
    before = auc(unseen - x.mean(0), others, others)
    after = auc((unseen - fitted["mean"]) @ fitted["matrix"], others, others)
    assert before < 0.65 and after > 0.9


def test_auc_by_hand():
    """Angles 0, 10 | 80, 30 degrees: same pairs 10 and 50, other pairs 80, 30, 70, 20: 4 + 2 of 8 comparisons won."""
    angles = torch.tensor([0.0, 10.0, 80.0, 30.0]).deg2rad()
    vectors = torch.stack([angles.cos(), angles.sin()], 1)
    whose = torch.tensor([0, 0, 1, 1])
    assert auc(vectors, whose, whose) == pytest.approx((4 + 2) / 8)
    assert auc(torch.ones(4, 2), whose, whose) == 0.5


@pytest.mark.parametrize("kind", sorted(mobile.SCALES))
def test_the_encoder_applies_what_is_shipped(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LONGTAKE_CACHE", str(tmp_path))
    folder = features.cache() / kind
    folder.mkdir(parents=True)
    save_file(fill(shapes_of(mobile.EfficientNetLite(*mobile.SCALES[kind]))), folder / "model.safetensors")
    shots, _, _ = pictures(1, 1)
    found = features.load(f"{kind}-whitened")(shots[:3])
    shipped = load_file(whitening.WEIGHTS / f"{kind}.safetensors")
    raw = features.load(kind)(shots[:3])
    assert found.shape == (3, whitening.WIDTH) and shipped["matrix"].dtype == torch.float16
    assert torch.allclose(found, (raw - shipped["mean"].float()) @ shipped["matrix"].float(), rtol=1e-3, atol=1e-3)
