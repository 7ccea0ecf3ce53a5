"""Runs that lose nothing: full disks, kills at the worst moments, damaged and forged files, films that are replayed."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from longtake.errors import UsageError
from longtake.output import checkpoint
from longtake.output.checkpoint import CheckpointError
from longtake.output.directory import RunDir
from longtake.output.disk import DiskFullError, size
from longtake.output.job import Position
from longtake.output.run import Runner
from longtake.output.snapshots import LIMIT, thinned
from longtake.output.trace import read_trace
from longtake.output.video import Tail, VideoWriter, read_frames
from tests.toy_run import FORM, make, toy_job

FRAMES = 90


def hashes(folder: Path) -> list[Any]:
    return [(line["latents"], line["frames"], line["sha256"]) for line in read_trace(folder / "trace.jsonl")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    make(folder, toy_job(FRAMES))
    return folder


def _same(folder: Path, whole: Path) -> None:
    assert hashes(folder) == hashes(whole)
    assert (folder / "video.mp4").read_bytes() == (whole / "video.mp4").read_bytes()
    assert (folder / "FINISHED").exists()


# -- a full disk -----------------------------------------------------------------------------------------------------

MOUNTED = """
import json, shutil, sys
from itertools import count
from pathlib import Path
from longtake.output import run
from longtake.output.disk import DiskFullError
from longtake.output.video import read_frames
from tests import toy_run
run.SAVE_SHARE = float("inf")  # a checkpoint after every tick, whatever the time
small, copy, found = Path(sys.argv[1]), sys.argv[2], []
for kept in (*range(560, 0, -40), 0):
    (small / "filler").write_bytes(b"x" * 1000 * kept)
    try:
        toy_run.make(small / "run", toy_run.toy_job(90), save_seconds=0.0, clock=count().__next__)
        break
    except DiskFullError as error:
        frames, film = 0, small / "run" / "video.mp4"
        if film.exists() and film.stat().st_size:
            frames = len(list(read_frames(film)))
        found.append([str(error), frames, len(list(small.rglob("*.new")))])
