"""Many runs from one file, runs told by `show`, and files that anybody may have changed."""

# ruff: noqa: F811 (fixtures come from another file of tests)

from __future__ import annotations

import io
import json
import logging
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from longtake.apps import batching
from longtake.apps.cli import app, main, run
from longtake.apps.settings import Settings
from longtake.apps.showing import drawn, lineage
from longtake.apps.stored import checked
from longtake.errors import UsageError
from longtake.output.trace import read_trace
from tests.test_cli import PROMPT, cli, one_thread, tiny  # noqa: F401


def _write(path: Path, tiny: Path, *jobs: dict[str, Any]) -> None:
    base = {"model": str(tiny), "method": "plain", "steps": 2, "frames": 5}
    path.write_text("\n".join(json.dumps({**base, **job}) for job in jobs) + "\n")


def _manifest(path: Path) -> dict[str, Any]:
    return json.loads(path.with_name(path.name + ".manifest.json").read_text())


# -- batch -----------------------------------------------------------------------------------------------------------


def test_a_batch_goes_on_after_failures_and_stops(
    cli: Any,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs = tmp_path / "jobs.jsonl"
    _write(jobs, tiny, {"prompt": "one", "out": "a"}, {"prompt": "two"}, {"prompt": "three", "set": {"batch": 2}},
           {"prompt": "four", "seed": 4, "out": "deep/d", "negative-prompt": "rain"})  # fmt: skip
    real, broken = batching.perform, {"two": RuntimeError("out of memory"), "three": KeyboardInterrupt()}

    def perform(session: Any, folder: Any, console: Any) -> Any:
        trouble = broken.pop(session.settings.prompt, None)
        if trouble is not None:
            raise trouble
        return real(session, folder, console)

    monkeypatch.setattr(batching, "perform", perform)
    said = cli("batch", "jobs.jsonl")
    assert said.code == 130  # interrupted in the third
    assert [entry["status"] for entry in _manifest(jobs)["jobs"]] == ["done", "failed", "running", "waiting"]
    assert "out of memory" in _manifest(jobs)["jobs"][1]["error"]
    before = (tmp_path / "a" / "video.mp4").stat().st_mtime_ns
    said = cli("batch", "jobs.jsonl", "--format", "json")
    assert said.code == 0 and said.json["done"] == 4 and said.json["failed"] == 0
    assert (tmp_path / "a" / "video.mp4").stat().st_mtime_ns == before  # what is done is not made again
    runs = [Path(entry["run"]) for entry in said.json["jobs"]]
    assert all(len(read_trace(run / "trace.jsonl")) and (run / "FINISHED").exists() for run in runs)
    assert len({entry["run"] for entry in said.json["jobs"]}) == 4
    assert json.loads((runs[3] / "run.json").read_text())["negative_prompt"] == "rain"
    assert (said.json["jobs"][3]["seed"] == 4 and "done in about" in said.err) or "1 done before" in said.err
    # a line that is changed is another job
    _write(jobs, tiny, {"prompt": "one", "out": "a"}, {"prompt": "other"})
    said = cli("batch", "jobs.jsonl", "--format", "json")
    assert said.code == 0 and [entry["status"] for entry in said.json["jobs"]] == ["done", "done"]
    assert "1 done before" in said.err


def test_a_batch_with_a_failure_ends_with_1(cli: Any, tiny: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def fails(*arguments: Any) -> Any:
        raise RuntimeError("no")

    monkeypatch.setattr(batching, "perform", fails)
    _write(tmp_path / "jobs.jsonl", tiny, {"prompt": "one"})
    said = cli("batch", "jobs.jsonl")
    assert said.code == 1 and "line 1 failed: RuntimeError: no" in said.err and "Traceback" not in said.err


BAD_LINES: list[tuple[str, str]] = [
    ("", "no job"), ("not json", "line 1 is not JSON"), ("[1]", "no JSON object"), ("{}", "no prompt"),
    ('{"prompt": 5}', "prompt cannot be 5"), ('{"prompt": "a", "nope": 1}', "unknown key 'nope'"),
    ('{"prompt": "a", "frames": "9"}', "frames cannot be"), ('{"prompt": "a", "frames": 1e999}', "frames cannot be"),
    ('{"prompt": "a", "frames": 0}', "frames"), ('{"prompt": "a", "seed": -1}', "seed"),
    ('{"prompt": "a", "frames": ' + "9" * 4000 + "}", "frames"), ('{"frames": ' + "9" * 5000 + "}", "JSON"),
    ('{"prompt": "a", "out": "../x"}', "below this one"), ('{"prompt": "a", "out": "/tmp/x"}', "below this one"),
    ('{"prompt": "a", "out": ""}', "below this one"), ('{"prompt": "a", "out": 7}', "below this one"),
    ('{"prompt": "a", "model": "pockt"}', "did you mean"), ('{"prompt": "a", "model": {"x": 1}}', "model cannot be"),
    ('{"prompt": "a", "set": ["fifo.nope=1"], "method": "fifo"}', "line 1: unknown name"),
    ('{"prompt": "a dog", "seconds": "inf"}', "endless"), ('{"prompt": "", "frames": 3}', "empty"),
    ('{"prompt": "a", "out": "x"}\n{"prompt": "b", "out": "x"}', "two jobs"),
    ('{"prompt": "a\\u0000b"}', "characters"), ("[" * 5000, "not JSON"), ('{"prompt": true}', "cannot be True"),
    ('{"prompt": "a", "embed": "no"}', "embed cannot be"), ('{"prompt": "a", "image": "gone.png"}', "no such file"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words"), BAD_LINES, ids=lambda value: value[:40])
def test_bad_jobs_are_refused_before_any_begins(cli: Any, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "jobs.jsonl").write_text(text)
    said = cli("batch", "jobs.jsonl")
    assert said.code == 2 and said.out == "" and words in said.err, said.err
    assert len(said.err.splitlines()) == 1 and "Traceback" not in said.err
    assert not [path for path in tmp_path.iterdir() if path.name not in ("jobs.jsonl", ".jobs.jsonl.lock")]


@pytest.mark.parametrize("text", ["[]", '{"jobs": 7}', '{"jobs": [{"line": "x", "job": 5}]}',
                                  '{"jobs": [{"line": 1, "job": "x", "run": "../../etc"}]}', "{"])  # fmt: skip
def test_a_forged_manifest_is_refused(cli: Any, tiny: Path, tmp_path: Path, text: str) -> None:
    _write(tmp_path / "jobs.jsonl", tiny, {"prompt": "one"})
    (tmp_path / "jobs.jsonl.manifest.json").write_text(text)
    said = cli("batch", "jobs.jsonl")
    assert said.code == 2 and len(said.err.splitlines()) == 1 and not (tmp_path / "runs").exists()


def test_a_batch_is_made_by_one_process(cli: Any, tiny: Path, tmp_path: Path) -> None:
    from filelock import FileLock

    _write(tmp_path / "jobs.jsonl", tiny, {"prompt": "one"})
    with FileLock(tmp_path / ".jobs.jsonl.lock"):
        said = cli("batch", "jobs.jsonl")
    assert said.code == 2 and "another longtake" in said.err


# -- show ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def searched(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("searched") / "run"
    with pytest.raises(SystemExit) as stop:
        main(["generate", PROMPT, "--model", str(tiny), "--seed", "5", "--frames", "40", "--out", str(folder), "-q",
              "--method", "chunk", "--search", "best-of-n", "--set", "best-of-n.candidates=3"])  # fmt: skip
    assert not stop.value.code
    return folder


def test_a_run_tells_its_story(cli: Any, searched: Path) -> None:
    value = cli("show", searched, "--format", "json").json
    lines = read_trace(searched / "trace.jsonl")
    end = json.loads((searched / "FINISHED").read_text())
    assert value["finished"] and value["frames"] == 40 and value["seed"] == 5 and value["nfe"] == end["nfe"]
    assert sum(part["nfe"] for part in value["timeline"]) == end["nfe"]
    assert value["timeline"][0]["from"] == 0 and value["timeline"][-1]["latents"][1] == lines[-1]["latents"][1]
    assert [one["prompt"] for one in value["prompts"]] == [PROMPT]
    assert value["timeline"][0]["score"] == pytest.approx(max(lines[0]["scores"]), abs=1e-5)
    text = cli("show", searched).out
    assert PROMPT in text and "seed 5" in text and "3 judged" in text and "finished" in text


def test_the_tree_is_that_of_the_trace(cli: Any, searched: Path) -> None:
    lines = read_trace(searched / "trace.jsonl")
    judged = [one for line in lines for one in line["candidates"]]
    found = cli("show", searched, "--tree", "--format", "json").json
    assert found == judged and len(judged) == 3 * len(lines)
    text = cli("show", searched, "--tree").out
    assert text.count("◆") - 1 == len(lines)  # one chosen a decision, and the legend
    assert text.count("○") - 1 == 2 * len(lines)
    for line in lines:
        best = max(line["candidates"], key=lambda one: one["score"])
        assert best["verdict"] == "kept" and f"◆ {best['name'][-6:]}" in text


def test_a_tree_is_shown_where_the_encoding_knows_few_letters(
    cli: Any, searched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe of Windows, or a C locale: the command failed with UnicodeEncodeError."""
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii", write_through=True))
    assert run(lambda: app(args=["show", str(searched), "--tree"], standalone_mode=False)) == 0
    assert b"\\u25c6 on the way to the end" in shown.getvalue()


def test_a_tree_of_several_generations() -> None:
    def one(tick: int, name: str, parent: str, score: float | None, verdict: str) -> dict[str, Any]:
        return {"tick": tick, "name": name, "parent": parent, "score": score, "verdict": verdict, "rows": [0, 2]}

    first = [one(1, "a1", "0", 1.0, "kept"), one(1, "a2", "0", 3.0, "kept"), one(1, "a3", "0", None, "dropped")]
    second = [one(2, "b1", "a1", 9.0, "kept"), one(2, "b2", "a2", 4.0, "dropped"), one(2, "b3", "a2", 5.0, "kept")]
    assert lineage(first + second) == {"b1", "a1", "0"}
    settings = Settings(
        "p", "", "pocket", "fifo", {}, None, None, 4, None, 8, 8, "4", 9, 1, None, None, "cpu", None, None
    )
    text = list(drawn([{"frames": [8, 9], "candidates": first + second}], settings))
    assert "2.0 s  tick 1, noise of latents 0-1" in text[1]
    assert [line[9:].strip() for line in text[2:5]] == [
        "─┬─ ◆ a1          1", "├─ ● a2          3", "└─ ○ a3      no"]  # fmt: skip
    assert "a1 ─── ◆ b1" in text[6] and "a2 ─┬─ ○ b2" in text[7] and "└─ ● b3" in text[8]


def test_what_cannot_be_shown(cli: Any, tmp_path: Path, searched: Path) -> None:
    assert cli("show", "nowhere").code == 2
    shutil.copytree(searched, tmp_path / "bare")
    lines = read_trace(searched / "trace.jsonl")
    (tmp_path / "bare" / "trace.jsonl").write_text(
        "".join(json.dumps({**line, "candidates": "x"}) + "\n" for line in lines) + '{"frames": [1'
    )
    said = cli("show", "bare", "--tree")
    assert said.code == 2 and "no tree" in said.err and cli("show", "bare").code == 0


# -- settings that anybody may have changed --------------------------------------------------------------------------

WRONG: list[Any] = [None, True, -1, 0, 10**400, 2**70, 1.5, float("nan"), float("inf"), "", "x" * 30_000, "../../etc",
                    "a\x00b", [], {}, [[1]], {"a": {"b": None}}, "9" * 5000]  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_changed_settings_are_refused_or_harmless(cli: Any, searched: Path, tmp_path: Path, seed: int) -> None:
    dice, good = random.Random(seed), json.loads((searched / "run.json").read_text())
    refused = 0
    for _ in range(150):
        name, value = dice.choice(sorted(good)), dice.choice(WRONG)
        if name in ("versions", "platform", "format"):
            continue
        try:
            settings = checked(Settings, {**good, name: value})
        except UsageError as error:
            assert "\n" not in str(error) and len(str(error)) < 600
            refused += 1
        else:
            assert type(getattr(settings, name, None)) is type(value) or not hasattr(settings, name)
    assert refused > 90


def test_a_changed_run_is_refused_in_one_line(cli: Any, searched: Path, tmp_path: Path) -> None:
    good = json.loads((searched / "run.json").read_text())
    for change in ({"steps": "many"}, {"parameters": {"overlap": [1]}}, {"parameters": {"nope": 1}}, {"method": "os"},
                   {"fps": "1/0"}, {"turns": [{"latent": 3}]}, {"turns": [{"latent": "x", "key": 1}]}, {"width": -8},
                   {"turns": [{"latent": 5, "key": 1}, {"latent": 2, "key": 1}]}, {"search": "../x"}, {"frames": 0},
                   {"seed": 2**64}, {"solver": "rm"}, {"search_parameters": {"candidates": "x"}}):  # fmt: skip
        folder = Path(shutil.copytree(searched, tmp_path / f"run{random.random()}"))
        (folder / "FINISHED").unlink()
        (folder / "run.json").write_text(json.dumps({**good, **change}))
        video = (folder / "video.mp4").read_bytes()
        said = cli("resume", folder)
        last = said.err.splitlines()[-1]
        assert said.code == 2 and last.startswith("longtake: ") and "Traceback" not in said.err, (change, said.err)
        assert (folder / "video.mp4").read_bytes() == video


@pytest.mark.parametrize("seed", range(4))
def test_prompt_files_of_any_content(cli: Any, tiny: Path, tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    good = [
        '{"0s": "a dog runs", "1s": "a dog sleeps"}',
        "0s: a dog runs\n1s: a dog sleeps",
        "[0s-1s] a dog\n[1s-2s] b",
    ]
    for _ in range(12):
        data = bytearray(dice.choice(good).encode())
        for _change in range(dice.randint(1, 6)):
            how = dice.random()
            if how < 0.4:
                data[dice.randrange(len(data))] = dice.randrange(256)
            elif how < 0.6:
                data = data[: dice.randint(1, len(data))]
            else:
                place = dice.randrange(len(data))
                data[place:place] = dice.choice([b"9" * 400, b"../../", b"\x00", b"-", b"{" * 50, b"[", "é".encode()])
        (tmp_path / "story.txt").write_bytes(bytes(data))
        said = cli("generate", "--prompt-file", "story.txt", "--model", tiny, "--frames", 30, "--seed", 1, "--dry-run",
                   "--method", "fifo")  # fmt: skip
        assert said.code in (0, 2) and "Traceback" not in said.err, bytes(data)
        if said.code == 2:
            assert said.out == "" and said.err.splitlines()[-1].startswith("longtake: ")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["story.txt"]


# -- talking ---------------------------------------------------------------------------------------------------------


def test_quiet_plain_and_verbose(cli: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("generate", PROMPT, "--model", tiny, "--seed", 1, "--frames", 5, "--method", "plain", "--steps", 2)
    quiet = cli(*words, "-q")
    assert quiet.err == "" and quiet.out.count("\n") == 1
    monkeypatch.setenv("NO_COLOR", "1")
    plain = cli(*words)
    assert "\x1b" not in plain.err + plain.out and "━" not in plain.err  # no bar, no colours: this is no terminal
    monkeypatch.setattr("longtake.apps.generate.perform", lambda *_: 1 / 0)
    failed, loud = cli(*words), cli(*words, "-v")
    assert failed.code == loud.code == 1
    assert "Traceback" not in failed.err and "ZeroDivisionError" in failed.err and "Traceback" in loud.err
    assert logging.getLogger("longtake").level == logging.DEBUG
