"""The command line: frozen names, one line for every mistake, runs that resume."""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from longtake.apps.cli import app, main
from longtake.apps.progress import clock
from longtake.apps.settings import parse_fps
from longtake.apps.tables import METHODS
from longtake.output.trace import read_trace
from longtake.output.video import probe, read_frames
from tests.stopping import stopped

PROMPT = "a dog runs right across hills at noon"
RESULT = ["run", "video", "frames", "fps", "width", "height", "latent_frames", "nfe", "seconds", "seed", "model",
          "method", "search"]  # fmt: skip
FLAGS = {
    "generate": "--model --method --solver --preset --frames --seconds --steps --guidance --size --fps --seed --image "
    "--video --audio --from --no-embed --negative-prompt --out --set --guide-model --lora --offload --compile "
    "--attention --device --dtype --dry-run --format -v -q --help "
    "--prompt-file --last-image --search --reward --search-budget",
    "resume": "--format -v -q --help",
    "extend": "--frames --format -v -q --help",
    "reroll": "--from --seed --prompt --method --search --format -v -q --help",
    "show": "--tree --format --help",
    "batch": "--format -v -q --help",
    "takes": "--num --seconds --use --format -v -q --help",
    "searches": "--format --help",
    "rewards": "--format --help",
    "models": "--format --help",
    "methods": "--format --help",
    "bench": "--profile --format --help",
    "convert": "--out --help",
    "vote": "--out --question --count --format --help",
    "export-vbench": "--out --suite --help",
    "eval": "--suite --model --report --format --help",
}


@dataclass
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out.splitlines()[-1])


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Any:
    """The pictures are so small that threads only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _model(folder: Path, side: int, ti2v: bool) -> Path:
    from longtake.models.tiny import save_tiny

    save_tiny(folder, ti2v=ti2v)
    settings = {"window": 4, "fps": 12, "steps": 4, "size": [side, side], "guidance": 1.0}
    (folder / "longtake.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Wan folder: window 4, 4 steps, 32x32 at 12 fps."""
    return _model(tmp_path_factory.mktemp("models") / "tiny", 32, False)


