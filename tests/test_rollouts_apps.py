"""The long-video methods by the commands, on a tiny random network: ends, beginnings, and what they would not read."""

# ruff: noqa: F811 (fixtures come from another file of tests)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from longtake.output.trace import read_trace
from tests.test_cli import PROMPT, cli, make, one_thread, picture_model, tiny  # noqa: F401


@pytest.fixture(autouse=True)
def red(tmp_path: Path) -> Path:
    """A picture to begin with or to end on."""
    Image.new("RGB", (40, 40), (200, 30, 30)).save(tmp_path / "red.png")
    return tmp_path / "red.png"


@pytest.mark.parametrize("method", ["chunk", "fifo", "miga"])
def test_a_run_that_ended_on_a_picture_is_extended_past_it(cli: Any, tiny: Path, tmp_path: Path, method: str):
    """What was seen stays frame for frame, the picture keeps its place, and nothing turns towards a second one."""
    more = ("--set", "miga.handover=1", "--steps", 6) if method == "miga" else ()
    said = make(cli, tiny, "--frames", 25, "--method", method, *more, "--last-image", "red.png", "--out", "run")
    assert said.code == 0, said.err
    before = [line["sha256"] for line in read_trace(tmp_path / "run" / "trace.jsonl")]
    (tmp_path / "red.png").unlink()  # it is in the state
    said = cli("extend", "run", "--frames", 20, "--format", "json")
    assert said.code == 0 and said.json["frames"] == 45, said.err
    assert "passes the picture it ended on, at 1.8 s" in said.err
    lines = read_trace(tmp_path / "run" / "trace.jsonl")
    first = next(n for n, line in enumerate(lines) if line["frames"][1] >= 25)
    assert [line["sha256"] for line in lines][:first] == before[:first]
    # the same run without any picture differs from the extended one from where the picture is felt on
    free = make(cli, tiny, "--frames", 45, "--method", method, *more, "--out", "free")
    assert free.code == 0 and json.loads((tmp_path / "run" / "FINISHED").read_text())["frames"] == 45
    assert [line["sha256"] for line in read_trace(tmp_path / "free" / "trace.jsonl")][-1] != lines[-1]["sha256"]


def test_what_a_method_would_not_read_is_refused_before_weights_run(cli: Any, tiny: Path, picture_model: Path):
    """One line each, and no folder."""
    story = ("a dog | a cat", "--model", tiny, "--frames", 33, "--set", "prompt_rule=queue_switch", "--out", "no")
    cases = [
        (("generate", *story, "--method", "windows"), "the first prompt alone"),
        (("generate", *story, "--method", "miga", "--set", "miga.stage2=batch"), "the first prompt alone"),
        (("generate", PROMPT, "--model", picture_model, "--image", "red.png", "--method", "miga", "--steps", 6,
          "--set", "miga.handover=5", "--frames", 33, "--out", "no"), "miga.handover=4 or less"),
        (("generate", PROMPT, "--model", tiny, "--method", "miga", "--steps", 10, "--set", "miga.handover=9",
          "--search", "reflect", "--frames", 33, "--out", "no"), "use --set miga.handover=7 or less"),
        (("generate", PROMPT, "--model", tiny, "--method", "progressive", "--search", "reflect", "--frames", 33,
          "--set", "reflect.eval=4", "--out", "no"), "would never look"),
    ]  # fmt: skip
    for arguments, words in cases:
        said = cli(*arguments)
        assert said.code == 2 and words in " ".join(said.err.split()), said.err
        assert not Path("no").exists()