shutil.copytree(small / "run", copy)
print(json.dumps(found))
"""


def test_a_disk_that_is_full_and_has_room_again(tmp_path: Path, whole: Path) -> None:
    """On a real file system of 600 kB, mounted by a process of its own: filled, freed little by little.

    How far a run gets in how much room depends on the kernel and on the encoder; that it gets ever further does not.
    """
    root, small = Path(__file__).parent.parent, tmp_path / "small"
    small.mkdir()
    (tmp_path / "run.py").write_text(MOUNTED)
    script = f"mount -t tmpfs -o size=600k none {small} || exit 77; {sys.executable} run.py {small} {tmp_path}/c"
    command = ["unshare", "--map-root-user", "--user", "--mount", "sh", "-c", script]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    try:
        said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    except FileNotFoundError:
        said = subprocess.CompletedProcess(command, 77)
    if said.returncode == 77 or "unshare" in said.stderr:
        _full_by_limit(tmp_path, whole)  # no file systems may be mounted here: the kernel's limit on file sizes instead
        return
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    assert len(found) >= 3 and all(text.startswith("no room for ") and "make room for" in text for text, *_ in found)
    frames = [shown for _, shown, _ in found]
    assert frames == sorted(frames) and len(set(frames)) >= 3 and frames[-1] < FRAMES  # what was made stays
    assert not any(left for *_, left in found)
    _same(tmp_path / "c", whole)


def _full_by_limit(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "limited"
    with pytest.raises(DiskFullError, match="no room for"):
        _limited(folder, 60_000)
    assert not list(folder.glob("*.new"))
    make(folder, toy_job(FRAMES))
    _same(folder, whole)


def _limited(folder: Path, limit: int) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        make(folder, toy_job(FRAMES), save_seconds=0.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("limit", [4_000, 30_000, 60_000])
def test_a_limit_on_file_sizes_stops_cleanly(tmp_path: Path, whole: Path, limit: int) -> None:
    with pytest.raises(DiskFullError, match="no room for"):
        _limited(tmp_path / "run", limit)
    assert not list((tmp_path / "run").rglob("*.new"))
    make(tmp_path / "run", toy_job(FRAMES))
    _same(tmp_path / "run", whole)


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        shutil, "disk_usage", lambda folder: SimpleNamespace(free=2_340_000 if folder == tmp_path else 0)
    )
    error = DiskFullError(tmp_path / "state.safetensors", 10**9)
    assert error.missing == 10**9 - 2_340_000 and str(error) == (
        "no room for state.safetensors: it needs 1.0 GB, 2.3 MB free; make room for 998 MB or more"
    )
    assert "a quota or a limit" in str(DiskFullError(tmp_path / "state.safetensors", 10**6))
    assert [size(n) for n in (0, 999, 1000, 123_456, 9_999_999)] == ["0 B", "999 B", "1.0 kB", "123 kB", "10.0 MB"]


# -- kills -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", range(6))
def test_killed_at_the_worst_moments(tmp_path: Path, whole: Path, moment: int) -> None:
    """kill -9 in the middle of a write, a sync, a rename; benchmarks/kills.py does it over all methods."""
    from benchmarks.kills import MOMENTS, killed_run

    what, nth = MOMENTS[moment], random.Random(moment).randint(2, 6 if MOMENTS[moment] == "fragment" else 20)
    code = killed_run(tmp_path / "run", "toy", FRAMES, what, nth)
    assert code == -9
    seen = sum(1 for _ in read_frames(tmp_path / "run" / "video.mp4"))
    traced = read_trace(tmp_path / "run" / "trace.jsonl")
    assert seen >= 24 * ((traced[-1]["frames"][1] if traced else 0) // 24) - 24
    make(tmp_path / "run", toy_job(FRAMES))
    _same(tmp_path / "run", whole)


# -- replay ----------------------------------------------------------------------------------------------------------


def test_a_film_never_gets_shorter_while_it_is_made_again(tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "FINISHED").unlink()
    runner = Runner(toy_job(130), RunDir(tmp_path / "run"), save_seconds=0.0)
    assert runner.position is not None and runner.position.frames < FRAMES  # back before the calls that were skipped
    least = FRAMES
    for progress in runner.run():
        seen = sum(1 for _ in read_frames(tmp_path / "run" / "video.mp4"))
        assert seen >= min(least, max(progress.frames, FRAMES - FORM.segment))
    assert seen == 130
    make(tmp_path / "long", toy_job(130))
    _same(tmp_path / "run", tmp_path / "long")


def test_a_finished_run_stays_as_it_is(tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in whole.iterdir() if path.is_file()}
    make(tmp_path / "run", toy_job(FRAMES))
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}


def test_other_comments_and_the_same_frames(tmp_path: Path) -> None:
    frames = torch.randint(0, 255, (60, 32, 48, 3), dtype=torch.uint8)
    for name, comment in (("a", "short"), ("b", "x" * 5000)):
        VideoWriter(tmp_path / name, FORM, comment=comment).write(frames)
    tail = VideoWriter(tmp_path / "c", FORM, comment="short").tail
    writer = VideoWriter(tmp_path / "c", FORM, tail, "short")
    writer.write(frames)
    VideoWriter(tmp_path / "c", FORM, writer.tail, "x" * 5000).flush(last=True)
    VideoWriter(tmp_path / "b", FORM, writer.tail, "x" * 5000).flush(last=True)
    assert (tmp_path / "c").read_bytes() == (tmp_path / "b").read_bytes()
    assert sum(1 for _ in read_frames(tmp_path / "c")) == 60


# -- snapshots -------------------------------------------------------------------------------------------------------


def test_snapshots_are_bounded_and_near_what_was_just_made() -> None:
    kept: list[int] = [0]
    for now in range(60, 60 * 3000, 60):  # four hours of film at 12 frames a second, 5 s apart
        kept.append(now)
        for gone in thinned(kept, now):
            kept.remove(gone)
        assert len(kept) <= LIMIT and kept[0] == 0 and kept[-1] == now
        if now % 6000 == 0:
            for back in range(0, now, 600):  # the way from the snapshot before it is a share of how long ago it is
                at = now - back
                way = at - max(frames for frames in kept if frames <= at)
                assert way <= 60 + 0.6 * back, (now, back, way)


def test_large_snapshots_are_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from longtake.output import snapshots

    monkeypatch.setattr(snapshots, "BYTES", 200_000)
    for numbers, most in ((10, 32), (10_000, 4), (1_000_000, 2)):  # float32: 4 bytes each, and a header
        kept = snapshots.Snapshots(tmp_path / str(numbers))
        for frames in range(0, 2400, 60):
            kept.keep(Position(None, frames=frames, cache=torch.zeros(numbers)))
        assert len(kept.frames) == most
        assert kept.frames[0] == 0 and kept.frames[-1] == 2340
        assert torch.equal(kept.load(2340).cache, torch.zeros(numbers))


def test_a_run_keeps_snapshots_and_goes_on_from_each(tmp_path: Path, whole: Path) -> None:
    kept = sorted((whole / "snapshots").glob("*.json"))
    assert [int(path.stem) for path in kept] == [0, 61]
    for path in kept:
        target = tmp_path / path.stem
        shutil.copytree(whole, target)
        (target / "FINISHED").unlink()
        for ending in ("json", "safetensors"):
            shutil.copy(path.with_suffix(f".{ending}"), target / f"state.{ending}")
        make(target, toy_job(FRAMES))
        _same(target, whole)


# -- forged files ----------------------------------------------------------------------------------------------------


def _resumes(folder: Path, whole: Path) -> None:
    make(folder, toy_job(FRAMES))
    _same(folder, whole)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped")
    running = Runner(toy_job(FRAMES), RunDir(folder)).run()
    for _ in range(20):
        next(running)
    running.close()
    return folder


@pytest.mark.parametrize("seed", range(12))
def test_bits_flipped_and_files_cut_are_refused(tmp_path: Path, stopped: Path, seed: int) -> None:
    dice = random.Random(seed)
    for number in range(8):
        folder = tmp_path / str(number)
        shutil.copytree(stopped, folder)
        target = folder / dice.choice(["state.json", "state.safetensors"])
        data = bytearray(target.read_bytes())
        if dice.random() < 0.5:
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        else:
            data = data[: dice.randrange(len(data))]
        target.write_bytes(data)
        video = (folder / "video.mp4").read_bytes()
        with pytest.raises(UsageError) as caught:
            make(folder, toy_job(FRAMES))
        assert "\n" not in str(caught.value) and (folder / "video.mp4").read_bytes() == video


FORGED: list[dict[str, Any]] = [
    {"frames": -1}, {"frames": 10**400}, {"frames": "9"}, {"frames": 1.5}, {"nfe": None}, {"trace_bytes": True},
    {"turns": 5}, {"tail": Tail(-5)}, {"tail": Tail(2**60)}, {"tail": Tail(0, 0, torch.zeros(3))},
    {"tail": Tail(0, 0, torch.zeros(1, 4, 4, 3, dtype=torch.uint8))}, {"tail": None}, {"state": None}, {"state": 7},
    {"digest": 5}, {"past": (1, 2)}, {"past": (torch.zeros(9, 9, 9),)}, {"held": "x"}, {"seconds": float("nan")},
    {"pruned_for": "x"}, {"offset": -3}, {"trace_bytes": 10**9}, {"tail": Tail(10**9)},
]  # fmt: skip


@pytest.mark.parametrize("change", FORGED, ids=lambda change: str(change)[:40])
def test_forged_positions_with_right_checksums_are_refused(
    tmp_path: Path, stopped: Path, change: dict[str, Any]
) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    position: Position = checkpoint.load(stopped)
    checkpoint.save(replace(position, **change), tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.[mj]*")}
    with pytest.raises(UsageError) as caught:
        make(tmp_path / "run", toy_job(FRAMES))
    assert "\n" not in str(caught.value)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.[mj]*")}


NODES: list[Any] = [
    [{"range": [0, 10**30, 0]}], [{"fraction": [1, 0]}], [{"float": "many"}], [{"tuple": [{"@": 99}]}], [{}], [[]],
    [{"dict": [[{"@": 0}]]}], [{"dataclass": "os:system", "fields": {}}], [{"tensor": "../../etc/passwd"}], [None],
    [{"named": "longtake.output.job:Position.x", "items": []}], [{"frozenset": 5}], "text", {"a": 1}, 10**400,
]  # fmt: skip


@pytest.mark.parametrize("nodes", NODES, ids=lambda nodes: str(nodes)[:40])
def test_forged_nodes_are_refused(tmp_path: Path, nodes: Any) -> None:
    checkpoint.save(("fine", torch.zeros(2)), tmp_path)
    body = json.loads((tmp_path / "state.json").read_text())
    body = {**body, "nodes": nodes, "root": {"@": 0}}
    body.pop("sha256")
    body["sha256"] = checkpoint._sum(body)
    (tmp_path / "state.json").write_text(json.dumps(body))
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_deep_nesting_and_huge_numbers_in_json(tmp_path: Path) -> None:
    for text in ("[" * 100_000, '{"version": ' + "9" * 5000 + "}", '{"version": 1, "sha256": {}}', "\x00", "null"):
        (tmp_path / "state.json").write_text(text)
        with pytest.raises(CheckpointError) as caught:
            checkpoint.load(tmp_path)
        assert "\n" not in str(caught.value)


def test_a_trace_that_was_cut_is_refused(tmp_path: Path, stopped: Path) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    path = tmp_path / "run" / "trace.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UsageError, match=r"trace\.jsonl has .* bytes, fewer"):
        make(tmp_path / "run", toy_job(FRAMES))