@pytest.fixture(scope="session")
def picture_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as Wan 2.2 TI2V, which can begin with a picture."""
    return _model(tmp_path_factory.mktemp("models") / "tiny", 64, True)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LONGTAKE_CACHE", str(tmp_path / "cache"))
    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments: Any) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Said(int(stop.value.code or 0), said.out, said.err)

    yield run
    signal.signal(signal.SIGTERM, handler)


def make(cli: Any, tiny: Path, *arguments: Any) -> Said:
    return cli("generate", PROMPT, "--model", tiny, "--seed", 5, "--format", "json", *arguments)


# -- names -----------------------------------------------------------------------------------------------------------


def test_commands_and_flags_are_the_frozen_ones(cli: Any) -> None:
    assert sorted(str(command.name or command.callback.__name__) for command in app.registered_commands) == sorted(
        FLAGS
    )
    for command, flags in FLAGS.items():
        text = cli(command, "--help").out
        found = re.findall(r"^\s{2}(-[\w-]+)(?:, (-[\w-]+))?", text, re.MULTILINE)
        assert sorted(flag for pair in found for flag in pair if flag) == sorted(flags.split()), command


def test_alone_it_prints_three_commands_to_try(cli: Any) -> None:
    said = cli()
    assert said.code == 0 and said.err == "" and len(re.findall(r"^  longtake ", said.out, re.MULTILINE)) == 3


def test_methods_and_models_as_json(cli: Any, tiny: Path) -> None:
    rows = cli("methods", "--format", "json").json
    assert [row["name"] for row in rows] == list(METHODS)
    assert all({"name", "reach", "streams", "nfe_per_latent"} <= set(row) for row in rows)
    by_name = {row["name"]: row for row in rows}
    assert by_name["fifo"]["nfe_per_latent"] == 6 and by_name["plain"]["nfe_per_latent"] == 2
    assert by_name["chunk"]["nfe_per_latent"] == 2.4 and not by_name["plain"]["streams"]
    assert [row["name"] for row in cli("methods", "fifo", "--format", "json").json] == ["fifo"]
    for arguments in ((), (tiny,)):
        for row in cli("models", *arguments, "--format", "json").json:
            assert {"name", "family", "path", "status", "per_row_levels", "methods"} <= set(row)
    assert "fifo.partitions" in cli("methods", "fifo").out and "tiny" in cli("models", tiny).out


# -- mistakes --------------------------------------------------------------------------------------------------------

WRONG: list[tuple[list[str], str]] = [
    (["generate", ""], "empty"),
    (["generate", "   "], "empty"),
    (["generate", "x" * 2001], "2001 characters"),
    (["generate"], "prompt"),
    (["generate", PROMPT, "--nope"], "--nope"),
    (["generate", PROMPT, "--model", "pockt"], "did you mean --model pocket"),
    (["generate", PROMPT, "--model", "no/such/folder"], "no folder"),
    (["generate", PROMPT, "--method", "fifi"], "did you mean --method fifo"),
    (["generate", PROMPT, "--solver", "eular"], "did you mean --solver euler"),
    (["generate", PROMPT, "--preset", "lap"], "did you mean --preset lab"),
    (["generate", PROMPT, "--frames", "0"], "1 or more"),
    (["generate", PROMPT, "--frames", "-3"], "1 or more"),
    (["generate", PROMPT, "--frames", "many"], "--frames"),
    (["generate", PROMPT, "--seconds", "0"], "above 0"),
    (["generate", PROMPT, "--seconds", "-1"], "above 0"),
    (["generate", PROMPT, "--seconds", "nan"], "above 0"),
    (["generate", PROMPT, "--frames", "9", "--seconds", "9"], "give one"),
    (["generate", PROMPT, "--steps", "0"], "1 to 1000"),
    (["generate", PROMPT, "--guidance", "-1"], "0 to 100"),
    (["generate", PROMPT, "--fps", "0"], "above 0"),
    (["generate", PROMPT, "--fps", "fast"], "above 0"),
    (["generate", PROMPT, "--seed", "-1"], "2^63"),
    (["generate", PROMPT, "--image", "missing.png"], "no such file"),
    (["generate", PROMPT, "--video", "missing.mp4"], "no such file"),
    (["generate", PROMPT, "--format", "yaml"], "yaml"),
    (["generate", PROMPT, "--last-image", "missing.png"], "no such file"),
    (["generate", "--prompt-file", "missing.json"], "no such file"),
    (["generate", PROMPT, "--search", "bean"], "did you mean --search beam"),
    (["generate", PROMPT, "--reward", "motion"], "--search beam"),
    (["generate", PROMPT, "--search-budget", "4x"], "--search beam"),
    (["generate", PROMPT, "--search", "beam", "--reward", "emotion"], "did you mean --reward motion"),
    (["generate", PROMPT, "--search", "beam", "--search-budget", "1x"], "above 1"),
    (["generate", PROMPT, "--set", "beam.width=2"], "--search beam"),
    (["searches", "bean"], "did you mean"),
    (["rewards", "emotion"], "did you mean"),
    (["resume", "missing"], "not a run directory"),
    (["methods", "fifi"], "did you mean fifo"),
    (["models", "missing/folder/x"], "no folder"),
    (["frobnicate"], "frobnicate"),
]
WRONG_WITH_MODEL: list[tuple[list[str], str]] = [
    (["--size", "40x32"], "nearest that works is"),
    (["--size", "big"], "WIDTHxHEIGHT"),
    (["--steps", "10"], "--steps 8 (2 partitions) or --steps 12 (3 partitions)"),
    (["--steps", "12", "--set", "fifo.partitions=2"], "does not fit"),
    (["--set", "fifo.partions=2"], "known: fifo.partitions"),
    (["--set", "fifo.partitions=two"], "whole number"),
    (["--set", "fifo.lookahead=maybe"], "true|false"),
    (["--set", "fifo.init=fan"], "fanout|replicate"),
    (["--set", "fifo.stride=9"], "stride"),
    (["--set", "batch=0"], "in 1..4096"),
    (["--set", "batch"], "NAME=VALUE"),
    (["--set", "chunk.overlap=1"], "--method chunk"),
    (["--method", "chunk", "--set", "chunk.overlap=4"], "overlap"),
    (["--method", "plain", "--frames", "14"], "at most 13"),
    (["--method", "plain", "--seconds", "inf"], "for ever"),
    (["--seconds", "0.01"], "less than one frame"),
    (["--seconds", "1e9"], "24 hours"),
    (["--frames", "99999999"], "24 hours"),
    (["--solver", "unipc", "--set", "fifo.eta=0.5"], "--solver ddim"),
    (["--method", "progressive", "--steps", "5"], "--steps 3 or --steps 6"),
    (["--method", "progressive", "--set", "progressive.window=9"], "goes up to 3"),
    (["--method", "progressive", "--set", "progressive.chunk=2", "--set", "progressive.window=1"], "chunk"),
    (["--method", "pa-vdm", "--set", "pa-vdm.prefix=-1"], "at least 0"),
    (["--method", "miga", "--steps", "4"], "--steps 6"),
    (["--method", "miga", "--set", "miga.anchors=3"], "miga.anchors must be in 0..2"),
    (["--method", "miga", "--set", "miga.stage2=batch", "--seconds", "inf"], "cannot go on for ever"),
    (["--method", "windows", "--seconds", "inf"], "fixed length"),
    (["--method", "gen-l-video", "--set", "windows.fuse=none"], "pyramid|uniform|linear"),
    (["--method", "freenoise", "--set", "freenoise.shuffle=9"], "shuffle"),
    (["--method", "rolling", "--set", "rolling.block=0"], "at least 1"),
    (["--method", "replace", "--set", "replace.overlap=4"], "overlap"),
    (["--method", "chunk", "--set", "ending=shrink"], "queues that run empty"),
    (["--set", "ending=shrink", "--seconds", "inf"], "needs to know the end"),
    (["--set", "prompt_rule=any"], "majority|start|queue_switch"),
    (["--method", "chunk", "--search", "reflect"], "cannot regrow"),
    (["--device", "abacus"], "abacus"),
    (["--dtype", "float7"], "float7"),
]


def _one_line(said: Said, words: str, folder: Path) -> None:
    assert said.code == 2, said.err
    assert said.out == "" and words in said.err
    lines = said.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("longtake: "), said.err
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(("arguments", "words"), WRONG, ids=lambda value: " ".join(value)[-40:] if value else "")
def test_mistakes_are_one_line_and_leave_nothing(cli: Any, tmp_path: Path, arguments: list[str], words: str) -> None:
    _one_line(cli(*arguments), words, tmp_path)


@pytest.mark.parametrize(("arguments", "words"), WRONG_WITH_MODEL, ids=lambda value: " ".join(value)[-40:])
def test_what_does_not_fit_the_model(cli: Any, tiny: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    method = [] if "--method" in arguments else ["--method", "fifo"]
    _one_line(cli("generate", PROMPT, "--model", tiny, "--seed", 1, *method, *arguments), words, tmp_path)


def test_damaged_and_foreign_folders(cli: Any, picture_model: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    assert "model_index.json" in cli("generate", PROMPT, "--model", foreign).err
    (foreign / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    said = cli("generate", PROMPT, "--model", foreign)
    assert said.code == 2 and "FluxPipeline" in said.err
    (tmp_path / "text.png").write_text("not a picture")
    for flag in ("--image", "--video", "--last-image"):
        said = make(cli, picture_model, flag, "text.png")
        assert said.code == 2 and "text.png" in said.err and not (tmp_path / "runs").exists()


def test_words_outside_the_world_of_the_model(cli: Any, tiny: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "worldly"
    shutil.copytree(tiny, folder)
    settings = json.loads((folder / "longtake.json").read_text())
    (folder / "longtake.json").write_text(json.dumps({**settings, "vocabulary": "world"}))
    said = cli("generate", "quantum chromodynamics", "--model", folder, "--dry-run")
    assert said.code == 2 and said.err.count('"a ') == 3
    said = cli(
        "generate", "a dgo and a dog walk right", "--model", folder, "--dry-run", "--seed", 1, "--method", "fifo"
    )
    assert said.code == 0 and len(said.err.splitlines()) == 1 and "dgo" in said.err


# -- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of 121 frames, made by the command itself."""
    folder = tmp_path_factory.mktemp("cli") / "whole"
    arguments = ["generate", PROMPT, "--model", str(tiny), "--seed", "5", "--frames", "121", "--out", str(folder), "-q"]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--method", "fifo", "--format", "json"])
    assert stop.value.code == 0
    return folder


