"""What a run tells its user: commands that can be pasted, refusals before a model is loaded, files others may read."""

# ruff: noqa: F811 (fixtures come from another file of tests)

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path
from typing import Any

import pytest
import torch

from longtake.core.engine import Engine
from longtake.core.rollout import Timeline
from longtake.core.schedule import flow
from longtake.errors import UsageError
from longtake.models.analytic import GaussianVideo
from longtake.output import checkpoint
from longtake.output.directory import RunDir, plan_directory
from longtake.rollouts.plain import Plain
from tests.test_cli import cli, make, one_thread, tiny  # noqa: F401


@pytest.fixture
def spaced(cli: Any, tiny: Path) -> Path:
    """A run in a folder whose name has a space in it."""
    assert make(cli, tiny, "--method", "chunk", "--frames", 21, "--out", "my runs/a dog").code == 0
    return Path("my runs/a dog")


def test_commands_that_are_told_can_be_pasted(cli: Any, spaced: Path) -> None:
    empty = cli("takes", spaced)
    assert shlex.split(empty.err.partition("make some with: ")[2])[:3] == ["longtake", "takes", str(spaced)]
    said = cli("reroll", spaced, "--from", "1s", "--seed", 3)
    command = shlex.split(said.err.partition("in the run's place with: ")[2].splitlines()[0])
    assert command == ["longtake", "takes", str(spaced), "--use", "1"]
    assert cli(*command[1:]).code == 0
    (spaced / "FINISHED").unlink()
    assert f"longtake resume '{spaced}'" in cli("show", spaced).out
    with pytest.raises(UsageError, match="longtake resume 'my runs/a dog'"):
        plan_directory(spaced, "a dog", 0)
    best = cli("takes", spaced, "--use", "best")
    assert best.code == 2 and "such as --use 2" in best.err


def test_a_run_in_use_is_refused_before_a_model_is_loaded(
    cli: Any, spaced: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("longtake.apps.session.build", loaded)
    commands = [("extend", "--frames", 4), ("reroll", "--from", "1s"), ("takes", "--num", 2, "--seconds", 1)]
    with RunDir(spaced).locked():
        for command, *flags in commands:
            said = cli(command, spaced, *flags)
            assert said.code == 2 and "is in use by another longtake" in said.err, command
        (spaced / "FINISHED").unlink()
        assert "is in use by another longtake" in cli("resume", spaced).err
        (spaced / "trace.jsonl").unlink()  # as until the first frame is out
        for command, *flags in commands[:2]:
            assert "is in use by another longtake" in cli(command, spaced, *flags).err, command
    for command, *flags in commands[:2]:
        assert "begin with: longtake resume" in cli(command, spaced, *flags).err, command


def test_all_files_of_a_run_have_the_permissions_of_new_files(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    usual = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    checkpoint.save({"x": torch.zeros(2)}, tmp_path)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {usual}
    assert os.umask(checkpoint.UMASK) == checkpoint.UMASK


class Narrow(GaussianVideo):
    """A model on a machine that has memory for so many windows at once."""

    room = 0

    def __call__(self, x: Any, levels: Any, cond: Any) -> Any:
        if len(x) > self.room:
            torch.empty(1 << 55, dtype=torch.float32)  # what a CPU without memory says
        return super().__call__(x, levels, cond)


def test_a_cpu_without_memory_is_told_in_one_line() -> None:
    schedule = flow(4)
    rollout, model = Plain((2, 3, 3), schedule, window=4), Narrow(schedule, (2, 3, 3), 4)
    engine = Engine(model)
    state = engine.drive(rollout.init(0, Timeline.of("")))
    with pytest.raises(UsageError, match="out of memory with one window at a time; use a smaller --size"):
        engine.drive(rollout.step(state))
    model.room = 1
    engine.drive(rollout.step(state))


def test_another_failure_of_a_network_is_not_called_memory() -> None:
    class Broken(GaussianVideo):
        def __call__(self, x: Any, levels: Any, cond: Any) -> Any:
            raise RuntimeError("broken")

    schedule = flow(4)
    rollout, engine = Plain((2, 3, 3), schedule, window=4), Engine(Broken(schedule, (2, 3, 3), 4))
    state = engine.drive(rollout.init(0, Timeline.of("")))
    with pytest.raises(RuntimeError, match="broken"):
        engine.drive(rollout.step(state))
