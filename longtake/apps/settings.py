"""What a user asks for (`Request`) and what a run is (`Settings`): every value decided, nothing loaded yet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from longtake.errors import UsageError

MAX_PROMPT = 2000
MAX_HOURS = 24
MAX_STEPS = 1000
DEFAULT_SECONDS = 10.0
OFFLOAD = ("none", "model", "group")


@dataclass(frozen=True)
class Request:
    """The settings of `generate` as given; None means the default. `model` may be a live pipeline in Python."""

    prompt: str
    model: Any = "pocket"
    method: str | None = None
    solver: str | None = None
    preset: str | None = None
    frames: int | None = None
    seconds: float | str | None = None
    steps: int | None = None
    guidance: float | None = None
    size: str | tuple[int, int] | None = None
    fps: float | str | None = None
    seed: int | None = None
    image: str | Path | None = None
    video: str | Path | None = None
    negative_prompt: str = ""
    set: Sequence[str] = ()
    device: str = "auto"
    dtype: str | None = None
    audio: str | Path | None = None
    embed: bool = True
    lora: Sequence[str] = ()
    guide_model: str | Path | None = None
    offload: str = "none"
    compile: bool = False
    prompt_file: str | Path | None = None
    last_image: str | Path | None = None
    search: str | None = None  # not typed: that of the preset, else none
    reward: str | None = None
    search_budget: str | None = None
    attention: str | None = None


@dataclass(frozen=True)
class Settings:
    """A run, decided: what run.json holds and what a resumed run is built from again.

    frames is None for an endless run; fps a fraction as text; parameters those of the method that were set.
    What is None until the model is loaded is filled in then.
    """

    prompt: str
    negative_prompt: str
    model: str
    method: str
    parameters: dict[str, Any]
    preset: str | None
    solver: str | None
    steps: int
    guidance: float | None
    width: int
    height: int
    fps: str
    frames: int | None
    seed: int
    image: str | None
    video: str | None
    device: str
    dtype: str | None
    batch: int | None
    search: str = "none"
    read_as: str | None = None  # the prompt in the model's own words, where it knows few
    model_name: str | None = None
    family: str | None = None
    license: str | None = None
    model_hash: str | None = None
    threads: int | None = None
    audio: str | None = None
    embed: bool = True  # the settings stand in the video's metadata
    turns: list[dict[str, Any]] = field(default_factory=list)  # changes of direction, see apps/directing
    branch: dict[str, Any] | None = None  # of a take: where it left its run
    lora: list[str] = field(default_factory=list)
    guide_model: str | None = None
    offload: str = "none"
    compile: bool = False
    options: dict[str, Any] = field(default_factory=dict)  # of the model, as `--set riflex=` gave them
    prompts: list[dict[str, Any]] = field(default_factory=list)  # of a story: frame, prompt, cut, read_as
    fade: int = 0
    prompt_rule: str = "majority"
    ending: str = "exact"
    search_parameters: dict[str, Any] = field(default_factory=dict)
    reward: str | None = None
    reward_parameters: dict[str, dict[str, Any]] = field(default_factory=dict)
    last_image: str | None = None
    attention: str | None = None  # a backend of diffusers' dispatcher

    @property
    def rate(self) -> Fraction:
        """Frames a second."""
        return Fraction(self.fps)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Settings:
        """From run.json; what an older longtake did not know gets its default. UsageError if something is amiss."""
        from longtake.apps.stored import checked

        return checked(cls, content)


def check_prompt(prompt: str) -> None:
    """UsageError for a prompt that is empty, too long or no text."""
    if not prompt.strip():
        raise UsageError(
            'the prompt is empty; say what to show, such as: longtake generate "a dog walks over green hills"'
        )
    if len(prompt) > MAX_PROMPT:
        raise UsageError(f"the prompt has {len(prompt)} characters; at most {MAX_PROMPT} are read, shorten it")
    check_text("the prompt", prompt)


def check_text(what: str, text: str) -> None:
    """UsageError for what holds bytes that the shell's encoding could not read: no file takes them."""
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UsageError(f"{what} {text[:60]!r} is not UTF-8; type it in UTF-8, in a locale such as LC_ALL=C.UTF-8")


def parse_fps(fps: float | str) -> Fraction:
    """Frames a second from 24, 23.976 or 24000/1001."""
    try:
        rate = Fraction(str(fps)).limit_denominator(1001)
        film = Fraction(round(rate * 1001 / 1000) * 1000, 1001)  # 23.976 and 29.97 mean 24000/1001 and 30000/1001
        rate = film if abs(film - rate) < Fraction(1, 10000) else rate
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 240:
        raise UsageError(f"--fps {fps} is not possible; give a number above 0, at most 240")
    return rate


def seconds_given(given: float | str) -> float:
    """A length in seconds; inf is endless."""
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if math.isnan(seconds) or seconds <= 0:
        raise UsageError(f"--seconds {given} is not possible; give a number above 0, or inf for an endless run")
    return seconds
