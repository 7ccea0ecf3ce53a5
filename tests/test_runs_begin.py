"""How runs begin: killed before there is a state, beside another process, in batches, from a moment of another."""

# ruff: noqa: F811 (fixtures come from another file of tests)

from __future__ import annotations

import json
import shutil
import signal
import wave
from pathlib import Path
from typing import Any

import pytest

from longtake.apps import batching
from longtake.apps import session as sessions
from longtake.apps.cli import run as told
from longtake.core.rollout import Candidate, Info
from longtake.errors import UsageError
from longtake.output.directory import RunDir, cleared
from longtake.output.disk import DiskFullError
from longtake.output.trace import judgements, read_trace
from longtake.output.video import probe
from tests.test_cli import cli, make, one_thread, tiny  # noqa: F401


class Killed(BaseException):
    """What ends a process without another word."""


@pytest.fixture
def sound(tmp_path: Path) -> str:
    with wave.open(str(tmp_path / "tone.wav"), "w") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(b"\x10\x27" * 8000)
    return "tone.wav"


def _jobs(path: Path, tiny: Path, *jobs: dict[str, Any]) -> None:
    base = {"model": str(tiny), "method": "plain", "steps": 2, "frames": 5, "seed": 1}
    path.write_text("".join(json.dumps({**base, **job}) + "\n" for job in jobs))


def _dies(patch: pytest.MonkeyPatch, where: Any, name: str, after: bool) -> None:
    real = getattr(where, name)

    def dying(*arguments: Any, **more: Any) -> Any:
        if after:
            real(*arguments, **more)
        raise Killed

    patch.setattr(where, name, dying)


@pytest.mark.parametrize(("where", "name", "after"), [(sessions, "begin", True), (RunDir, "describe", False)])
def test_a_batch_killed_as_a_run_begins_goes_on(
    cli: Any,
    tiny: Path,
    tmp_path: Path,
    sound: str,
    monkeypatch: pytest.MonkeyPatch,
    where: Any,
    name: str,
    after: bool,
) -> None:
    """Between the folder and the manifest, and between the sound in the folder and its run.json."""
    _jobs(tmp_path / "jobs.jsonl", tiny, {"prompt": "a", "out": "one", "audio": sound}, {"prompt": "b", "out": "two"})
    with monkeypatch.context() as patch:
        _dies(patch, where, name, after)
        with pytest.raises(Killed):
            batching.run_batch(tmp_path / "jobs.jsonl", batching.Console(quiet=True))
    assert (tmp_path / "one").exists() and not (tmp_path / "two").exists()
    said = cli("batch", "jobs.jsonl", "--format", "json")
    assert said.code == 0 and said.json["done"] == 2, said.err
    assert [entry["run"] for entry in said.json["jobs"]] == ["one", "two"]
    assert {path.name for path in tmp_path.iterdir()} & {"one-2", "runs"} == set()