def test_a_run_and_its_plan(cli: Any, tiny: Path, whole: Path, tmp_path: Path) -> None:
    said = make(cli, tiny, "--frames", 121, "--dry-run")
    plan = said.json
    assert said.code == 0 and list(tmp_path.iterdir()) == []
    end = json.loads((whole / "FINISHED").read_text())
    assert plan["nfe"] == end["nfe"] and plan["frame_nfe"] == end["frame_nfe"] and plan["latent_frames"] == 31
    assert plan["first_frame_nfe"] == read_trace(whole / "trace.jsonl")[0]["nfe"]
    assert make(cli, tiny, "--seconds", "inf", "--dry-run").json["latent_frames"] is None
    long = make(cli, tiny, "--frames", 8001, "--dry-run").json
    assert long["latent_frames"] == 2001 and abs(long["nfe_per_latent"] - 6) < 0.1
    run = json.loads((whole / "run.json").read_text())
    assert {"prompt", "seed", "model_hash", "versions", "batch", "device", "dtype", "steps"} <= set(run)
    assert json.loads(probe(whole / "video.mp4").comment or "")["longtake"]["prompt"] == PROMPT
    assert sum(1 for _ in read_frames(whole / "video.mp4")) == 121


def test_seconds_names_and_json_keys(cli: Any, tiny: Path, tmp_path: Path) -> None:
    said = make(cli, tiny, "--seconds", "0.7", "--fps", "9.5", "--method", "plain", "--steps", 2)
    assert said.code == 0 and list(said.json) == RESULT
    assert len(said.out.splitlines()) == 1
    assert said.json["frames"] == round(0.7 * 9.5) == sum(1 for _ in read_frames(said.json["video"]))
    assert said.json["run"].replace(os.sep, "/") == "runs/a-dog-runs-right-across-hills-at-noon-5"
    again = make(cli, tiny, "--frames", 1, "--method", "plain", "--steps", 2)
    assert again.json["run"].endswith("-5-2") and again.json["frames"] == 1
    taken = make(cli, tiny, "--frames", 1, "--out", again.json["run"])
    assert taken.code == 2 and "longtake resume" in taken.err
    quiet = cli("generate", PROMPT, "--model", tiny, "--frames", 1, "--method", "plain", "--steps", 2, "-q")
    assert quiet.err == "" and quiet.out.strip().endswith("video.mp4")
    finished = cli("resume", again.json["run"], "--format", "json")
    assert finished.code == 0 and finished.json == again.json


