"""The arithmetic of `eval --suite world`, against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from longtake.metrics import world


def test_wilson_interval_by_hand():
    """8 of 10 at z = 1.96: the textbook gives 0.490 to 0.943."""
    got = world.share([True] * 8 + [False] * 2)
    assert got["mean"] == 0.8 and got["n"] == 10
    assert (round(got["low"], 3), round(got["high"], 3)) == (0.490, 0.943)
    assert world.share([True] * 5)["high"] == pytest.approx(1.0) and world.share([False] * 5)["low"] == pytest.approx(
        0.0
    )


def test_bootstrap_interval_holds_the_mean_and_narrows():
    few, many = ([float(i % 7) for i in range(n)] for n in (14, 1400))
    wide, narrow = world.average(few), world.average(many)
    assert wide["mean"] == pytest.approx(3.0)
    assert wide["low"] < wide["mean"] < wide["high"]
    assert narrow["high"] - narrow["low"] < (wide["high"] - wide["low"]) / 5


class Shifts:
    """An autoencoder that is off by a known amount."""

    def __init__(self, by: int) -> None:
        self.by = by

    @property
    def codec(self) -> "Shifts":
        return self

    def encode(self, frames):
        return frames

    def decode(self, z):
        return (z.int() + self.by).clamp(0, 255).to(torch.uint8), None


def test_psnr_of_a_known_error():
    clip = torch.full((3, 4, 4, 3), 100, dtype=torch.uint8)
    assert world.psnr(Shifts(5), [clip])[0] == pytest.approx(20 * math.log10(255 / 5))
    assert world.psnr(Shifts(0), [clip])[0] > 100


def test_truth_is_held_out_and_repeats():
    clips = world.truth(range(3), 2)
    assert [tuple(clip.shape) for clip in clips] == [(2, 64, 64, 3)] * 3
    assert all(torch.equal(a, b) for a, b in zip(clips, world.truth(range(3), 2), strict=True))
