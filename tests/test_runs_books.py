"""What runs say of themselves holds: seconds, scores, frames in the film, sizes, corrections."""

# ruff: noqa: F811 (fixtures come from another file of tests)

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from longtake.apps.moments import brought
from longtake.core.engine import Engine
from longtake.errors import UsageError
from longtake.output import checkpoint
from longtake.output.boxes import frames_in
from longtake.output.directory import RunDir
from longtake.output.disk import DiskFullError
from longtake.output.encoding import Format
from longtake.output.run import Runner
from longtake.output.trace import Trace, read_trace
from longtake.output.video import read_frames
from tests.test_cli import cli, one_thread, tiny  # noqa: F401
from tests.test_cli import make as film_of
from tests.toy_run import FORM, make, toy_job

# -- seconds ---------------------------------------------------------------------------------------------------------


class Watch:
    """A clock that stands still but while the network works: a second for each of its calls."""

    def __init__(self, engine: Engine) -> None:
        self.calls, network = 0, engine.denoiser

        class Timed:
            def __getattr__(self, name: str) -> Any:
                return getattr(network, name)

            def __call__(inner, x: Any, levels: Any, cond: Any) -> Any:  # noqa: N805
                self.calls += len(x)
                return network(x, levels, cond)

        engine.denoiser = Timed()  # type: ignore[assignment]

    def __call__(self) -> float:
        return float(self.calls)


def _timed(folder: Path, frames: int, plain: bool, ticks: int | None = None) -> None:
    job = toy_job(frames, plain)
    watch = Watch(job.engine)
    if ticks is None:
        make(folder, job, clock=watch)
        return
    folder.mkdir()
    running = Runner(job, RunDir(folder), clock=watch).run()
    for _ in range(ticks):
        next(running)
    running.close()


def _books(folder: Path) -> tuple[list[tuple[float, int]], dict[str, Any]]:
    lines = [(line["seconds"], line["nfe"]) for line in read_trace(folder / "trace.jsonl")]
    return lines, json.loads((folder / "FINISHED").read_text())


@pytest.mark.parametrize(("short", "more", "plain"), [(6, 13, True), (41, 90, False)])
def test_a_longer_run_has_the_seconds_of_all_its_calls(tmp_path: Path, short: int, more: int, plain: bool) -> None:
    """The clip that was held at the end was made in the first run's time; that time stays in the books."""
    _timed(tmp_path / "long", more, plain)
    _timed(tmp_path / "short", short, plain)
    before = _books(tmp_path / "short")[1]["seconds"]
    (tmp_path / "short" / "FINISHED").unlink()
    _timed(tmp_path / "short", more, plain)
    lines, end = _books(tmp_path / "short")
    assert all(seconds == nfe for seconds, nfe in lines) and end["seconds"] == end["nfe"] >= before > 0
    assert (lines, end) == _books(tmp_path / "long")


@pytest.mark.parametrize("ticks", [1, 4, 20])
def test_a_run_that_was_stopped_has_the_seconds_of_all_its_calls(tmp_path: Path, ticks: int) -> None:
    """Also those of ticks that let nothing out yet."""
    _timed(tmp_path / "whole", 60, False)
    _timed(tmp_path / "run", 60, False, ticks)
    _timed(tmp_path / "run", 60, False)
    assert _books(tmp_path / "run") == _books(tmp_path / "whole")
    assert _books(tmp_path / "run")[1]["seconds"] == _books(tmp_path / "run")[1]["nfe"] > 0


# -- branches and takes ----------------------------------------------------------------------------------------------


def test_a_branch_is_its_parent_up_to_its_moment(tmp_path: Path) -> None:
    """Gone back to latent 25 of 34, and on without any change: the same lines and the same film."""
    make(tmp_path / "run", toy_job(130))
    (tmp_path / "take").mkdir()
    position = brought(toy_job(130), RunDir(tmp_path / "run"), RunDir(tmp_path / "take"), 25, None)
    whole, kept = read_trace(tmp_path / "run" / "trace.jsonl"), read_trace(tmp_path / "take" / "trace.jsonl")
    assert position.released == 25 == len(kept)
    assert [line["sha256"] for line in kept] == [line["sha256"] for line in whole[:25]]
    assert replace(position, state=None).frames == whole[25]["frames"][0]
    make(tmp_path / "take", toy_job(130))
    assert (tmp_path / "take" / "video.mp4").read_bytes() == (tmp_path / "run" / "video.mp4").read_bytes()