@pytest.mark.parametrize(
    "arguments",
    [
        "--method chunk --set batch=2",
        "--method fifo --set fifo.init=replicate",
        "--method fifo --set fifo.lookahead=false --guidance 3",
        "--method fifo --set fifo.eta=0.5 --solver ddim --preset lab",
        "--method plain --solver unipc --frames 9",
        "--method chunk --set chunk.join=pixel",
    ],
)
def test_a_plan_is_what_the_run_costs(cli: Any, tiny: Path, arguments: str) -> None:
    words = [*([] if "--frames" in arguments else ["--frames", "30"]), *arguments.split()]
    plan, run = make(cli, tiny, *words, "--dry-run"), make(cli, tiny, *words)
    assert run.code == 0, run.err
    assert (plan.json["nfe"], plan.json["latent_frames"]) == (run.json["nfe"], run.json["latent_frames"])


def test_same_seed_same_frames_and_longer_begins_the_same(cli: Any, tiny: Path, whole: Path) -> None:
    said = make(cli, tiny, "--frames", 130, "--method", "fifo")
    long = read_trace(Path(said.json["run"]) / "trace.jsonl")
    short = read_trace(whole / "trace.jsonl")
    assert [line["sha256"] for line in long][: len(short)] == [line["sha256"] for line in short]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_and_resumed_is_uninterrupted(cli: Any, tiny: Path, whole: Path, tmp_path: Path, how: int) -> None:
    command = ["generate", PROMPT, "--model", str(tiny), "--seed", "5", "--frames", "121", "--out", "stopped",
               "--format", "json", "--method", "fifo"]  # fmt: skip
    said = stopped(how, 4, tmp_path / "stopped", command, tmp_path)
    if how == signal.SIGKILL:
        assert said.returncode == -how
    else:
        assert said.returncode == 130
        assert list(json.loads(said.stdout.splitlines()[-1])) == RESULT
        assert "longtake resume stopped" in said.stderr and "Traceback" not in said.stderr
        assert sum(1 for _ in read_frames(tmp_path / "stopped" / "video.mp4")) >= 9
    said = cli("resume", "stopped", "--format", "json")
    assert said.code == 0 and said.json["frames"] == 121
    hashes = [
        [line["sha256"] for line in read_trace(folder / "trace.jsonl")] for folder in (tmp_path / "stopped", whole)
    ]
    assert hashes[0] == hashes[1]
    assert (tmp_path / "stopped" / "video.mp4").read_bytes() == (whole / "video.mp4").read_bytes()


