"""The public face: options by name and type, mistakes at the call, notes in the log, types for checkers."""

# ruff: noqa: F811 (fixtures come from another file of tests)

from __future__ import annotations

import inspect
import logging
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import longtake
from longtake.apps.options import Loading, Options
from longtake.apps.settings import Request
from longtake.errors import UsageError
from longtake.models.load import load
from tests.test_cli import PROMPT, one_thread, tiny  # noqa: F401


def _text(annotation: Any) -> str:
    return getattr(annotation, "__forward_arg__", annotation)


def test_options_are_the_fields_of_a_request_with_their_types() -> None:
    wanted = {item.name: item.type for item in fields(Request) if item.name != "prompt"}
    assert {name: _text(kind) for name, kind in Options.__annotations__.items()} == wanted


def test_loading_has_the_parameters_of_load_with_their_types() -> None:
    parameters = list(inspect.signature(load).parameters.values())[1:]
    assert {name: _text(kind) for name, kind in Loading.__annotations__.items()} == {
        parameter.name: parameter.annotation for parameter in parameters
    }


@pytest.mark.parametrize("call", [longtake.generate, longtake.stream])
def test_a_misspelt_option_names_the_nearest(call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TypeError, match=r"takes no option 'secnds'; did you mean seconds\?"):
        call(PROMPT, secnds=3)
    assert not list(tmp_path.iterdir())


def test_a_misspelt_option_of_load() -> None:
    with pytest.raises(TypeError, match=r"longtake.load takes no option 'steps'; did you mean num_steps\?"):
        longtake.load("pocket", **{"steps": 3})  # type: ignore[typeddict-unknown-key]


def test_stream_refuses_at_the_call_and_not_at_the_first_frame() -> None:
    with pytest.raises(UsageError, match="did you mean --method fifo"):
        longtake.stream(PROMPT, method="fifi")


def test_prompts_from_a_file_need_no_empty_prompt(tiny: Path, tmp_path: Path) -> None:
    story = tmp_path / "story.txt"
    story.write_text(f"0s: {PROMPT}\n")
    options: Any = {"model": tiny, "method": "plain", "frames": 5, "seed": 1, "prompt_file": story}
    one = longtake.generate(out=tmp_path / "one", **options)
    assert one.frames == 5
    assert sum(len(frames) for frames in longtake.stream(**options)) == 5


def test_what_was_decided_stands_in_the_log(tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "longtake"):
        result = longtake.generate(PROMPT, tmp_path / "run", model=tiny, method="plain", frames=5)
    assert f"seed {result.seed}" in caplog.messages
    assert any(message.startswith("device cpu") for message in caplog.messages)


def test_types_are_shipped() -> None:
    package = Path(longtake.__file__).parent
    assert (package / "py.typed").is_file()
    assert '"py.typed"' in (package.parent / "pyproject.toml").read_text()
