"""Runs of the families with one latent a frame: stopped half-way and gone on with, they are what they would have been.

Which methods run on them is in test_models_matrix.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from longtake.apps.planning import plan
from longtake.apps.session import begin, build, generate, reopen, running, start
from longtake.apps.settings import Request
from longtake.errors import UsageError
from longtake.models.load import load
from longtake.models.tiny_own import save_tiny_latte_ucf, save_tiny_videocrafter, tiny_latte, tiny_svd
from longtake.output.directory import RunDir

FAMILIES = ("videocrafter2", "latte", "latte-ucf", "svd")
FRAMES = {"plain": 4}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, dict[str, Any]]:
    """Options of a run by family: the model, its size, what it begins with."""
    root = tmp_path_factory.mktemp("models")
    save_tiny_videocrafter(root / "vc2")
    tiny_latte().save_pretrained(root / "latte")
    save_tiny_latte_ucf(root / "ucf")
    tiny_svd().save_pretrained(root / "svd")
    Image.fromarray(np.arange(32 * 48 * 3, dtype=np.uint8).reshape(32, 48, 3)).save(root / "first.png")
    return {
        "videocrafter2": dict(prompt="a dog runs", model=str(root / "vc2")),
        "latte": dict(prompt="a dog runs", model=str(root / "latte"), size=(48, 32)),
        "latte-ucf": dict(prompt="playing guitar", model=str(root / "ucf")),
        "svd": dict(prompt="the picture", model=str(root / "svd"), size=(48, 32), image=str(root / "first.png")),
    }


STEPS = {"fifo": 8, "miga": 8, "progressive": 6}
SETS = {"miga": ["miga.anchors=1", "miga.stride=2"]}


def options_of(folders: dict[str, dict[str, Any]], family: str, method: str) -> dict[str, Any]:
    named = {"steps": STEPS.get(method, 3), "frames": FRAMES.get(method, 7), "set": SETS.get(method, ())}
    return {**folders[family], "method": method, "seed": 5, **named}


@pytest.mark.parametrize(
    "family,method", [("videocrafter2", "fifo"), ("latte", "fifo"), ("latte-ucf", "fifo"), ("svd", "chunk")]
)
def test_stopped_and_gone_on_with_is_uninterrupted(folders, family, method, tmp_path):
    options = options_of(folders, family, method)
    whole = generate(out=tmp_path / "whole", **options)
    session = start(Request(**options))
    folder = begin(session, tmp_path / "stopped")
    with running(session, folder) as (_, progress):
        for _ in progress:
            if next(progress).frames >= 3:
                break
    assert folder.finished is None
    settings, done = reopen(RunDir(tmp_path / "stopped"))
    assert not done
    session = build(settings)
    with running(session, folder) as (_, progress):
        for _ in progress:
            pass
    assert folder.finished is not None and folder.finished["frames"] == whole.frames == 7
    assert folder.video.read_bytes() == Path(whole.video).read_bytes()


@pytest.mark.parametrize("option", ["freelong=9", "freepca=9"])
def test_an_option_makes_a_clip_longer(folders, option, tmp_path):
    options = {**options_of(folders, "videocrafter2", "plain"), "frames": 9, "set": [option]}
    assert generate(out=tmp_path / "run", **options).nfe == 2 * 3
    with pytest.raises(UsageError, match="plain makes one clip"):
        generate(out=tmp_path / "short", **{**options, "set": ()})
    with pytest.raises(UsageError, match="freelong is no option of latte"):
        generate(out=tmp_path / "other", **{**options_of(folders, "latte", "plain"), "set": ["freelong=true"]})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_or_picture_that_cannot_be(folders, family, tmp_path):
    options = options_of(folders, family, "fifo")
    wrong = {"videocrafter2": dict(image=folders["svd"]["image"]), "latte": dict(image=folders["svd"]["image"]),
             "latte-ucf": dict(prompt="a dog on the moon"), "svd": dict(size=(50, 32))}  # fmt: skip
    said = {"videocrafter2": "cannot begin with a picture", "latte": "cannot begin with a picture",
            "latte-ucf": "is no class of UCF-101", "svd": "nearest that works is 48x32"}  # fmt: skip
    with pytest.raises(UsageError, match=said[family]):
        generate(out=tmp_path / "run", **{**options, **wrong[family]})
    assert not (tmp_path / "run").exists()


def test_a_prompt_that_is_no_class_is_refused_by_a_plan_as_by_the_network(folders):
    """The same line with and without weights, for the prompts of a story and what is steered away from, too."""
    options = options_of(folders, "latte-ucf", "fifo")
    model = load(options["model"], num_steps=8)
    for wrong, more in (
        ("a dog on the moon", {"prompt": "a dog on the moon"}),
        ("a dog on the moon", {"prompt": "playing guitar | a dog on the moon"}),
        ("blurry", {"negative_prompt": "blurry"}),
    ):
        with pytest.raises(UsageError) as loaded:
            model.prepare([wrong])
        with pytest.raises(UsageError) as planned:
            plan(Request(**{**options, **more}))
        assert str(planned.value) == str(loaded.value)
        assert f"{wrong!r} is no class of UCF-101; near it" in str(loaded.value)
    for more in ({}, {"prompt": "3"}, {"negative_prompt": "Archery"}, {"negative_prompt": "blurry", "guidance": 1.0}):
        plan(Request(**{**options, **more}))


def test_a_negative_prompt_that_nothing_reads_is_refused(folders, tmp_path):
    options = {**options_of(folders, "svd", "chunk"), "negative_prompt": "blurry"}
    for call in (lambda: plan(Request(**options)), lambda: generate(out=tmp_path / "run", **options)):
        with pytest.raises(UsageError, match=r"^svd reads no prompt, so --negative-prompt has no effect"):
            call()
    assert not (tmp_path / "run").exists()
    guided = {**options, "image": None, "guide_model": "owner/pictures"}  # which the guide's picture is made with
    assert plan(Request(**guided))[0].negative_prompt == "blurry"
    plan(Request(**{**options_of(folders, "latte", "fifo"), "negative_prompt": "blurry"}))
