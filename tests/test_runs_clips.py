"""Runs of whole clips: what one emission holds is told, turned and gone back to like anything else."""

# ruff: noqa: F811 (fixtures come from another file of tests)

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from longtake.apps.cli import main
from longtake.output.trace import read_trace
from longtake.output.video import read_frames
from tests.test_cli import cli, make, one_thread, picture_model, tiny  # noqa: F401

STORY, OTHER = "a dog runs[0.4s] | a dog sleeps[0.5s#]", "a cat sits on a roof at night"


@pytest.fixture(scope="module")
def clip(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """11 frames, 4 latents at once: a story whose second prompt begins with frame 5, inside the only emission."""
    folder = tmp_path_factory.mktemp("clip") / "run"
    with pytest.raises(SystemExit) as stop:
        main(["generate", STORY, "--model", str(tiny), "--seed", "5", "--method", "chunk", "--out", str(folder), "-q"])
    assert not stop.value.code
    return folder


@pytest.fixture
def copy(clip: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clip, tmp_path / "run"))


def hashes(folder: Path | str) -> list[str]:
    return [line["sha256"] for line in read_trace(Path(folder) / "trace.jsonl")]


def test_prompts_that_begin_inside_a_clip_are_told(cli: Any, copy: Path) -> None:
    (line,) = read_trace(copy / "trace.jsonl")
    assert line["latents"] == [0, 4] and line["frames"] == [0, 13]
    assert line["prompt"] == "a dog runs" and line["changes"] == [{"latent": 2, "frame": 5, "prompt": "a dog sleeps"}]
    found = cli("show", "run", "--format", "json").json["prompts"]
    assert found == [{"from": 0.0, "latent": 0, "prompt": "a dog runs"},
                     {"from": round(5 / 12, 3), "latent": 2, "prompt": "a dog sleeps"}]  # fmt: skip
    assert "0.4 s  a dog sleeps" in cli("show", "run").out
    (copy / "trace.jsonl").write_text(json.dumps({**line, "changes": [7, {"frame": "x", "prompt": "y"}]}) + "\n")
    assert [one["prompt"] for one in cli("show", "run", "--format", "json").json["prompts"]] == ["a dog runs"]


def test_an_extended_clip_can_still_be_gone_back_to(cli: Any, tiny: Path, copy: Path) -> None:
    """Extending shows more of a clip that is made already; the state before the clip stays."""
    before = {path.name: path.read_bytes() for path in (copy / "snapshots").iterdir()}
    assert cli("extend", "run", "--frames", 1).code == 0
    assert before == {path.name: path.read_bytes() for path in (copy / "snapshots").iterdir()}
    said = cli("reroll", "run", "--from", "0.5s", "--seed", 9, "--format", "json")
    assert said.code == 0 and said.json["frames"] == 12 and hashes(said.json["run"]) != hashes(copy)
    same = cli("reroll", "run", "--from", "0.5s", "--prompt", "a dog runs", "--format", "json")
    fresh = cli("generate", "a dog runs", "--model", tiny, "--seed", 5, "--method", "chunk", "--frames", 12, "--format",
                "json")  # fmt: skip
    assert hashes(same.json["run"]) == hashes(fresh.json["run"])


def test_a_stretch_too_short_to_show_a_change_is_refused(cli: Any, copy: Path) -> None:
    """Latents 0-3 are one clip, of 13 frames: what is new begins with frame 13, and the least that shows it works."""
    before = {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    said = cli("extend", "run", "--frames", 2, OTHER)
    assert said.code == 2 and "ends before the new prompt can be seen; give 3 or more" in said.err
    said = cli("takes", "run", "--num", 2, "--seconds", 0.1)
    assert said.code == 2 and "ends before takes can differ; give 0.3 or more" in said.err
    assert before == {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    takes = cli("takes", "run", "--num", 2, "--seconds", 0.3, "--format", "json")
    assert takes.code == 0
    last = [list(read_frames(row["video"])) for row in takes.json]
    assert (last[0][12] == last[1][12]).all() and (last[0][13] != last[1][13]).any()
    longer = cli("extend", "run", "--frames", 3, OTHER, "--format", "json")
    assert longer.code == 0 and longer.json["frames"] == 14 and "seen from 1.1 s on" in longer.err
    assert read_trace(copy / "trace.jsonl")[-1]["prompt"] == OTHER
    assert read_trace(copy / "trace.jsonl")[-1]["frames"][0] == 13


def test_a_take_is_listed_with_the_prompt_it_has(cli: Any, copy: Path) -> None:
    assert cli("extend", "run", "--frames", 20, OTHER).code == 0
    assert cli("reroll", "run", "--from", "2s", "--seed", 3).code == 0
    (row,) = cli("takes", "run", "--format", "json").json
    assert row["prompt"] == OTHER and row["seed"] == 3


def test_files_that_a_video_began_with_are_asked_for(cli: Any, picture_model: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (200, 40, 40)).save("red.png")
    common = ("--frames", 5, "--method", "plain", "--steps", 2)
    for out, extra in (("with", ("--image", "red.png")), ("without", ())):
        assert make(cli, picture_model, *common, "--out", out, *extra).code == 0
    from_with = ("generate", "--from", "with/video.mp4", "--model", picture_model, "--format", "json")
    assert "made with --image, which is not in it" in cli(*from_with, "--dry-run").err
    again = cli(*from_with, "--image", "red.png", "--out", "again")
    assert again.code == 0 and "made with" not in again.err and hashes("again") == hashes("with")
    assert "made with" not in cli("generate", "--from", "without/video.mp4", "--model", picture_model, "--dry-run").err
    assert b"red.png" not in (tmp_path / "with" / "video.mp4").read_bytes()


def test_a_clip_of_a_longer_window_is_extended_within_it(cli: Any, tiny: Path) -> None:
    """riflex=6 makes clips of 21 frames: a run that is made so long is what was asked for at once, 22 are too many."""
    common = ("--method", "plain", "--set", "riflex=6", "--no-embed")
    for out, frames in (("whole", 21), ("run", 18)):
        said = make(cli, tiny, *common, "--frames", frames, "--out", out)
        assert said.code == 0, said.err
    assert "no longer one later" in cli("extend", "run", "--frames", 4).err
    said = cli("extend", "run", "--frames", 3, "--format", "json")
    assert said.code == 0 and said.json["frames"] == 21, said.err
    assert hashes("run")[-1] == hashes("whole")[-1]


def test_a_stretch_of_no_frame_is_told_by_its_own_flag(cli: Any, copy: Path) -> None:
    said = cli("takes", "run", "--num", 2, "--seconds", 0.01)
    assert said.code == 2 and "--seconds 0.01 is less than a frame; give 0.09 or more" in said.err
    assert "--frames" not in said.err and not (copy / "takes").exists()
    assert "less than a frame" not in cli("takes", "run", "--num", 1, "--seconds", 0.09).err
