"""A film made in two turns: stopped after some ticks, saved, taken up from its folder, and finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from longtake.apps.session import begin, build, generate, reopen, running, start
from longtake.apps.settings import Request
from longtake.output.directory import RunDir


def assert_stopping_changes_nothing(prompt: str, home: Path, ticks: int, **options: Any) -> None:
    """The digest over all frames of a film made in two turns is that of one made in one."""
    generate(prompt, home / "one", **options)
    session = start(Request(prompt, **options))
    folder = begin(session, home / "two")
    with running(session, folder) as (_, progress):
        for number, _ in enumerate(progress):
            if number + 1 == ticks:
                break
    assert folder.finished is None, "it was stopped too late"
    settings, done = reopen(RunDir(home / "two"))
    assert not done
    with running(build(settings), RunDir(home / "two")) as (_, progress):
        for _ in progress:
            pass
    ends = [RunDir(home / name).finished for name in ("one", "two")]
    assert ends[0] is not None and ends[1] is not None
    assert ends[0]["sha256"] == ends[1]["sha256"] and ends[0]["frames"] == ends[1]["frames"]
