"""Directing runs: extend, reroll, takes, sound and stories, by the commands themselves on a tiny random network."""

# ruff: noqa: F811 (fixtures come from another file of tests)

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import wave
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from longtake.apps.cli import main
from longtake.output import takes
from longtake.output.directory import RunDir
from longtake.output.takes import JOURNAL, use
from longtake.output.trace import read_trace
from longtake.output.video import probe, read_frames
from tests.stopping import stopped
from tests.test_cli import PROMPT, Said, cli, make, one_thread, tiny  # noqa: F401

OTHER = "a cat sits on a roof at night"


def hashes(folder: Path | str) -> list[str]:
    return [line["sha256"] for line in read_trace(Path(folder) / "trace.jsonl")]


def spans(folder: Path | str) -> list[Any]:
    return [(line["latents"], line["frames"]) for line in read_trace(Path(folder) / "trace.jsonl")]


def count(folder: Path | str) -> int:
    return sum(1 for _ in read_frames(Path(folder) / "video.mp4"))


def _run(folder: Path, tiny: Path, frames: int, method: str) -> Path:
    arguments = ["generate", PROMPT, "--model", str(tiny), "--seed", "5", "--frames", str(frames), "--out", str(folder)]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--method", method, "-q"])
    assert not stop.value.code
    return folder