def test_what_a_kill_left_is_not_taken_for_a_run(cli: Any, tiny: Path, tmp_path: Path, sound: str) -> None:
    """A folder without run.json begins anew, and the sound that lies in it is not heard; anything else is kept."""
    (tmp_path / "left").mkdir()
    (tmp_path / "left" / "audio.m4a").write_bytes(b"half a song")
    common = ("--method", "plain", "--steps", 2, "--frames", 5)
    assert make(cli, tiny, *common, "--out", "left").code == 0 and not (tmp_path / "left" / "audio.m4a").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    said = make(cli, tiny, *common, "--out", "mine")
    assert said.code == 2 and "is not empty" in said.err and "resume" not in said.err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_of_two_processes_with_one_folder_the_second_is_refused(
    cli: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both found it free when they were asked; the first has written run.json while the second loaded its model."""
    real = sessions.make_directory

    def late(path: Path, fixed: bool) -> RunDir:
        folder = real(path, fixed)
        (folder.path / "run.json").write_text("{}")
        return folder

    monkeypatch.setattr(sessions, "make_directory", late)
    said = make(cli, tiny, "--method", "plain", "--steps", 2, "--frames", 5, "--out", "one")
    assert said.code == 2 and "holds a run already" in said.err and (tmp_path / "one/run.json").read_text() == "{}"
    (tmp_path / "two").mkdir()
    with RunDir(tmp_path / "two").locked():
        monkeypatch.setattr(sessions, "make_directory", real)
        said = make(cli, tiny, "--method", "plain", "--steps", 2, "--frames", 5, "--out", "two")
    assert said.code == 2 and "is in use by another longtake" in said.err
    with pytest.raises(UsageError, match="holds a run already"):
        cleared(RunDir(tmp_path / "one"))


def test_a_batch_goes_on_without_the_file_that_a_run_began_with(
    cli: Any, tiny: Path, tmp_path: Path, sound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _jobs(tmp_path / "jobs.jsonl", tiny, {"prompt": "a", "audio": sound}, {"prompt": "b"})
    with monkeypatch.context() as patch:
        patch.setattr(batching, "perform", lambda *_: signal.default_int_handler(2, None))
        assert cli("batch", "jobs.jsonl").code == 130
    (tmp_path / sound).unlink()
    said = cli("batch", "jobs.jsonl", "--format", "json")
    assert said.code == 0 and said.json["done"] == 2, said.err
    assert (Path(said.json["jobs"][0]["run"]) / "audio.m4a").exists()
    _jobs(tmp_path / "new.jsonl", tiny, {"prompt": "a", "audio": sound})
    assert cli("batch", "new.jsonl").code == 2  # a run that was not begun does need it


def test_a_batch_stops_where_the_disk_is_full(
    cli: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _jobs(tmp_path / "jobs.jsonl", tiny, {"prompt": "a"}, {"prompt": "b"})
    with monkeypatch.context() as patch:
        patch.setattr(sessions, "begin", lambda *_: (_ for _ in ()).throw(DiskFullError(tmp_path / "run.json", 10**15)))
        said = cli("batch", "jobs.jsonl", "-q")
    assert said.code == 1 and said.out == "" and said.err.startswith("longtake: no room for run.json")
    assert len(said.err.splitlines()) == 1
    told = json.loads((tmp_path / "jobs.jsonl.manifest.json").read_text())
    assert [entry["status"] for entry in told["jobs"]] == ["waiting", "waiting"]
    assert cli("batch", "jobs.jsonl", "-q").code == 0


def test_a_job_may_leave_its_settings_out_of_its_video(cli: Any, tiny: Path, tmp_path: Path) -> None:
    _jobs(
        tmp_path / "jobs.jsonl", tiny, {"prompt": "a", "no-embed": True, "out": "secret"}, {"prompt": "a", "out": "o"}
    )
    assert cli("batch", "jobs.jsonl").code == 0
    assert probe("secret/video.mp4").comment is None and "longtake" in (probe("o/video.mp4").comment or "")
    _jobs(tmp_path / "jobs.jsonl", tiny, {"prompt": "a", "no-embed": "yes"})
    said = cli("batch", "jobs.jsonl")
    assert said.code == 2 and "no_embed" in said.err and len(said.err.splitlines()) == 1


def test_a_search_that_begins_later_names_the_latents_of_the_run(cli: Any, tiny: Path) -> None:
    """`reroll --search` counts from 0 again; the trace does not. And it says what it is guided by."""
    one = Candidate(1, "a", "0", 0, "own", 1.0, "kept", (0, 3))
    assert judgements(Info(candidates=(one,)), 7)["candidates"][0]["rows"] == [7, 10]
    assert make(cli, tiny, "--frames", 41, "--method", "chunk", "--out", "run").code == 0
    said = cli("reroll", "run", "--from", "2s", "--search", "best-of-n", "--seed", 1, "--format", "json")
    assert said.code == 0 and "reward latent-cosine" in said.err
    lines = [line for line in read_trace(Path(said.json["run"]) / "trace.jsonl") if "candidates" in line]
    assert lines and lines[0]["latents"][0] > 0
    for line in lines:
        assert all(judged["rows"] == line["latents"] for judged in line["candidates"])


def test_a_run_whose_sound_is_gone_is_not_made_mute(cli: Any, tiny: Path, tmp_path: Path, sound: str) -> None:
    common = ("--method", "fifo", "--frames", 30, "--audio", sound)
    assert make(cli, tiny, *common, "--out", "run").code == 0
    for number, damage in enumerate((Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:900]))):
        folder = Path(shutil.copytree("run", f"damaged{number}"))
        damage(folder / "audio.m4a")
        before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        said = cli("extend", folder, "--frames", 4)
        assert said.code == 2 and "is gone or damaged" in said.err and len(said.err.splitlines()) == 1
        (folder / "FINISHED").unlink()
        said = cli("resume", folder, "-q")
        assert said.code == 2 and "is gone or damaged" in said.err and len(said.err.splitlines()) == 1
        before.pop("FINISHED")
        assert before == {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        assert cli("show", folder).code == 0
    assert cli("extend", "run", "--frames", 4).code == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_that_an_import_swallows_is_still_one(how: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Extension modules that are interrupted while they load say that they cannot be loaded."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def swallowed() -> None:
        try:
            signal.raise_signal(how)
        except KeyboardInterrupt:
            raise ImportError("cannot load module more than once per process") from None

    def broken() -> None:
        raise ImportError("cannot load module more than once per process")

    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        assert told(swallowed) == 130 and capsys.readouterr().err == ""
        assert told(broken) == 1 and "ImportError" in capsys.readouterr().err
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])