def test_takes_that_were_stopped_get_their_scores(
    cli: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores that they would have had; a branch that nobody asked to be judged gets none."""
    assert film_of(cli, tiny, "--method", "chunk", "--frames", 21, "--seed", 5, "--out", "run").code == 0
    shutil.copytree("run", "again")
    wanted = [row["score"] for row in cli("takes", "run", "--num", 3, "--seconds", 1, "--format", "json").json]
    assert None not in wanted and len(set(wanted)) == 3
    add = Trace.add

    def stops(self: Trace, line: dict[str, Any]) -> bool:
        if self.path.parent.name == "2":
            raise KeyboardInterrupt
        return add(self, line)

    with monkeypatch.context() as patch:
        patch.setattr(Trace, "add", stops)
        assert cli("takes", "again", "--num", 3, "--seconds", 1).code == 130
    listed = cli("takes", "again", "--format", "json").json
    assert [row["score"] for row in listed] == [wanted[0], None, None]
    first = tmp_path / "again" / "takes" / "1" / "run.json"
    content = json.loads(first.read_text())
    first.write_text(json.dumps({**content, "score": None}))  # as after a kill between its end and its score
    assert all(cli("resume", row["run"]).code == 0 for row in listed)
    assert [row["score"] for row in cli("takes", "again", "--format", "json").json] == wanted
    assert cli("reroll", "again", "--from", "1s", "--seed", 3).code == 0
    assert cli("resume", "again/takes/4").code == 0
    assert cli("takes", "again", "--format", "json").json[3]["score"] is None


# -- what the film holds ---------------------------------------------------------------------------------------------


def test_frames_are_counted_in_whole_fragments(tmp_path: Path) -> None:
    make(tmp_path / "run", toy_job(90))
    film, cut = tmp_path / "run" / "video.mp4", tmp_path / "cut.mp4"
    data = film.read_bytes()
    assert frames_in(film) == 90 and frames_in(cut) == 0
    for length in range(0, len(data), len(data) // 12):
        cut.write_bytes(data[:length])
        try:
            seen = sum(1 for _ in read_frames(cut))
        except UsageError:
            seen = 0
        assert seen // FORM.segment * FORM.segment == frames_in(cut), length


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_full_disk_reports_the_frames_that_can_be_seen(
    cli: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """No room from the nth checkpoint on: what waited for it is in no file."""
    save, calls = checkpoint.save, []

    def full(value: Any, folder: Path, name: str = "state") -> None:
        calls.append(value)
        if len(calls) >= nth:
            raise DiskFullError(folder / f"{name}.safetensors", 1000)
        save(value, folder, name)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", full)
        said = film_of(cli, tiny, "--method", "chunk", "--frames", 40, "--out", "run", "--format", "json")
    assert said.code == 1 and "make room" in said.err
    assert said.json["frames"] == sum(1 for _ in read_frames("run/video.mp4")) == (24 if nth == 3 else 0)
    assert nth < 3 or calls[-1].frames > 24  # it had made more
    assert cli("resume", "run", "--format", "json").json["frames"] == 40


def test_a_size_that_no_video_has_is_refused() -> None:
    import av

    with pytest.raises(UsageError, match="16256x16256 is more than a video can hold"):
        replace(FORM, width=16256, height=16256)
    assert Format(16254, 16254, FORM.fps)
    coder: Any = av.CodecContext.create("libx264", "w")
    coder.width, coder.height, coder.pix_fmt, coder.time_base = 16256, 16256, "yuv420p", 1 / FORM.fps
    with pytest.raises(ValueError):  # what libav says of the same size
        coder.open()


# -- reflection ------------------------------------------------------------------------------------------------------


def test_a_run_says_how_often_it_was_corrected(cli: Any, tiny: Path) -> None:
    """On stderr and in `show`, against a count over the raw lines of the trace."""
    said = film_of(cli, tiny, "--method", "fifo", "--search", "reflect", "--set", "reflect.threshold=-1",
                   "--frames", 61, "--seed", 5, "--out", "run", "--format", "json")  # fmt: skip
    assert said.code == 0, said.err
    looks: dict[int, list[Any]] = defaultdict(list)
    for line in Path("run/trace.jsonl").read_text().splitlines():
        for one in json.loads(line).get("candidates", []):
            looks[one["tick"]].append(one)
    tried = [found for found in looks.values() if len(found) > 1]
    corrected = sum(any(one["verdict"] == "kept" and one["number"] for one in found) for found in tried)
    assert len(looks) > 3 and 0 < corrected < len(tried)
    words = f"looked {len(looks)} times, tried {len(tried)}, corrected {corrected}: "
    words += f"R_corr {corrected / len(looks):.3f}, R_succ {corrected / len(tried):.3f}"
    assert words in said.err and "R_corr" not in said.out and words in cli("show", "run").out
    told = cli("show", "run", "--format", "json").json["reflect"]
    assert told["tried"] == len(tried) and told["R_succ"] == pytest.approx(corrected / len(tried), abs=1e-6)
    assert film_of(cli, tiny, "--method", "fifo", "--frames", 9, "--out", "plain").code == 0
    assert cli("show", "plain", "--format", "json").json["reflect"] is None
    assert "R_corr" not in cli("show", "plain").out