@pytest.fixture(scope="module", params=["fifo", "chunk"])
def run(request: Any, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """81 frames and the same made at once to 117, by a method that prunes its end and one that overruns it."""
    folder = tmp_path_factory.mktemp(request.param)
    _run(folder / "long", tiny, 117, request.param)
    return _run(folder / "run", tiny, 81, request.param)


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def queue(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """81 frames by fifo, for what does not depend on the method."""
    return _run(tmp_path_factory.mktemp("queue") / "run", tiny, 81, "fifo")


@pytest.fixture
def queued(queue: Path, tmp_path: Path) -> Path:
    shutil.copytree(queue, tmp_path / "run")
    return tmp_path / "run"


def _unchanged(folder: Path, before: dict[str, bytes]) -> bool:
    return all((folder / name).read_bytes() == content for name, content in before.items())


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != ".lock"}


# -- extend ----------------------------------------------------------------------------------------------------------


def test_extended_is_as_if_asked_for_at_once(cli: Any, run: Path, copy: Path) -> None:
    said = cli("extend", "run", "--frames", 36, "--format", "json")
    assert said.code == 0 and said.json["frames"] == 117 == count(copy)
    long = run.parent / "long"
    assert hashes(copy) == hashes(long) and spans(copy) == spans(long)
    assert (copy / "video.mp4").read_bytes() == (long / "video.mp4").read_bytes()
    ends = [json.loads((folder / "FINISHED").read_text()) for folder in (copy, long)]
    assert ends[0]["sha256"] == ends[1]["sha256"] and ends[0]["nfe"] == ends[1]["nfe"]


def test_extended_under_another_prompt(cli: Any, run: Path, copy: Path) -> None:
    said = cli("extend", "run", "--frames", 48, OTHER, "--format", "json")
    assert said.code == 0 and said.json["frames"] == 129 and "seen from" in said.err
    kept = len([span for span in spans(run) if span[0][1] <= 21])  # the film ends with latent 20
    assert hashes(copy)[:kept] == hashes(run)[:kept] and kept >= 9
    plain = cli("extend", shutil.copytree(run, "plain"), "--frames", 48)
    assert plain.code == 0
    alike = [left == right for left, right in zip(hashes(copy), hashes("plain"), strict=True)]
    assert all(alike[:kept]) and not any(alike[-3:])
    turn = next(line for line in read_trace(copy / "trace.jsonl") if line["prompt"] == OTHER)
    second = float(said.err.split("seen from ")[1].split()[0])
    assert abs(turn["frames"][0] / 12 - second) < 0.1  # what is said is what the trace tells
    assert "longtake resume" not in said.err


@pytest.mark.slow
def test_interrupted_after_a_turn_and_resumed(cli: Any, tiny: Path, tmp_path: Path) -> None:
    whole = _run(tmp_path / "whole", tiny, 81, "fifo")
    again = Path(shutil.copytree(whole, "again"))
    assert cli("extend", "whole", "--frames", 48, OTHER).code == 0
    said = stopped(signal.SIGINT, len(hashes(whole)) - 3, again, ["extend", "again", "--frames", "48", OTHER])
    assert said.returncode == 130, said.stderr
    assert cli("resume", "again").code == 0 and hashes(again) == hashes(whole)
    assert (again / "video.mp4").read_bytes() == (whole / "video.mp4").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["extend", "run", "--frames", "0"], "1 or more"),
        (["extend", "run"], "--frames"),
        (["extend", "run", "--frames", "9", " "], "empty"),
        (["extend", "run", "--frames", "99999999"], "24 hours"),
        (["extend", "nowhere", "--frames", "9"], "not a run directory"),
        (["reroll", "run", "--from", "1h"], "12s"),
        (["reroll", "run", "--from", "-3s"], "12s"),
        (["reroll", "run", "--from", "99s"], "6.8 s"),
        (["reroll", "run", "--from", "3s", "--seed", "-1"], "2^63"),
        (["reroll", "run", "--from", "3s", "--method", "fifi"], "did you mean"),
        (["reroll", "run", "--from", "3s", "--method", "plain"], "known length"),
        (["reroll", "run", "--from", "3s", "--prompt", ""], "empty"),
        (["reroll", "run"], "--from"),
        (["takes", "run", "--num", "2"], "both"),
        (["takes", "run", "--num", "0", "--seconds", "1"], "1 to 100"),
        (["takes", "run", "--num", "2", "--seconds", "nan"], "above 0"),
        (["takes", "run", "--num", "2", "--seconds", "1", "--use", "1"], "one or the other"),
        (["takes", "run", "--use", "7"], "no take 7"),
        (["takes", "run", "--use", "../../x"], "a number or best"),
        (["takes", "run", "--use", "best"], "has a score"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_mistakes_change_nothing(cli: Any, queued: Path, arguments: list[str], words: str) -> None:
    before = _content(queued)
    said: Said = cli(*arguments)
    assert said.code == 2 and words in said.err and said.out == ""
    assert len([line for line in said.err.splitlines() if line.startswith("longtake:")]) == 1
    assert "Traceback" not in said.err
    assert _content(queued) == before and not (queued / "takes").exists()


# -- reroll ----------------------------------------------------------------------------------------------------------


def test_another_seed_from_a_moment(cli: Any, run: Path, copy: Path) -> None:
    before = _content(copy)
    said = cli("reroll", "run", "--from", "3s", "--seed", 9, "--format", "json")
    assert said.code == 0 and said.json["run"].endswith("1") and said.json["frames"] == 81
    assert _unchanged(copy, before)  # the run itself stays
    take = copy / "takes" / "1"
    kept = [number for number, span in enumerate(spans(run)) if span[1][1] <= 36]
    assert kept and hashes(take)[: len(kept)] == hashes(run)[: len(kept)]
    rest = [left == right for left, right in zip(hashes(take), hashes(run), strict=True)][len(kept) :]
    assert rest and not any(rest)  # every latent from there on is another
    assert count(take) == 81 and spans(take) == spans(run)
    first = np.stack(list(read_frames(take / "video.mp4")))[: spans(run)[len(kept) - 1][1][1]]
    assert (first == np.stack(list(read_frames(run / "video.mp4")))[: len(first)]).all()
    again = cli("reroll", "run", "--from", "3s", "--seed", 9, "--format", "json")
    assert hashes(again.json["run"]) == hashes(take)
    other = cli("reroll", "run", "--from", "3s", "--seed", 10, "--format", "json")
    assert hashes(other.json["run"])[-1] != hashes(take)[-1]
    settings = json.loads((take / "run.json").read_text())
    assert settings["seed"] == 5 and settings["turns"][0]["seed"] == 9 and settings["turns"][0]["key"] > 0
    assert "not_bit_exact" not in settings


def test_only_the_words_change(cli: Any, queue: Path, queued: Path) -> None:
    same = cli("reroll", "run", "--from", "3s", "--prompt", PROMPT, "--format", "json")
    assert hashes(same.json["run"]) == hashes(queue)  # the noise stays: the same words make the same film
    said = cli("reroll", "run", "--from", "3s", "--prompt", OTHER, "--format", "json")
    kept = len([span for span in spans(queue) if span[1][1] <= 36])
    assert hashes(said.json["run"])[:kept] == hashes(queue)[:kept]
    assert hashes(said.json["run"])[-1] != hashes(queue)[-1] and "seen from" in said.err


def test_another_method_from_a_moment(cli: Any, run: Path, copy: Path) -> None:
    method = "fifo" if "chunk" in str(run) else "chunk"
    said = cli("reroll", "run", "--from", "3s", "--method", method, "--seed", 1, "--format", "json")
    assert said.code == 0 and said.json["method"] == method and said.json["frames"] == 81 == count(said.json["run"])
    take = Path(said.json["run"])
    kept = len([span for span in spans(run) if span[1][1] <= 36])
    assert hashes(take)[:kept] == hashes(run)[:kept]
    assert [a[0][1] for a in spans(take)][:-1] == [a[0][0] for a in spans(take)][1:]  # no latent twice, none left out
    # it can be stopped, resumed, extended and rerolled like any run
    longer = shutil.copytree(take, "longer")
    assert cli("extend", "longer", "--frames", 20).code == 0 and count(longer) == 101
    assert hashes(longer)[: len(hashes(take)) - 1] == hashes(take)[:-1]
    deeper = cli("reroll", take, "--from", "5s", "--seed", 3, "--format", "json")
    assert deeper.code == 0 and deeper.json["frames"] == 81
    assert "snapshots are gone" in cli("reroll", take, "--from", "0.5s", "--seed", 3).err


@pytest.mark.slow
def test_a_reroll_is_killed_and_goes_on(cli: Any, tiny: Path, tmp_path: Path) -> None:
    copy = _run(tmp_path / "run", tiny, 81, "fifo")
    whole = cli("reroll", "run", "--from", "2s", "--seed", 9, "--format", "json").json["run"]
    take = copy / "takes" / "2"
    said = stopped(signal.SIGKILL, 10, take, ["reroll", "run", "--from", "2s", "--seed", "9"])
    assert said.returncode == -signal.SIGKILL and len(hashes(take)) == 10, said.stderr
    assert cli("resume", take).code == 0 and hashes(take) == hashes(whole)
    assert (take / "video.mp4").read_bytes() == Path(whole, "video.mp4").read_bytes()


# -- takes -----------------------------------------------------------------------------------------------------------


def test_takes_are_made_listed_and_used(cli: Any, run: Path, copy: Path) -> None:
    said = cli("takes", "run", "--num", 3, "--seconds", 2, "--format", "json")
    assert said.code == 0 and [row["take"] for row in said.json] == [1, 2, 3]
    assert all(row["frames"] == 81 + 24 and row["finished"] and row["score"] is not None for row in said.json)
    assert hashes(copy) == hashes(run)
    one, two, three = (hashes(row["run"]) for row in said.json)
    assert one[-1] != two[-1] != three[-1] != one[-1]
    # the first keeps the run's own noise: it is what extend makes
    extended = shutil.copytree(run, "extended")
    assert cli("extend", "extended", "--frames", 24).code == 0
    assert hashes(extended) == one
    kept = len([span for span in spans(run) if span[0][1] <= 21])
    assert one[:kept] == two[:kept] == hashes(run)[:kept]
    before = _content(copy)
    used = cli("takes", "run", "--use", 2, "--format", "json")
    assert used.code == 0 and [row["take"] for row in used.json] == [1, 3, 4]
    assert hashes(copy) == two and count(copy) == 105 and not (copy / JOURNAL).exists()
    old = _content(copy / "takes" / "4")
    assert all(old[name] == content for name, content in before.items())
    assert cli("extend", "run", "--frames", 12).code == 0 and hashes(copy)[: len(two) - 1] == two[:-1]
    assert _content(copy / "takes" / "4") == old  # what was linked is not written to
    best = max(used.json, key=lambda row: row["score"] or -9)
    assert f"take {best['take']} is the run" in cli("takes", "run", "--use", "best").err


@pytest.mark.parametrize("nth", range(0, 24, 4))
def test_a_change_of_places_that_is_cut_off_is_finished(
    cli: Any,
    queue: Path,
    queued: Path,
    monkeypatch: pytest.MonkeyPatch,
    nth: int,
) -> None:
    cli("takes", "run", "--num", 1, "--seconds", 1)
    new, old = hashes(queued / "takes" / "1"), hashes(queue)
    done = []

    def dying(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            assert (queued / "video.mp4").exists()  # at no moment is there no film
            if len(done) == nth:
                raise KeyboardInterrupt
            done.append(1)
            return function(*arguments)

        return call

    with monkeypatch.context() as patch:
        for name in ("replace", "link"):
            patch.setattr(takes.os, name, dying(getattr(os, name)))
        try:
            use(RunDir(queued), 1)
        except KeyboardInterrupt:
            assert nth < 60
    listed = cli("takes", "run", "--format", "json")
    assert listed.code == 0 and not (queued / JOURNAL).exists()
    if nth == 0:  # cut off before the journal: nothing has happened
        assert hashes(queued) == old and [row["take"] for row in listed.json] == [1]
    else:
        assert hashes(queued) == new and [row["take"] for row in listed.json] == [2]
        assert hashes(queued / "takes" / "2") == old


@pytest.mark.parametrize(
    "journal",
    [{}, {"take": "../..", "kept": 2, "keep": [], "move": [], "drop": []}, [1], "x",
     {"take": 1, "kept": 2, "keep": [], "move": ["../../victim"], "drop": []},
     {"take": 1, "kept": 2, "keep": [], "move": [], "drop": ["/etc/passwd"]}],
)  # fmt: skip
def test_a_forged_journal_moves_nothing(cli: Any, queued: Path, tmp_path: Path, journal: Any) -> None:
    (tmp_path / "victim").write_text("here")
    (queued / JOURNAL).write_text(json.dumps(journal))
    said = cli("resume", "run")
    assert said.code == 2 and len(said.err.splitlines()) == 1 and (tmp_path / "victim").read_text() == "here"


# -- sound and stories -----------------------------------------------------------------------------------------------


def _tone(path: Path, seconds: float) -> None:
    with wave.open(str(path), "w") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(22050)
        tone = np.sin(2 * np.pi * 440 * np.arange(int(22050 * seconds)) / 22050)
        tone[:11025] = 0  # half a second of silence, then the tone
        file.writeframes((tone * 20000).astype("<i2").tobytes())


def _heard(path: Path) -> tuple[np.ndarray, float]:
    with av.open(str(path)) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    return sound, float(np.argmax(np.abs(sound) > 0.1)) / 48000


@pytest.mark.parametrize("seconds", [3.0, pytest.param(30.0, marks=pytest.mark.slow)])
def test_sound_goes_along(cli: Any, tiny: Path, tmp_path: Path, seconds: float) -> None:
    _tone(tmp_path / "tone.wav", seconds)
    arguments = ("--method", "fifo", "--audio", "tone.wav")
    made = make(cli, tiny, "--frames", 70, "--out", "sung", *arguments)
    assert made.code == 0, made.err
    make(cli, tiny, "--frames", 106, "--out", "long", *arguments)
    make(cli, tiny, "--frames", 70, "--out", "mute", "--method", "fifo")
    assert hashes("sung") == hashes("mute") and count("sung") == 70
    sound, begins = _heard(tmp_path / "sung" / "video.mp4")
    assert abs(begins - 0.5) < 0.002
    assert abs(len(sound) / 48000 - min(seconds, 70 / 12)) < 0.05
    (tmp_path / "tone.wav").unlink()  # it is kept in the run
    assert cli("extend", "sung", "--frames", 36).code == 0
    assert (tmp_path / "sung" / "video.mp4").read_bytes() == (tmp_path / "long" / "video.mp4").read_bytes()
    reroll = cli("reroll", "sung", "--from", "4s", "--seed", 2, "--format", "json")
    carried, _ = _heard(Path(reroll.json["video"]))
    whole, _ = _heard(tmp_path / "long" / "video.mp4")
    assert len(carried) == len(whole) and np.array_equal(carried, whole)


def test_sound_that_is_none(cli: Any, tiny: Path, queued: Path, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("la la la")
    for name, words in (
        ("text.wav", "no file with sound"),
        ("run/video.mp4", "no sound track"),
        ("gone.wav", "no such"),
    ):
        said = make(cli, tiny, "--frames", 9, "--audio", name, "--out", "new")
        assert said.code == 2 and words in said.err and not (tmp_path / "new").exists()


def test_a_video_tells_how_it_was_made(cli: Any, tiny: Path, queue: Path, queued: Path) -> None:
    story = json.loads(probe(queued / "video.mp4").comment or "")["longtake"]
    assert story["prompt"] == PROMPT and story["seed"] == 5 and story["frames"] == 81
    assert not [value for value in story.values() if isinstance(value, str) and value.startswith("/")]
    shutil.copy(queued / "video.mp4", "found.mp4")
    said = cli("generate", "--from", "found.mp4", "--model", tiny, "--out", "again", "--format", "json")
    assert said.code == 0 and hashes("again") == hashes(queue) and "seed 5" in said.err
    said = cli(
        "generate", OTHER, "--from", "found.mp4", "--model", tiny, "--frames", 9, "--seed", 6, "--format", "json"
    )
    assert said.json["frames"] == 9 and said.json["seed"] == 6 and "seed 6" in said.err
    assert json.loads(Path(said.json["run"], "run.json").read_text())["prompt"] == OTHER
    assert "--model" in cli("generate", "--from", "found.mp4", "--dry-run").err  # a folder is of one machine alone
    make(cli, tiny, "--frames", 5, "--method", "plain", "--steps", 2, "--out", "secret", "--no-embed")
    assert probe(Path("secret/video.mp4")).comment is None
    said = cli("generate", "--from", "secret/video.mp4")
    assert said.code == 2 and "no settings of longtake" in said.err
    assert cli("generate", "--from", "missing.mp4").code == 2


def test_other_weights_and_other_versions(cli: Any, tiny: Path, queued: Path, tmp_path: Path) -> None:
    content = json.loads((queued / "run.json").read_text())
    (queued / "FINISHED").unlink()
    video = (queued / "video.mp4").read_bytes()
    (queued / "run.json").write_text(json.dumps({**content, "model_hash": "0" * 64}))
    said = cli("resume", "run")
    assert said.code == 2 and "weights" in said.err and (queued / "video.mp4").read_bytes() == video
    (queued / "run.json").write_text(json.dumps({**content, "versions": {**content["versions"], "torch": "1.0"}}))
    said = cli("resume", "run")
    assert said.code == 0 and "not bit-exact from frame" in said.err and "torch 1.0 ->" in said.err
    noted = json.loads((queued / "run.json").read_text())["not_bit_exact"]
    assert len(noted) == 1 and noted[0]["from_frame"] > 0 and "torch" in noted[0]["why"][0]


def test_the_newest_frame_can_be_watched(queue: Path) -> None:
    from PIL import Image

    *_, last = read_frames(queue / "video.mp4")
    shown = np.asarray(Image.open(queue / "latest.webp").convert("RGB")).astype(int)
    assert shown.shape == last.shape and np.abs(shown - last.astype(int)).mean() < 12


def test_a_stretch_too_short_for_the_new_words_is_told_when_they_are_alone(cli: Any, queue: Path, queued: Path) -> None:
    """How many latents were in flight was said, which nobody can reckon with."""
    short, long = (cli("extend", shutil.copytree(queue, str(n)), "--frames", n, OTHER) for n in (8, 200))
    assert short.code == long.code == 0
    second = re.search(r"has left by (\d+\.\d) s", long.err)
    assert second and f"alone from {second[1]} s on, which is behind the end" in short.err
