"""The folder of a new run: whether it can be written to is found out before a model is loaded, and leaves nothing."""

# ruff: noqa: F811 (fixtures come from another file of tests)

from __future__ import annotations

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import longtake
from longtake.errors import UsageError
from longtake.output.directory import make_directory, probe_directory
from tests.test_cli import cli, make, one_thread, tiny  # noqa: F401

OUTS = ("README.md/run", "README.md/deep/run", "x" * 300, "deep/" + "x" * 300)


@pytest.fixture
def unloadable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No model can be loaded: what is refused has to be refused before."""
    (tmp_path / "README.md").write_text("not a folder")
    monkeypatch.setattr("longtake.models.load.load", lambda *_, **__: pytest.fail("a model was loaded"))


@pytest.mark.parametrize("out", OUTS)
def test_a_folder_that_cannot_be_made_is_told_before_a_model_is_loaded(
    cli: Any, tiny: Path, tmp_path: Path, unloadable: None, out: str
) -> None:
    said = make(cli, tiny, "--frames", 9, "--out", out)
    assert said.code == 2 and "cannot be" in said.err and "Traceback" not in said.err, said.err
    with pytest.raises(UsageError, match="cannot be"):
        longtake.generate("a dog", out, model=str(tiny), frames=9, seed=1)
    (tmp_path / "jobs.jsonl").write_text(json.dumps({"prompt": "a dog", "model": str(tiny), "frames": 9, "out": out}))
    said = cli("batch", "jobs.jsonl")
    assert said.code == 2 and "line 1" in said.err and "cannot be" in said.err
    assert {path.name for path in tmp_path.iterdir()} <= {"README.md", "jobs.jsonl", ".jobs.jsonl.lock"}


def test_without_out_too(cli: Any, tiny: Path, tmp_path: Path, unloadable: None) -> None:
    (tmp_path / "runs").write_text("not a folder")
    said = make(cli, tiny, "--frames", 9)
    assert said.code == 2 and "cannot be written to" in said.err and "--out" in said.err
    assert (tmp_path / "runs").read_text() == "not a folder"


@pytest.mark.parametrize("there", [None, "new", "new/deep"])
def test_a_model_that_does_not_load_leaves_no_folder_and_takes_none(
    cli: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str | None
) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise UsageError("the weights are gone")

    if there:
        (tmp_path / there).mkdir(parents=True)
    monkeypatch.setattr("longtake.models.load.load", failing)
    said = make(cli, tiny, "--frames", 9, "--out", "new/deep")
    assert said.code == 2 and "weights are gone" in said.err
    assert (tmp_path / "new").exists() == bool(there) and (tmp_path / "new/deep").exists() == (there == "new/deep")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "cache" not in path.parts]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="who may do everything is refused nothing")
def test_a_folder_of_another_is_told(cli: Any, tiny: Path, tmp_path: Path, unloadable: None) -> None:
    (tmp_path / "theirs").mkdir(mode=0o555)
    for out in ("theirs", "theirs/run"):
        said = make(cli, tiny, "--frames", 9, "--out", out)
        assert said.code == 2 and "Permission denied" in said.err


def test_a_disk_that_takes_no_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise failure

    for name, out in (("TemporaryFile", tmp_path), ("TemporaryDirectory", tmp_path / "new")):
        with monkeypatch.context() as patch:
            patch.setattr(f"tempfile.{name}", refused)
            failure = OSError(errno.EROFS, "Read-only file system")
            with pytest.raises(UsageError, match="Read-only file system; choose another"):
                probe_directory(out)
            failure = OSError(errno.ENOSPC, "No space left on device")
            probe_directory(out)  # a full disk may have room again: a run waits for it, and a batch too


def test_tries_at_once_do_not_meet(tmp_path: Path) -> None:
    """Nothing that one makes is taken away by the try of another."""

    def one(number: int) -> Path:
        probe_directory(tmp_path / "runs" / "same")
        return make_directory(tmp_path / "runs" / "same", fixed=False).path

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(one, range(64)))
    assert len(set(made)) == 64 and all(path.is_dir() for path in made)
    assert {path.parent.name for path in made} == {"runs"}