def test_a_run_of_another_format_or_cut_off(cli: Any, whole: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(whole, tmp_path / "run")
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    for text, words in (
        (json.dumps({**content, "format": 99}), "format 99"),
        (json.dumps(content)[:50], "cut off"),
        (json.dumps({"format": 1}), "lacks"),
    ):
        (tmp_path / "run" / "run.json").write_text(text)
        said = cli("resume", "run")
        assert said.code == 2 and words in said.err and len(said.err.splitlines()) == 1
    (tmp_path / "run" / "run.json").write_text(json.dumps(content))
    (tmp_path / "run" / "FINISHED").unlink()
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    (tmp_path / "run" / "state.json").write_text(json.dumps({**state, "version": 7}))
    before = (tmp_path / "run" / "video.mp4").read_bytes()
    said = cli("resume", "run", "-q")
    assert said.code == 2 and "version 7" in said.err and (tmp_path / "run" / "video.mp4").read_bytes() == before


def test_pictures_and_clips_to_begin_with(cli: Any, tiny: Path, picture_model: Path, whole: Path) -> None:
    Image.new("RGB", (90, 50), (200, 40, 40)).save("red.png")
    said = make(cli, tiny, "--image", "red.png")
    assert said.code == 2 and "cannot begin with a picture" in said.err
    said = make(cli, picture_model, "--image", "red.png", "--frames", 9, "--method", "fifo", "--steps", 4)
    assert said.code == 0 and said.json["frames"] == 9 == sum(1 for _ in read_frames(said.json["video"]))
    assert said.json["latent_frames"] == 2
    for method in ("fifo", "plain"):
        plan = make(cli, tiny, "--video", whole / "video.mp4", "--frames", 6, "--method", method, "--dry-run").json
        said = make(cli, tiny, "--video", whole / "video.mp4", "--frames", 6, "--method", method)
        assert said.code == 0 and said.json["frames"] == 6 == sum(1 for _ in read_frames(said.json["video"]))
        assert said.json["nfe"] == plan["nfe"] and said.json["latent_frames"] == 2


def test_python_makes_what_the_command_makes(tiny: Path, whole: Path, tmp_path: Path, monkeypatch: Any) -> None:
    import torch

    from longtake.apps import session

    monkeypatch.chdir(tmp_path)
    frames = torch.cat(list(session.stream(PROMPT, model=str(tiny), seed=5, frames=121, method="fifo")))
    from longtake.output.job import chain

    assert list(tmp_path.iterdir()) == []
    assert chain("", frames) == json.loads((whole / "FINISHED").read_text())["sha256"]
    made = session.generate(PROMPT, model=str(tiny), seed=5, frames=5, method="plain", steps=2)
    assert made.frames == 5 and Path(made.video).exists()


def test_bench_compares_a_loop_with_the_same_calls_alone(cli: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """By a clock that goes on at every call of the network: both sides make the same calls, so neither costs more."""
    from longtake.apps import bench
    from longtake.models import load, wan

    assert bench._model(METHODS["plain"]).name == "pocket"  # what it measures; the rest on the tiny pipeline
    calls, forward = [], wan.forward_rows
    monkeypatch.setattr(wan, "forward_rows", lambda *arguments: calls.append(1) or forward(*arguments))
    monkeypatch.setattr(bench, "time", SimpleNamespace(perf_counter=lambda: float(len(calls))))
    monkeypatch.setitem(load.NAMES, "pocket", tmp_path / "nowhere")
    monkeypatch.setattr(bench, "TINY_SIZE", (32, 32))
    found = cli("bench", "--format", "json").json
    assert found["model"] == "tiny" and found["rounds"] == 5 and found["ticks"] == 2
    assert found["overhead"] == dict.fromkeys(("plain", "chunk", "fifo", "miga"), 1.0)
    assert all(value["loop"] == value["calls"] > 0 for value in found["seconds"].values())


@pytest.mark.parametrize("family", ["wan", "consisti2v"])
def test_a_model_is_told_with_the_options_that_it_takes(cli: Any, tiny: Path, tmp_path: Path, family: str) -> None:
    """Two sides: what is listed, and what is refused when it is asked for."""
    from longtake.apps.lookup import look_up
    from longtake.apps.settings import Request
    from longtake.apps.tables import MODEL_OPTIONS
    from longtake.errors import UsageError
    from longtake.models.consisti2v_tiny import save_tiny_consisti2v

    folder = tiny if family == "wan" else save_tiny_consisti2v(tmp_path / "model")
    taken = set()
    for parameter in MODEL_OPTIONS:
        words = {int: "5", float: "2", bool: "true", str: "true"}
        text = parameter.kind[0] if isinstance(parameter.kind, tuple) else words[parameter.kind]
        try:
            look_up(Request("a dog", folder, set=[f"{parameter.name}={text}"]))
            taken.add(parameter.name)
        except UsageError as error:
            taken |= set() if "is no option of" in str(error) else {parameter.name}
    told = re.findall(r"--set (\w+)=", cli("models", folder).out)
    assert told and sorted(taken) == sorted(told) and len(told) < len(MODEL_OPTIONS)


def test_small_words() -> None:
    assert [clock(s) for s in (3.2, 61, 3723)] == ["3 s", "1:01", "1:02:03"]
    assert (
        str(parse_fps("23.976")) == "24000/1001"
        and parse_fps(12) == 12
        and str(parse_fps("24000/1001")) == "24000/1001"
    )


def test_a_video_ends_on_a_picture(cli: Any, tiny: Path, tmp_path: Path) -> None:
    """The end changes, the beginning does not; endless videos and single latents have no place for it."""
    from PIL import Image

    Image.new("RGB", (40, 40), (200, 30, 30)).save("red.png")
    common = ("--frames", 41, "--method", "chunk", "--steps", 4)
    shas = []
    for out, extra in (("free", ()), ("ended", ("--last-image", "red.png"))):
        said = make(cli, tiny, *common, "--out", out, *extra)
        assert said.code == 0, said.err
        lines = [json.loads(line) for line in (tmp_path / out / "trace.jsonl").read_text().splitlines()]
        shas.append([line["sha256"] for line in lines])
    assert len(shas[0]) == len(shas[1]) > 2 and shas[0][0] == shas[1][0] and shas[0][-1] != shas[1][-1]
    for wrong in (("--seconds", "inf"), ("--frames", 1)):
        said = make(cli, tiny, "--method", "chunk", "--steps", 4, "--last-image", "red.png", *wrong)
        assert said.code == 2 and "needs a video with an end" in said.err
