"""What a newcomer reads before the first run: help in groups, the version, defaults, the nearest name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import longtake
from longtake.apps.cli import app, main
from longtake.apps.helping import COMMANDS, OPTIONS
from longtake.apps.parameters import choose
from longtake.apps.tables import GENERAL, METHODS
from longtake.errors import UsageError


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Any:
    """(exit code, stdout, stderr) of a command."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        text = capsys.readouterr()
        return int(stop.value.code or 0), text.out, text.err

    return run


def test_the_version(said: Any) -> None:
    assert said("--version") == (0, f"longtake {longtake.__version__}\n", "")


def test_every_command_is_in_a_group_with_its_whole_sentence(said: Any) -> None:
    names = {str(command.name or command.callback.__name__): command for command in app.registered_commands}
    assert {name for group in COMMANDS.values() for name in group} == {*names, "train"}
    text = " ".join(said("--help")[1].split())
    assert text.count("...") == 1  # [ARGS]...
    for command in names.values():
        sentence = " ".join(command.callback.__doc__.split("\n\n")[0].split()).split(". ")[0]
        assert sentence in text, sentence


def test_every_option_of_generate_is_in_a_group(said: Any) -> None:
    text = said("generate", "--help")[1]
    sections = re.split(r"^(\S.*):$", text, flags=re.MULTILINE)
    assert [title for title in sections[1::2]] == ["Arguments", *OPTIONS]
    assert "\nOptions:" not in text  # where what no group names would be
    assert "--image" in sections[sections.index("What is shown") + 1]


def test_a_command_with_few_options_has_one_list(said: Any) -> None:
    assert re.findall(r"^(\S.*):$", said("resume", "--help")[1], re.MULTILINE) == ["Arguments", "Options"]


def test_a_method_tells_its_defaults_and_what_works_with_all(said: Any) -> None:
    text = said("methods", "fifo")[1]
    assert "fifo.partitions=" in text and "default 3)" in text and "default fanout)" in text and "default true)" in text
    assert all(f"--set {parameter.name}=" in text for parameter in GENERAL)


def test_defaults_are_what_a_method_is_built_with() -> None:
    from longtake.apps.listing import describe_method

    assert describe_method(METHODS["chunk"])["defaults"]["chunk.overlap"] == 2
    miga = describe_method(METHODS["miga"])["defaults"]
    assert (miga["miga.zigzag"], miga["miga.handover"], miga["miga.anchors"]) == (3, 5, 4)


@pytest.mark.parametrize("given", ["FIFO", "Fifo", "fiffo"])
def test_the_nearest_name_whatever_its_case(given: str) -> None:
    with pytest.raises(UsageError, match="did you mean --method fifo"):
        choose("method", given, METHODS, "--method")


@pytest.mark.parametrize("flag", ["--image", "--video", "--audio", "--prompt-file"])
def test_a_folder_for_a_file_is_called_one(said: Any, tmp_path: Path, flag: str) -> None:
    prompt = () if flag == "--prompt-file" else ("a dog walks right across green hills at noon",)
    code, out, err = said("generate", *prompt, flag, str(tmp_path))
    assert code == 2 and out == "" and "folder" in err and "no such file" not in err and err.count("\n") == 1


def test_settings_from_a_run_directory_name_its_video(said: Any, tmp_path: Path) -> None:
    (tmp_path / "video.mp4").touch()
    code, _, err = said("generate", "--from", str(tmp_path), "--dry-run")
    assert code == 2 and f"such as {tmp_path / 'video.mp4'}" in err


def test_where_to_look_is_said_only_where_v_exists(said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("longtake.apps.listing.list_models", broken)
    monkeypatch.setattr("longtake.apps.generate.screen", broken)
    monkeypatch.setattr("logging.getLogger", _fresh_loggers())
    assert said("models")[2] == "longtake: failed: RuntimeError: broken\n"
    assert said("generate", "a dog")[2] == "longtake: failed: RuntimeError: broken (add -v for where)\n"
    err = said("generate", "a dog", "-v")[2]
    assert "Traceback" in err and "add -v" not in err


def _fresh_loggers() -> Any:
    # loggers of this test alone, since another's may still have ears
    import logging

    manager = logging.Manager(logging.RootLogger(logging.WARNING))
    return lambda name=None: manager.getLogger(name) if name else logging.root


@pytest.mark.parametrize("size", ["100000x64", "64x16400"])
def test_a_size_that_no_video_has_is_refused_before_a_model_is_loaded(said: Any, size: str, tmp_path: Path) -> None:
    code, _, err = said("generate", "a dog walks right", "--size", size, "--out", str(tmp_path / "run"))
    assert code == 2 and "at most 16384 pixels a side" in err and not (tmp_path / "run").exists()


def test_a_file_of_jobs_that_is_none(said: Any, tmp_path: Path) -> None:
    for path, word in ((tmp_path, "folder"), (tmp_path / "missing.jsonl", "no such file")):
        code, _, err = said("batch", str(path))
        assert code == 2 and word in err and err.count("\n") == 1
