"""Checkpoints, the growing video, and runs that are killed and go on."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import sys
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from longtake.errors import UsageError
from longtake.output import checkpoint
from longtake.output.boxes import boxes, split
from longtake.output.checkpoint import CheckpointError
from longtake.output.directory import RunDir, make_directory, plan_directory, slug
from longtake.output.job import chain, film
from longtake.output.run import Runner
from longtake.output.trace import read_trace
from longtake.output.video import Format, Tail, VideoWriter, contact_sheet, encode, last_frames, probe, read_frames
from tests.toy_run import FORM, make, toy_job

# -- checkpoints ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Leaf:
    x: Tensor
    note: str = ""


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass
class Melting:
    x: int = 0


def test_a_value_survives_with_its_sharing(tmp_path: Path) -> None:
    leaf = Leaf(torch.randn(2, 3), "é")
    value = {
        "pair": Pair(leaf, (leaf, leaf.x)),
        ("key", 3): [1, 2**70, -0.1, float("inf"), True, None, range(2, 9, 3), Fraction(17, 2)],
        "bf16": torch.ones(3, dtype=torch.bfloat16),
        "bytes": torch.arange(6, dtype=torch.uint8).reshape(2, 3).T,
        "empty": (torch.zeros(0, 4), (), {}, frozenset({1, 2})),
    }
    checkpoint.save(value, tmp_path)
    back = checkpoint.load(tmp_path)
    pair = back["pair"]
    assert pair.left is pair.right[0] and pair.left.x is pair.right[1]
    assert torch.equal(pair.left.x, leaf.x) and pair.left.note == "é"
    assert back[("key", 3)] == value[("key", 3)]
    assert back["bf16"].dtype == torch.bfloat16 and torch.equal(back["bytes"], value["bytes"])
    assert back["empty"][0].shape == (0, 4) and back["empty"][1:] == ((), {}, frozenset({1, 2}))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state.json", "state.safetensors"]


def test_equal_but_distinct_tensors_stay_distinct(tmp_path: Path) -> None:
    base = torch.zeros(4)
    checkpoint.save((base, base.clone(), base[:2]), tmp_path)
    left, right, view = checkpoint.load(tmp_path)
    assert left is not right and view.shape == (2,)


@pytest.mark.parametrize("value", [object(), Melting(), np.zeros(2), {"a": len}, torch.nn.Linear(1, 1)])
def test_what_a_checkpoint_cannot_hold_is_refused_and_nothing_lost(tmp_path: Path, value: Any) -> None:
    checkpoint.save("before", tmp_path)
    with pytest.raises(TypeError):
        checkpoint.save((1, value), tmp_path)
    assert checkpoint.load(tmp_path) == "before"


def _saved(folder: Path) -> dict[str, Any]:
    checkpoint.save(Leaf(torch.arange(100.0)), folder)
    return json.loads((folder / "state.json").read_text())


def _resigned(body: dict[str, Any]) -> str:
    body = {key: part for key, part in body.items() if key != "sha256"}
    total = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "sha256": total})


def _refused(folder: Path, words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        checkpoint.load(folder)
    assert "\n" not in str(caught.value)


def test_damaged_checkpoints_are_refused_in_one_line(tmp_path: Path) -> None:
    path, tensors = tmp_path / "state.json", tmp_path / "state.safetensors"
    _refused(tmp_path, "no checkpoint")
    body = _saved(tmp_path)
    path.write_text(_resigned({**body, "version": 2}))
    _refused(tmp_path, "version 2, this longtake reads version 1")
    path.write_text(json.dumps(body)[:-40])
    _refused(tmp_path, "cut off")
    path.write_text("[]")
    _refused(tmp_path, "no checkpoint")
    path.write_text(json.dumps(body).replace("fields", "fiends"))
    _refused(tmp_path, "changed")
    body = _saved(tmp_path)
    tensors.write_bytes(tensors.read_bytes()[:-1])
    _refused(tmp_path, "cut off or changed")
    body = _saved(tmp_path)
    data = bytearray(tensors.read_bytes())
    data[-3] ^= 1
    tensors.write_bytes(data)
    _refused(tmp_path, "cut off or changed")
    tensors.unlink()
    _refused(tmp_path, "cut off or changed")


@pytest.mark.parametrize("name", ["os:system", "antigravity:Nothing", "tests.test_output:Melting", "builtins:list"])
def test_a_checkpoint_cannot_call_anything(tmp_path: Path, name: str) -> None:
    body = _saved(tmp_path)
    for node in body["nodes"]:
        if "dataclass" in node:
            node["dataclass"] = name
    (tmp_path / "state.json").write_text(_resigned(body))
    _refused(tmp_path, name)
    assert "antigravity" not in sys.modules


def test_a_kill_between_the_renames_leaves_a_valid_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced, real = [], os.replace

    def dies(source: Any, target: Any) -> None:
        replaced.append(target)
        if len(replaced) == alive:
            raise KeyboardInterrupt
        real(source, target)

    for alive, expected in ((1, "old"), (2, "new")):  # before the commit, after it
        checkpoint.save(("old", torch.zeros(5)), tmp_path)
        replaced.clear()
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "replace", dies)
            checkpoint.save(("new", torch.ones(5)), tmp_path)
        if alive == 2:  # the next save must not overwrite the only valid tensors either
            (tmp_path / "state.safetensors.new").with_name("copy").write_bytes(b"")
        assert checkpoint.load(tmp_path)[0] == expected
        assert torch.equal(checkpoint.load(tmp_path)[1], torch.full((5,), float(expected == "new")))


# -- video ---------------------------------------------------------------------------------------------------------


def _pattern(count: int, height: int = 32, width: int = 48, first: int = 0) -> Tensor:
    """Frames that tell their number: a bar that moves over a ramp."""
    frames = torch.zeros(count, height, width, 3, dtype=torch.uint8)
    frames[..., 1] = torch.linspace(40, 200, width).to(torch.uint8)
    for number in range(count):
        frames[number, :, (first + number) % width] = 230
    return frames


def _write(path: Path, count: int, step: int = 5, form: Format = FORM) -> VideoWriter:
    writer = VideoWriter(path, form, comment='{"a": 1}')
    frames = _pattern(count, form.height, form.width)
    for start in range(0, count, step):
        writer.write(frames[start : start + step])
    writer.flush()
    return writer


@pytest.mark.parametrize("count", [1, 24, 48, 245])
def test_every_frame_comes_back_at_its_time(tmp_path: Path, count: int) -> None:
    path = tmp_path / "v.mp4"
    _write(path, count)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 12 or count == 1
        assert container.metadata["comment"] == '{"a": 1}'
        frames = list(container.decode(video=0))
        assert [round(frame.time * 12) for frame in frames] == list(range(count))
        assert all(frame.duration * frame.time_base == Fraction(1, 12) for frame in frames)
        assert frames[0].colorspace == 1
    decoded = np.stack(list(read_frames(path))).astype(int)
    assert np.abs(decoded - _pattern(count).numpy()).mean() < 6


@pytest.mark.parametrize("fps", [Fraction(24000, 1001), Fraction(25, 2), Fraction(1, 2)])
def test_odd_rates_and_odd_sizes(tmp_path: Path, fps: Fraction) -> None:
    form = Format(37, 23, fps)
    count = 2 * form.segment + 1
    _write(tmp_path / "v.mp4", count, form=form)
    clip = probe(tmp_path / "v.mp4")
    assert (clip.width, clip.height, clip.fps) == (38, 24, fps)
    assert _count(tmp_path / "v.mp4") == count


def test_grey_and_colour_survive(tmp_path: Path) -> None:
    for colour in ((128, 128, 128), (200, 60, 30), (20, 40, 220)):
        frames = torch.tensor(colour, dtype=torch.uint8).expand(3, 32, 48, 3)
        (tmp_path / "c.mp4").write_bytes(encode(frames, FORM))
        shown = np.stack(list(read_frames(tmp_path / "c.mp4"))).astype(int)
        assert np.abs(shown - np.array(colour)).max() <= 5


def test_resumed_bytes_equal_uninterrupted_ones(tmp_path: Path) -> None:
    _write(tmp_path / "whole.mp4", 101)
    frames = _pattern(101)
    for stop in (3, 24, 30, 77, 100):
        path = tmp_path / f"{stop}.mp4"
        first = VideoWriter(path, FORM, comment='{"a": 1}')
        for start in range(0, stop, 7):
            first.write(frames[start : min(start + 7, stop)])
        tail = first.tail
        first.flush()
        first.write(_pattern(40))  # lost work behind the checkpoint
        with open(path, "ab") as file:
            file.write(b"\0" * 1000)
        second = VideoWriter(path, FORM, tail, comment='{"a": 1}')
        second.write(frames[stop:])
        second.flush(last=True)
        assert path.read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_a_file_cut_anywhere_plays_up_to_its_last_whole_fragment(tmp_path: Path) -> None:
    _write(tmp_path / "v.mp4", 120)
    data = (tmp_path / "v.mp4").read_bytes()
    ends = [stop for name, _, stop in boxes(data) if name == b"mdat"]
    assert len(ends) == 5
    heads = {split(encode(_pattern(n), FORM, '{"a": 1}'))[0] for n in (1, 5, 24)}
    assert len(heads) == 1 and data.startswith(heads.pop())  # one header fits every segment
    places = np.random.default_rng(0).integers(ends[0], len(data), 25)
    for cut in [*places.tolist(), *ends, ends[1] + 3, ends[2] + 60, ends[2] + 150]:
        (tmp_path / "cut.mp4").write_bytes(data[:cut])
        whole = sum(end <= cut for end in ends)
        assert 24 * whole <= _count(tmp_path / "cut.mp4") <= 24 * (whole + 1)


def _count(path: Path) -> int:
    return sum(1 for _ in read_frames(path))


def test_any_player_opens_the_file_while_a_fragment_is_written(tmp_path: Path) -> None:
    _write(tmp_path / "v.mp4", 72)
    data = (tmp_path / "v.mp4").read_bytes()
    start, stop = [stop for name, _, stop in boxes(data) if name == b"mdat"][1:]
    unborn = data[: start + 4] + b"free" + data[start + 8 :]  # what the writer has on disk before the last four bytes
    for cut in range(start, stop + 1, 37):
        (tmp_path / "cut.mp4").write_bytes(unborn[:cut])
        with av.open(str(tmp_path / "cut.mp4")) as container:
            assert sum(1 for _ in container.decode(video=0)) == 48


def test_the_writer_uses_what_the_test_before_supposes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = os.fsync

    def watch(handle: int) -> None:
        real(handle)
        seen.append([name for name, *_ in boxes((tmp_path / "v.mp4").read_bytes())])

    writer = VideoWriter(tmp_path / "v.mp4", FORM)
    monkeypatch.setattr(os, "fsync", watch)
    writer.write(_pattern(24))
    assert seen == [[b"ftyp", b"moov", b"free", b"mdat"], [b"ftyp", b"moov", b"moof", b"mdat"]]


def test_a_file_shorter_than_its_checkpoint_is_refused(tmp_path: Path) -> None:
    writer = _write(tmp_path / "v.mp4", 50)
    (tmp_path / "v.mp4").write_bytes(b"")
    with pytest.raises(UsageError, match="cannot be resumed"):
        VideoWriter(tmp_path / "v.mp4", FORM, writer.tail)


def test_reading_helpers(tmp_path: Path) -> None:
    _write(tmp_path / "v.mp4", 60)
    assert contact_sheet(tmp_path / "v.mp4", 1.0, 3).size == (3 * 48, 2 * 32)
    assert len(last_frames(tmp_path / "v.mp4", 9)) == 9
    assert len(last_frames(tmp_path / "v.mp4", 1000, Fraction(6))) == 30
    assert len(last_frames(tmp_path / "v.mp4", 1000, Fraction(24))) == 120
    (tmp_path / "text.mp4").write_text("no video")
    for name in ("text.mp4", "missing.mp4"):
        with pytest.raises(UsageError, match=name):
            list(read_frames(tmp_path / name))


def test_writer_state_does_not_grow() -> None:
    tail = Tail()
    assert tail.pending is None
    pending = torch.zeros(1000, 4, 4, 3, dtype=torch.uint8)[:3].clone()
    assert pending.untyped_storage().nbytes() == 3 * 48


# -- folders -------------------------------------------------------------------------------------------------------


def test_names_of_folders(tmp_path: Path) -> None:
    assert slug("A dog, walks / right!") == "a-dog-walks-right"
    assert slug("犬") == "video" and slug("../../etc") == "etc" and len(slug("x" * 500)) == 40
    planned = [make_directory(plan_directory(None, "A dog", 3, tmp_path), False).path.name for _ in range(3)]
    assert planned == ["a-dog-3", "a-dog-3-2", "a-dog-3-3"]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thing").write_text("")
    with pytest.raises(UsageError, match="not empty"):
        plan_directory(tmp_path / "full", "a", 1)
    (tmp_path / "full" / "run.json").write_text("{}")
    with pytest.raises(UsageError, match="longtake resume"):
        plan_directory(tmp_path / "full", "a", 1)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with RunDir(tmp_path).locked(), pytest.raises(UsageError, match="in use"):  # noqa: SIM117
        with RunDir(tmp_path).locked():
            pass
    with RunDir(tmp_path).locked():
        pass


# -- runs ----------------------------------------------------------------------------------------------------------


def _hashes(folder: Path) -> list[tuple[Any, ...]]:
    return [
        (*line["latents"], *line["frames"], line["sha256"], line["nfe"]) for line in read_trace(folder / "trace.jsonl")
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    make(folder, toy_job(90))
    return folder


def test_a_run_leaves_what_it_says(whole: Path) -> None:
    end = json.loads((whole / "FINISHED").read_text())
    lines = read_trace(whole / "trace.jsonl")
    frames = torch.cat(list(film(toy_job(90))))
    assert len(frames) == 90 == end["frames"] == _count(whole / "video.mp4")
    assert end["sha256"] == chain("", frames)
    assert [line["latents"] for line in lines] == [[i, i + 1] for i in range(24)]
    assert lines[0]["frames"] == [0, 1] and lines[-1]["frames"] == [89, 93]
    assert sum(line["nfe"] for line in lines) == end["nfe"]
    for line in lines[:-1]:
        part = frames[slice(*line["frames"])]
        assert line["sha256"] == hashlib.sha256(part.numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("ticks", [1, 9, 20, 29])
def test_interrupted_anywhere_and_resumed_is_uninterrupted(tmp_path: Path, whole: Path, ticks: int) -> None:
    running = Runner(toy_job(90), RunDir(tmp_path)).run()
    for _ in range(ticks):
        next(running)
    running.close()
    seen = _count(tmp_path / "video.mp4")
    lines = read_trace(tmp_path / "trace.jsonl")
    assert seen == (lines[-1]["frames"][1] if lines else 0)  # the film holds all frames made
    assert not (tmp_path / "FINISHED").exists()
    make(tmp_path, toy_job(90))
    assert _hashes(tmp_path) == _hashes(whole)
    assert (tmp_path / "video.mp4").read_bytes() == (whole / "video.mp4").read_bytes()
    assert (
        json.loads((tmp_path / "FINISHED").read_text())["sha256"]
        == json.loads((whole / "FINISHED").read_text())["sha256"]
    )


def test_interrupted_while_showing_loses_nothing(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, count = VideoWriter.write, []

    def dies(self: VideoWriter, frames: Tensor) -> None:
        real(self, frames)
        count.append(1)
        if len(count) == 8:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(VideoWriter, "write", dies)
        make(tmp_path, toy_job(90))
    make(tmp_path, toy_job(90))
    assert _hashes(tmp_path) == _hashes(whole)
    assert (tmp_path / "video.mp4").read_bytes() == (whole / "video.mp4").read_bytes()


def test_killed_and_resumed_is_uninterrupted(tmp_path: Path, whole: Path) -> None:
    from benchmarks.kills import killed_run

    video = tmp_path / "run" / "video.mp4"
    for further, least in ((6, 6), (10, 15)):  # the second goes on from a checkpoint, a line or two before the kill
        assert killed_run(tmp_path / "run", "toy", 90, "trace", further) == -signal.SIGKILL
        assert len(read_trace(tmp_path / "run" / "trace.jsonl")) >= least - 1
        assert _count(video) >= 24 * (least > 12)  # it opens at any moment, and whole segments stay
    make(tmp_path / "run", toy_job(90))
    assert _hashes(tmp_path / "run") == _hashes(whole)
    assert video.read_bytes() == (whole / "video.mp4").read_bytes()


@pytest.mark.parametrize(("short", "plain"), [(90, False), (10, False), (6, True)])
def test_a_finished_run_can_be_made_longer_bit_for_bit(tmp_path: Path, short: int, plain: bool) -> None:
    more = 13 if plain else 130
    make(tmp_path / "long", toy_job(more, plain))
    make(tmp_path / "short", toy_job(short, plain))
    (tmp_path / "short" / "FINISHED").unlink()
    make(tmp_path / "short", toy_job(more, plain))
    long, short_hashes = _hashes(tmp_path / "long"), _hashes(tmp_path / "short")
    assert [line[:5] for line in long] == [line[:5] for line in short_hashes]
    assert (tmp_path / "short" / "video.mp4").read_bytes() == (tmp_path / "long" / "video.mp4").read_bytes()


def test_a_picture_opens_the_film_and_a_clip_does_not(tmp_path: Path) -> None:
    context = (torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0)),)
    for shows, frames in ((True, 9), (False, 8)):
        job = toy_job(frames, num_latents=2, context=context, shows_context=shows)
        runner = make(tmp_path / str(shows), job)
        assert runner.folder.finished is not None and runner.folder.finished["frames"] == frames
        assert read_trace(tmp_path / str(shows) / "trace.jsonl")[0]["frames"] == ([1, 5] if shows else [0, 4])
        assert torch.cat(list(film(job))).shape[0] == frames


def test_other_frames_after_a_resume_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    running = Runner(toy_job(60), RunDir(tmp_path), clock=lambda: 0.0).run()  # no checkpoint on the way
    for _ in range(14):
        next(running)
    state, stop = checkpoint.load(tmp_path), len(read_trace(tmp_path / "trace.jsonl"))
    del state
    kept = [(tmp_path / name).read_bytes() for name in ("state.json", "state.safetensors")]
    running.close()
    for name, content in zip(("state.json", "state.safetensors"), kept, strict=True):
        (tmp_path / name).write_bytes(content)  # as after a kill: the checkpoint lags behind the trace
    changed = toy_job(60)
    changed = replace(changed, codec=type("Other", (), {"decode": lambda _, z, cache=None: _shifted(z, cache)})())
    with caplog.at_level(logging.WARNING, "longtake"):
        make(tmp_path, changed)
    said = [record.getMessage() for record in caplog.records if "bit-exact" in record.getMessage()]
    assert len(said) == 1 and "from frame 0" in said[0] and stop > 1


def _shifted(z: Tensor, cache: Any) -> tuple[Tensor, Any]:
    from tests.toy_run import ToyCodec

    frames, cache = ToyCodec().decode(z, cache)
    return frames + 1, cache


def test_disk_and_state_do_not_grow(tmp_path: Path) -> None:
    sizes = []
    running = Runner(toy_job(None), RunDir(tmp_path), save_seconds=1e9).run()
    for number, _ in enumerate(running):
        if number in (40, 240):
            checkpoint.save(_position(running), tmp_path, "probe")
            sizes.append((tmp_path / "probe.safetensors").stat().st_size)
        if number == 240:
            break
    running.close()
    assert abs(sizes[1] - sizes[0]) <= FORM.segment * 32 * 48 * 3


def _position(running: Any) -> Any:
    return running.gi_frame.f_locals["self"].position
