"""Turns: what is before the moment stays bit for bit, what is after changes, for every method and search there is."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from longtake.core.engine import Engine
from longtake.core.rollout import Timeline
from longtake.core.rows import Row
from longtake.core.schedule import flow
from longtake.core.solvers import Memory
from longtake.core.stream import stream
from longtake.core.tree import walk
from longtake.output.directory import RunDir
from longtake.output.run import Runner
from longtake.output.trace import read_trace
from longtake.output.turns import Turn, directed, key_of, renoised, retimed, ruled_from, shifted, turned
from tests import cases
from tests.toy_run import make, toy_job

FAR, AT = 26, 9
NAMES = [name for name in {**cases.rollouts(), **cases.searches()} if not name.startswith("plain")]


def _made(found: Any, turn: Turn | None, engine: Engine) -> tuple[list[Tensor], int]:
    """(latents, where the turn was made) of a run that turns."""
    state = engine.drive(found.init(7, Timeline.of("a"), []))
    latents: list[Tensor] = []
    if turn is not None:
        while state.emitted < turn.latent:
            state, emission = engine.drive(found.step(state))
            latents.extend(emission.latents)
        state = turned(found, state, turn, directed(Timeline.of("a"), [turn]))
    at = len(latents)
    for _, emission in stream(found, engine, state, FAR):
        latents.extend(emission.latents)
    return latents[:FAR], at


@pytest.mark.parametrize("name", NAMES)
def test_a_turn_leaves_what_is_released_and_changes_what_comes(name: str) -> None:
    found = {**cases.rollouts(), **cases.searches()}[name]
    engine = Engine(cases.oracle(found), batch=4)
    plain, _ = _made(found, None, engine)
    still, at = _made(found, Turn(AT), engine)
    when = AT if at < len(plain) else 0  # a method that releases all at once can only be turned at its start
    assert cases.equal(plain, still)  # a turn that changes nothing changes nothing
    noise, at = _made(found, Turn(when, key_of(3)), engine)
    again, _ = _made(found, Turn(when, key_of(3)), engine)
    other, _ = _made(found, Turn(when, key_of(4)), engine)
    words, _ = _made(found, Turn(when, 0, "b"), engine)
    assert cases.equal(noise, again)
    for changed in (noise, other, words):
        assert cases.equal(plain[:at], changed[:at])
        assert not torch.equal(plain[-1], changed[-1])
    assert not torch.equal(noise[-1], other[-1])
    assert at >= when and torch.isfinite(torch.stack(noise)).all()


@pytest.mark.parametrize("name", ["fifo", "chunk", "beam fifo", "horizon fifo"])
def test_where_a_new_prompt_rules(name: str) -> None:
    found = {**cases.rollouts(), **cases.searches()}[name]
    engine = Engine(cases.oracle(found), batch=4)
    state = engine.drive(found.init(7, Timeline.of("a"), []))
    while state.emitted < AT:
        state, _ = engine.drive(found.step(state))
    rules = ruled_from(found, state)
    rows = [row for row in walk(state) if isinstance(row, Row)]
    begun = max(row.index for row in rows if row.seen)
    assert begun < rules <= state.emitted + found.in_flight
    if name == "chunk":
        assert rules == state.emitted  # between two clips nothing is under way


def test_timelines_turn_and_shift() -> None:
    line = Timeline(((0, "a"), (10, "b"), (20, "c")), fade=3, cuts=(10, 20))
    after = directed(line, [Turn(15, 0, "x"), Turn(16, 5), Turn(18, 0, "y")])
    assert after.entries == ((0, "a"), (10, "b"), (15, "x"), (18, "y")) and after.cuts == (10,) and after.fade == 3
    assert directed(line, [Turn(0, 0, "x")]).entries == ((0, "x"),)
    moved = shifted(line, 12)
    assert moved.entries == ((0, "b"), (8, "c")) and moved.cuts == (8,)
    assert [str(moved.at(index)) for index in (0, 7, 8)] == [str(line.at(index + 12)) for index in (0, 7, 8)]
    assert shifted(line, 0) is line and shifted(line, 10).entries[0] == (0, "b")


def test_new_noise_is_at_the_rows_own_level() -> None:
    schedule = flow(8, 3.0)
    x0, noise = torch.full((2, 3, 3), 5.0), torch.full((2, 3, 3), 2.0)
    mix = renoised(schedule)
    row = Row(torch.zeros(2, 3, 3), 3, 0, 1, Memory(x0s=(x0,)), seen=True)
    assert torch.allclose(mix(row, noise), schedule.alphas[3] * x0 + schedule.sigmas[3] * noise)
    assert torch.equal(mix(replace(row, level=8), noise), noise)
    assert torch.equal(mix(replace(row, memory=Memory()), noise), row.x)  # nothing is known of it: it stays


def test_prompts_are_changed_wherever_a_state_keeps_them() -> None:
    for name, found in cases.searches().items():
        engine = Engine(cases.oracle(found), batch=4)
        state = engine.drive(found.init(7, Timeline.of("a"), []))
        for _ in range(6):
            state, _ = engine.drive(found.step(state))
        new = retimed(state, Timeline.of("new"))
        lines = [item for item in walk(new) if isinstance(item, Timeline)]
        assert lines and all(line.entries == ((0, "new"),) for line in lines), name
        before, after = ([id(item) for item in walk(one) if isinstance(item, Tensor)] for one in (state, new))
        assert sorted(before) == sorted(after), name  # tensors stay shared


# -- runs ------------------------------------------------------------------------------------------------------------


def hashes(folder: Path) -> list[str]:
    return [line["sha256"] for line in read_trace(folder / "trace.jsonl")]


TURNS = (Turn(6, key_of(1)), Turn(11, 0, "b"), Turn(11, key_of(2)))


@pytest.fixture(scope="module")
def turning(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("turning")
    make(folder, toy_job(90, turns=TURNS))
    return folder


@pytest.mark.parametrize("ticks", [3, 14, 16, 20, 24, 30])
def test_stopped_anywhere_around_its_turns(tmp_path: Path, turning: Path, ticks: int) -> None:
    running = Runner(toy_job(90, turns=TURNS), RunDir(tmp_path)).run()
    for _ in range(ticks):
        next(running)
    running.close()
    make(tmp_path, toy_job(90, turns=TURNS))
    assert hashes(tmp_path) == hashes(turning)
    assert (tmp_path / "video.mp4").read_bytes() == (turning / "video.mp4").read_bytes()


def test_a_turn_given_later_is_as_if_it_had_been_known(tmp_path: Path, turning: Path) -> None:
    """Back to the state before the end, forward to the turn, and on: what `extend PROMPT` does."""
    make(tmp_path / "late", toy_job(41, turns=TURNS[:1]))
    (tmp_path / "late" / "FINISHED").unlink()
    make(tmp_path / "late", toy_job(90, turns=TURNS))
    assert hashes(tmp_path / "late") == hashes(turning)
    lines = read_trace(tmp_path / "late" / "trace.jsonl")
    assert [line["prompt"] for line in lines] == ["a"] * 11 + ["b"] * 13
    assert [line["turn"] for line in lines] == [0] * 6 + [1] * 5 + [3] * 13


def test_every_snapshot_leads_to_the_same_end(tmp_path: Path, turning: Path) -> None:
    for path in sorted((turning / "snapshots").glob("*.json")):
        target = tmp_path / path.stem
        shutil.copytree(turning, target)
        (target / "FINISHED").unlink()
        for ending in ("json", "safetensors"):
            shutil.copy(path.with_suffix(f".{ending}"), target / f"state.{ending}")
        make(target, toy_job(90, turns=TURNS))
        assert hashes(target) == hashes(turning)
