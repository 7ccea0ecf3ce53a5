"""Films of the Wan family, SkyReels-V2 and CogVideoX: every method that fits; stopped and gone on with; refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from longtake.apps.planning import dry_run, plan
from longtake.apps.session import begin, build, generate, reopen, running, start
from longtake.apps.settings import Request
from longtake.apps.tables import METHODS
from longtake.errors import UsageError
from longtake.models.tiny import tiny_wan, tiny_wan_image
from longtake.models.tiny_cogvideox import tiny_cogvideox
from longtake.models.tiny_skyreels import tiny_skyreels
from longtake.output.directory import RunDir
from longtake.output.video import read_frames

MAKE: dict[str, Any] = {
    "two experts": lambda: tiny_wan(boundary=0.7, scheduler="euler"),
    "wan from a picture": lambda: tiny_wan_image(scheduler="euler"),
    "skyreels": lambda: tiny_skyreels(scheduler="euler"),
    "cogvideox": lambda: tiny_cogvideox(rotary=True, scheduler="ddim"),
    "cogvideox from a picture": lambda: tiny_cogvideox(image=True, rotary=True),
}
STEPS = {"fifo": 8, "miga": 8, "progressive": 6}
SETS = {"miga": ["miga.anchors=1", "miga.stride=2"]}
ONE_LEVEL = [name for name, row in METHODS.items() if not row.needs_rows or row.one_level]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, dict[str, Any]]:
    """Options of a run by family: the model with a window of 4 latents, its size, the picture it begins with."""
    root = tmp_path_factory.mktemp("models")
    Image.fromarray(np.arange(64 * 48 * 3, dtype=np.uint8).reshape(64, 48, 3)).save(root / "first.png")
    found: dict[str, dict[str, Any]] = {}
    for name, make in MAKE.items():
        make().save_pretrained(root / name, safe_serialization=True)
        window = 5 if "cogvideox" in name else 4
        (root / name / "longtake.json").write_text(json.dumps({"window": window, "max_sequence_length": 226}))
        found[name] = dict(prompt="a dog runs", model=str(root / name), size=(48, 32) if "cog" in name else (32, 48))
        if "picture" in name:
            found[name]["image"] = str(root / "first.png")
    return found


def asked(folders: dict[str, dict[str, Any]], family: str, method: str) -> dict[str, Any]:
    frames = 9 if method in ("plain", "windows", "freenoise") else 18
    given = {"frames": frames, "set": SETS.get(method, ()), "guidance": 1.0}
    return {**folders[family], **given, "method": method, "seed": 5, "steps": STEPS.get(method, 3)}


MATRIX: list[Any] = [("skyreels", method) for method in METHODS]
MATRIX += [("cogvideox", method) for method in ONE_LEVEL]
MATRIX += [pytest.param("two experts", method, marks=pytest.mark.slow) for method in METHODS]
for other, methods in (
    ("wan from a picture", ("plain", "chunk", "fifo")),
    ("cogvideox from a picture", ("plain", "chunk")),
):
    MATRIX += [pytest.param(other, method, marks=pytest.mark.slow) for method in methods]


@pytest.mark.parametrize("family,method", MATRIX)
def test_the_matrix(folders, family: str, method: str, tmp_path):
    options = asked(folders, family, method)
    made = generate(out=tmp_path / "run", **options)
    assert made.frames == options["frames"] == len(list(read_frames(made.video)))


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ONE_LEVEL])
def test_methods_that_need_a_level_a_row_are_refused_and_let_through_when_asked(folders, method: str, tmp_path):
    options = asked(folders, "cogvideox", method)
    options["steps"] = {"fifo": 10, "progressive": 8}.get(method, options["steps"])  # that fit its window of 5
    with pytest.raises(UsageError, match="needs one noise level per latent frame"):
        start(Request(**options))
    session = start(Request(**{**options, "set": [*options["set"], "allow_unsound=true"]}))
    assert any("MIGA, App. A.4" in note for note in session.notes)


@pytest.mark.parametrize(
    "family,method",
    [
        ("two experts", "fifo"),
        ("cogvideox from a picture", "chunk"),
        *(pytest.param(*pair, marks=pytest.mark.slow)
          for pair in (("wan from a picture", "chunk"), ("skyreels", "fifo"), ("cogvideox", "chunk"))),
    ],
)  # fmt: skip
def test_stopped_and_gone_on_with_is_uninterrupted(folders, family: str, method: str, tmp_path):
    options = asked(folders, family, method)
    whole = generate(out=tmp_path / "whole", **options)
    session = start(Request(**options))
    folder = begin(session, tmp_path / "stopped")
    with running(session, folder) as (_, progress):
        for item in progress:
            if item.frames >= 5:
                break
    assert folder.finished is None
    settings, done = reopen(RunDir(tmp_path / "stopped"))
    assert not done
    session = build(settings)
    with running(session, folder) as (_, progress):
        for _ in progress:
            pass
    assert folder.finished is not None and folder.finished["frames"] == whole.frames == options["frames"]
    assert folder.video.read_bytes() == Path(whole.video).read_bytes()


def test_plans_count_what_runs_cost_and_bound_it_where_experts_meet(folders, tmp_path):
    for family, method, exact in (
        ("two experts", "chunk", True), ("two experts", "fifo", False), ("cogvideox from a picture", "chunk", True),
        ("wan from a picture", "plain", True),
    ):  # fmt: skip
        options = asked(folders, family, method)
        settings, facts, _ = plan(Request(**options))
        paper, _ = dry_run(settings, facts)
        made = generate(out=tmp_path / f"{family} {method}", **options)
        assert paper.exact == exact and (made.nfe == paper.nfe if exact else made.nfe < paper.nfe)


def test_a_model_that_needs_a_picture_says_so(folders):
    for family in ("wan from a picture", "cogvideox from a picture"):
        options = {**asked(folders, family, "plain"), "image": None}
        with pytest.raises(UsageError, match="makes videos from a picture; add --image FILE"):
            start(Request(**options))


def test_chunks_of_a_model_that_needs_a_picture_join_through_pixels(folders):
    settings, _, notes = plan(Request(**asked(folders, "wan from a picture", "chunk")))
    assert settings.parameters["join"] == "pixel" and any("chunk.join=pixel" in note for note in notes)


def test_a_longer_window_by_riflex(folders, tmp_path):
    options = {**asked(folders, "skyreels", "plain"), "frames": 25, "set": ["riflex=7"]}
    assert generate(out=tmp_path / "long", **options).frames == 25
    with pytest.raises(UsageError, match="plain makes one clip"):
        start(Request(**{**options, "set": ()}))
