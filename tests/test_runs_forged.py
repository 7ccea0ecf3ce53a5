"""What stands beside the state of a run, changed by anybody: trace, FINISHED, run.json. Refused in a line, all kept."""

# ruff: noqa: F811 (fixtures come from another file of tests)

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longtake.apps.cli import main
from longtake.apps.methods import METHODS
from longtake.apps.rewarding import REWARDS
from longtake.apps.searches import SEARCHES
from longtake.apps.stored import within
from longtake.apps.tables import GENERAL, MODEL_OPTIONS
from longtake.errors import UsageError
from longtake.output.directory import RunDir
from longtake.output.trace import read_trace
from tests.test_cli import PROMPT, cli, one_thread, tiny  # noqa: F401

Change = Callable[[Path], Any]


@pytest.fixture(scope="module")
def made(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a search's judgements in its trace."""
    folder = tmp_path_factory.mktemp("forged") / "run"
    with pytest.raises(SystemExit) as stop:
        main(["generate", PROMPT, "--model", str(tiny), "--seed", "5", "--frames", "24", "--out", str(folder), "-q",
              "--method", "chunk", "--search", "best-of-n", "--set", "best-of-n.candidates=2"])  # fmt: skip
    assert not stop.value.code
    return folder


def lines_with(**values: Any) -> Change:
    """Every line of the trace with these values; a value of ... takes the key away."""

    def change(run: Path) -> None:
        lines = [{**line, **values} for line in read_trace(run / "trace.jsonl")]
        kept = [{key: value for key, value in line.items() if value is not ...} for line in lines]
        (run / "trace.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))

    return change


def json_with(name: str, **values: Any) -> Change:
    """A JSON file of the run with these values."""
    return lambda run: (run / name).write_text(json.dumps({**json.loads((run / name).read_text()), **values}))


LINES: list[dict[str, Any]] = [
    {"latents": ...}, {"frames": ...}, {"nfe": ...}, {"seconds": ...}, {"prompt": ...}, {"sha256": ...},
    {"frames": ["a", "b"]}, {"frames": {"0": 1, "1": 2}}, {"frames": [9, 3]}, {"frames": [0, 10**400]},
    {"latents": [-1, 2]}, {"latents": 3}, {"nfe": "x"}, {"nfe": True}, {"seconds": None}, {"seconds": float("nan")},
    {"prompt": ["a"]}, {"sha256": 7},
]  # fmt: skip
ENDS: list[dict[str, Any]] = [
    {"frames": "9"}, {"latents": None}, {"nfe": []}, {"seconds": "q"}, {"frames": 10**400}, {"latents": -5},
    {"seconds": float("inf")},
]  # fmt: skip
RUNS: list[dict[str, Any]] = [
    {"turns": [{"latent": 3}]}, {"turns": [{"latent": 1, "key": 2, "prompt": 3}]}, {"prompts": [{"frame": "x"}]},
    {"prompts": [{"frame": 0, "prompt": 7}]}, {"prompts": [{"frame": -5, "prompt": "a"}]}, {"branch": {"latent": "q"}},
    {"prompts": [{"frame": 8, "prompt": "a"}]}, {"reward": "motion", "reward_parameters": {"motion": {"floor": "x"}}},
    {"width": 16384, "height": 16384}, {"height": 8192}, {"branch": {"latent": 1, "from_frame": "x"}},
    {"format": 2, "versions": ["x"]}, {"format": {"a": [1]}},
]  # fmt: skip
FORGED: list[tuple[str, Change]] = [
    *((f"trace {change}", lines_with(**change)) for change in LINES),
    *((f"FINISHED {change}"[:60], json_with("FINISHED", **change)) for change in ENDS),
    *((f"run.json {change}", json_with("run.json", **change)) for change in RUNS),
]


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.mark.parametrize("change", [change for _, change in FORGED], ids=[name[:50] for name, _ in FORGED])
def test_forged_files_are_refused_in_a_line(cli: Any, made: Path, tmp_path: Path, change: Change) -> None:
    shutil.copytree(made, tmp_path / "run")
    assert cli("show", "run").code == 0
    change(tmp_path / "run")
    before = content(tmp_path / "run")
    for command in (("show", "run"), ("extend", "run", "--frames", 4), ("reroll", "run", "--from", "1s", "--seed", 1)):
        said = cli(*command)
        assert said.code == 2 and said.out == "" and "Traceback" not in said.err, (command, said.err)
        assert len(said.err.splitlines()) == 1 and len(said.err) < 400, said.err
    assert content(tmp_path / "run") == before


def test_what_a_search_added_is_left_out_where_it_is_none(cli: Any, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "run")
    good = cli("show", "run", "--format", "json").json
    assert all(part["score"] is not None and part["candidates"] == 2 for part in good["timeline"])
    wrong = {"tick": 1, "name": "a", "parent": "0", "verdict": "kept", "rows": 3, "score": "z"}
    for values in ({"scores": 5}, {"scores": [1.0], "chosen": 7}, {"scores": ["x", "y"]}, {"candidates": [wrong, 5]}):
        lines_with(**values)(tmp_path / "run")
    found = cli("show", "run", "--format", "json").json
    assert all(part["score"] is None and part["candidates"] == 0 for part in found["timeline"])
    assert "no tree" in cli("show", "run", "--tree").err


def test_remarks_that_are_none_are_left_out(cli: Any, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "run")
    known = {"from_frame": 3, "why": ["torch 1 -> 2"]}
    json_with("run.json", not_bit_exact=["x", {"from_frame": "x"}, known, {"from_frame": 1, "why": [2]}])(
        tmp_path / "run"
    )
    assert cli("show", "run", "--format", "json").json["not_bit_exact"] == [known]
    RunDir(tmp_path / "run").remark(9, ["again"])
    assert RunDir(tmp_path / "run").remarks == [known, {"from_frame": 9, "why": ["again"]}]
    json_with("run.json", not_bit_exact="abc")(tmp_path / "run")
    assert cli("show", "run").code == 0


@pytest.mark.parametrize("name", ["trace.jsonl", "video.mp4"])
def test_a_run_that_cannot_be_extended_stays_as_it_is(cli: Any, made: Path, tmp_path: Path, name: str) -> None:
    """Files shorter than the state knows are noticed before FINISHED goes and run.json says more frames."""
    shutil.copytree(made, tmp_path / "run")
    path = tmp_path / "run" / name
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] if name == "trace.jsonl" else path.read_bytes()[:900])
    before = content(tmp_path / "run")
    said = cli("extend", "run", "--frames", 4, "-q")
    assert said.code == 2 and "was cut off or changed" in said.err and said.err.count("\n") == 1
    assert content(tmp_path / "run") == before


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e300", "5000", "9" * 20, "1e300*fft", f"{'9' * 20},1"])
def test_what_may_be_typed_can_be_read_again(text: str) -> None:
    rows = (*METHODS.values(), *SEARCHES.values(), *REWARDS.values())
    for parameter in (*GENERAL, *MODEL_OPTIONS, *(one for row in rows for one in row.parameters)):
        try:
            value = parameter.parse("", text)
        except UsageError:
            continue
        within(parameter.name, json.loads(json.dumps(value)))


def test_more_windows_at_once_than_a_run_may_have_are_refused(cli: Any) -> None:
    said = cli("generate", PROMPT, "--frames", "9", "--dry-run", "--set", "batch=5000")
    assert said.code == 2 and "batch=5000 is not possible: it takes a whole number in 1..4096" in said.err
