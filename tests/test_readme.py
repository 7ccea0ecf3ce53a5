"""What the README shows is what works: its Python as it stands but for shorter films, its commands planned."""

# ruff: noqa: F811 (fixtures come from another file of tests)

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from longtake.output.video import read_frames
from tests.test_cli import cli, one_thread  # noqa: F401

TEXT = (Path(__file__).parent.parent / "README.md").read_text()


def _blocks(kind: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == kind]


def test_the_eight_lines_of_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines, parts = _blocks("python")
    assert len(lines.splitlines()) <= 8
    known: dict[str, Any] = {}
    exec(re.sub(r"seconds=\d+", "seconds=1", lines), known)
    shapes = re.findall(r"torch\.Size\(\[(\d+), 64, 64, 3\]\)", capsys.readouterr().out)
    assert sum(map(int, shapes)) == 8 and known["frames"].shape[1:] == (64, 64, 3)
    assert sum(1 for _ in read_frames(known["result"].video)) == 8 and known["result"].nfe > 0
    exec(re.sub(r"until=\d+", "until=2", parts), known)
    assert known["emission"].stop == 2 and known["engine"].meter.nfe > 0


def test_the_commands_are_understood(cli: Any, tmp_path: Path) -> None:
    (shown,) = [block for block in _blocks("") if "longtake resume DIR" in block]
    commands = [line.split("  #")[0].strip() for line in shown.splitlines() if line.startswith("longtake generate")]
    assert len(commands) >= 3
    for command in commands:
        words = [word.replace("...", "a dog walks right") for word in shlex.split(command)[1:]]
        if "pocket" not in command and "--model" in words:  # of a hub that no test can reach
            continue
        said = cli(*words, *([] if "--dry-run" in words else ["--dry-run"]))
        assert said.code == 0 and "NFE" in said.out, (command, said.err)
    for name in re.findall(r"longtake (\w[\w-]*) DIR", shown):
        assert cli(name, "--help").code == 0
    assert list(tmp_path.iterdir()) == []
