"""The public face: options by name and type, mistakes at the call, notes in the log, types for checkers."""

# ruff: noqa: F811 (fixtures come from another file of tests)

from __future__ import annotations

import inspect
import logging
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import longtake
from longtake.apps.options import Loading, Options
from longtake.apps.session import reopen
from longtake.apps.settings import Request
from longtake.errors import UsageError
from longtake.models.load import load
from longtake.output.directory import RunDir
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


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"seed": 1.5}, r"seed=1\.5 is not possible: it takes int, None"),
    ({"frames": "3"}, "frames='3' is not possible: it takes int, None"),
    ({"frames": True}, "frames=True"), ({"steps": 6.0}, r"steps=6\.0"), ({"guidance": "2"}, "guidance='2'"),
    ({"embed": "yes"}, "embed='yes' is not possible: it takes bool"), ({"search_budget": 4}, "search_budget=4"),
    ({"method": 3}, "method=3"), ({"image": b"a"}, "it takes str, Path, None"), ({"seconds": [1]}, "seconds="),
    ({"set": "fifo.partitions=1"}, r"no list of texts; write it like set=\['fifo.partitions=2'\]"),
    ({"set": (1,)}, "set="), ({"lora": "abc"}, "lora='abc' is no list"), ({"negative_prompt": None}, "takes str"),
    ({"size": 64}, "size 64 is not WIDTHxHEIGHT"),
]  # fmt: skip


@pytest.mark.parametrize("call", [longtake.generate, longtake.stream])
@pytest.mark.parametrize(("given", "words"), WRONG, ids=str)
def test_a_value_of_another_kind_is_told_at_the_call(
    call: Any, given: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run with a seed of 1.5 was made and could never be resumed; the others were errors of Python."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=words):
        call(PROMPT, **({"frames": 5, "method": "fifo"} | given))
    with pytest.raises(UsageError, match="prompt=None is not possible: it takes str"):
        call(None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{"prompt": f"{PROMPT} \udcff"}, {"prompt": PROMPT, "negative_prompt": "\udcff"}])
def test_bytes_that_are_no_text_are_told_before_a_model_is_loaded(options: Any, tmp_path: Path) -> None:
    """As a shell hands on what its locale cannot read; run.json took them no more than the video did."""
    with pytest.raises(UsageError, match=r"prompt '.*udcff' is not UTF-8; type it in UTF-8"):
        longtake.generate(out=tmp_path / "run", frames=5, guidance=2.0, **options)
    assert not (tmp_path / "run").exists()


def test_numbers_of_numpy_are_numbers(tiny: Path, tmp_path: Path) -> None:
    options: Any = {"seed": np.int64(7), "frames": np.int32(5), "fps": Fraction(25, 2), "guidance": np.float32(1)}
    result = longtake.generate(PROMPT, tmp_path / "run", model=tiny, method="plain", **options)
    assert (result.seed, result.frames, result.fps) == (7, 5, 12.5)
    assert reopen(RunDir(tmp_path / "run"))[1]


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


def test_a_loaded_model_is_no_pipeline(tiny: Path) -> None:
    """Its steps and size are in it, and a run brings its own: what it was loaded from is named."""
    with pytest.raises(UsageError, match=f"longtake.load made; give what it was loaded from: {tiny}"):
        longtake.stream(PROMPT, model=load(tiny))
