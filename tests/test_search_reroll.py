"""Another search from a moment of a run on, by the commands themselves on a tiny random network."""

# ruff: noqa: F811 (fixtures come from another file of tests)

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from longtake.output.trace import read_trace
from tests.test_cli import PROMPT, cli, make, one_thread, tiny  # noqa: F401


def lines(folder: Path | str) -> list[dict[str, Any]]:
    return list(read_trace(Path(folder) / "trace.jsonl"))


@pytest.mark.slow
def test_a_run_goes_on_under_another_search_and_without_one(cli: Any, tiny: Path, tmp_path: Path) -> None:
    made = cli("generate", PROMPT, "--model", tiny, "--seed", 5, "--frames", 65, "--method", "chunk", "--out", "run")
    assert made.code == 0, made.err
    before = lines("run")
    said = cli("reroll", "run", "--from", "3s", "--search", "k-step", "--seed", 1, "--format", "json")
    assert said.code == 0, said.err
    assert said.json["search"] == "k-step" and said.json["method"] == "chunk" and said.json["frames"] == 65
    take = Path(said.json["run"])
    kept = len([line for line in before if line["frames"][1] <= 36])
    after = lines(take)
    assert kept and [line["sha256"] for line in after[:kept]] == [line["sha256"] for line in before[:kept]]
    assert not any(line.get("candidates") for line in before)
    assert all(len(line["candidates"]) == 10 for line in after[kept + 1 :]) and len(after) > kept + 1
    assert {one["number"] for one in after[-1]["candidates"]} == set(range(10))
    assert lines("run") == before  # the run itself stays
    # reproducible, and it goes on like any run
    again = cli("reroll", "run", "--from", "3s", "--search", "k-step", "--seed", 1, "--format", "json")
    assert [line["sha256"] for line in lines(again.json["run"])] == [line["sha256"] for line in after]
    longer = shutil.copytree(take, tmp_path / "longer")
    assert cli("extend", longer, "--frames", 20).code == 0
    assert lines(longer)[-1]["candidates"]
    # and without a search again, from a moment in what was searched
    bare = cli("reroll", take, "--from", "4.2s", "--search", "none", "--seed", 2, "--format", "json")
    assert bare.code == 0, bare.err
    assert bare.json["search"] == "none" and bare.json["frames"] == 65
    assert not lines(bare.json["run"])[-1].get("candidates")
    settings = json.loads((Path(bare.json["run"]) / "run.json").read_text())
    assert settings.get("search", settings.get("settings", {}).get("search")) == "none"


def test_a_search_that_cannot_follow_is_refused(cli: Any, tiny: Path) -> None:
    made = cli("generate", PROMPT, "--model", tiny, "--seed", 5, "--frames", 29, "--method", "fifo", "--out", "run")
    assert made.code == 0, made.err
    for name, words in (("beems", "did you mean"), ("freeinit", "makes whole clips again")):
        said = cli("reroll", "run", "--from", "1s", "--search", name, "--seed", 1)
        assert said.code == 2 and words in said.err and "Traceback" not in said.err, said.err
    assert not Path("run/takes").exists() or not list(Path("run/takes").iterdir())
