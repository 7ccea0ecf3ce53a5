"""The walk-through of docs/runs.md: every command on the page, in order, on the embedded model."""

# ruff: noqa: F811 (fixtures come from another file of tests)

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longtake.output.trace import read_trace
from longtake.output.video import read_frames
from tests.test_cli import cli, one_thread  # noqa: F401
from tests.test_runs_directing import _tone

PAGE = Path(__file__).parent.parent / "docs" / "runs.md"


def _blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def _prompts(folder: str) -> list[str]:
    return list(dict.fromkeys(line["prompt"] for line in read_trace(Path(folder) / "trace.jsonl")))


@pytest.mark.slow
def test_every_command_of_the_page(cli: Any, tmp_path: Path) -> None:
    commands = [line for block in _blocks("sh") for line in block.splitlines()]
    assert len(commands) >= 14 and all(line.startswith("longtake ") for line in commands)
    (tmp_path / "jobs.jsonl").write_text(_blocks("jsonl")[0])
    _tone(tmp_path / "song.wav", 9.0)
    said = {}
    for command in commands:
        said[command] = cli(*shlex.split(command)[1:])
        assert said[command].code == 0, (command, said[command].err)
        assert "Traceback" not in said[command].err
    dog = tmp_path / "runs" / "dog"
    frames = np.stack(list(read_frames(dog / "video.mp4")))
    assert len(frames) == 64 + 8 + 64 and frames[0].shape == (64, 64, 3)
    assert len(_prompts("runs/dog")) == 2 and "night" in _prompts("runs/dog")[1]
    settings = json.loads((dog / "run.json").read_text())
    assert settings["seed"] == 7 and [turn.get("seed") for turn in settings["turns"]] == [8, None, None]
    # what was before the reroll, in its take, is the beginning of what the story came to
    lines = [[line["sha256"] for line in read_trace(folder / "trace.jsonl")] for folder in (dog, dog / "takes" / "2")]
    assert lines[0][:8] == lines[1][:8] and lines[0][9] != lines[1][9]
    seen = [text for command, text in ((c, s.err) for c, s in said.items()) if "extend" in command]
    assert "seen from 9.1 s on; what was begun under the old one has left by 14.6 s" in seen[0]
    assert frames[-16:].mean() < 0.75 * frames[:72].mean()  # the night has come
    tree = said["longtake show runs/best --tree"].out
    assert tree.count("◆") >= 2 and "○" in tree
    manifest = json.loads((tmp_path / "jobs.jsonl.manifest.json").read_text())
    assert manifest["done"] == 2 and (tmp_path / "runs" / "rocket" / "FINISHED").exists()
    assert "2 done before" in said["longtake batch jobs.jsonl"].err


def test_the_page_names_every_file_of_a_run() -> None:
    text = PAGE.read_text()
    names = ("video.mp4", "run.json", "state.", "open.", "snapshots/", "trace.jsonl", "takes/<n>/", "audio.m4a",
             "latest.webp", "FINISHED")  # fmt: skip
    assert all(name in text for name in names)
