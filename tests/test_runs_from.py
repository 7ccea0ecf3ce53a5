"""`generate --from`: what a video tells of its settings, and what is typed beside them.

Two sides throughout: the plan of a request read out of a film, and the plan of the same request typed in full.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from longtake.apps.methods import METHODS
from longtake.apps.parameters import Parameter
from longtake.apps.planning import plan
from longtake.apps.rewarding import REWARDS
from longtake.apps.searches import SEARCHES
from longtake.apps.settings import Request, Settings
from longtake.apps.stored import reward_sets, sets_of
from longtake.apps.stories import embedded, requested
from longtake.apps.tables import GENERAL, MODEL_OPTIONS
from longtake.apps.terms import Numbers, Sum, Word
from longtake.errors import UsageError
from longtake.output.video import Format, VideoWriter

PROMPT = "a dog walks right"
SEARCHED: dict[str, Any] = dict(
    method="chunk", search="k-step", reward="motion", frames=65, seed=3, steps=12,
    set=["chunk.overlap=3", "k-step.candidates=7", "motion.of=latents", "fade=3", "prompt_rule=start"],
)  # fmt: skip


def film(folder: Path, **typed: Any) -> Path:
    """A film of one frame that tells the settings of a request, and what a loaded model adds to them."""
    settings = replace(plan(Request(PROMPT, **typed))[0], model_name="pocket", family="wan")
    path = folder / "told.mp4"
    path.unlink(missing_ok=True)
    form = Format(settings.width, settings.height, settings.rate)
    writer = VideoWriter(path, form, comment=embedded(settings))
    writer.write(torch.zeros(1, form.height, form.width, 3, dtype=torch.uint8))
    writer.flush(last=True)
    return path


def again(path: Path, **typed: Any) -> Settings:
    """The settings of `generate --from` with more typed beside it."""
    return plan(requested({"prompt": None, **typed}, path)[0])[0]


def typed_in_full(**typed: Any) -> Settings:
    return plan(Request(PROMPT, **typed))[0]


CHANGES = {
    "nothing": ({}, {}),
    "no search": ({"search": "none"}, {"search": None, "reward": None, "set": ["chunk.overlap=3"]}),
    "another search": (
        {"search": "best-of-n"},
        {"search": "best-of-n", "set": ["chunk.overlap=3", "motion.of=latents"]},
    ),
    "a search that judges nothing": (
        {"search": "freeinit"},
        {"search": "freeinit", "reward": None, "set": ["chunk.overlap=3"]},
    ),
    "another reward": (
        {"reward": "clip-min"},
        {"reward": "clip-min", "set": ["chunk.overlap=3", "k-step.candidates=7"]},
    ),
    "another method": (
        {"method": "replace"},
        {"method": "replace", "steps": None, "set": ["k-step.candidates=7", "motion.of=latents"]},
    ),
    "a budget": (
        {"search_budget": "3x"},
        {"search_budget": "3x", "set": ["chunk.overlap=3", "motion.of=latents"]},
    ),
    "one parameter": (
        {"set": ("k-step.candidates=4",)},
        {"set": ["chunk.overlap=3", "k-step.candidates=4", "motion.of=latents"]},
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_typed_takes_the_place_of_what_was_restored_and_nothing_else(name: str, tmp_path: Path) -> None:
    typed, whole = CHANGES[name]
    full = {**SEARCHED, **whole}
    full["set"] = [text for text in dict.fromkeys([*full["set"], "fade=3", "prompt_rule=start"])]
    assert again(film(tmp_path, **SEARCHED), **typed) == typed_in_full(**full)


@pytest.mark.parametrize("typed, method", [({"steps": 24}, "fifo"), ({"set": ("fifo.partitions=2",)}, "fifo"),
                                           ({"solver": "unipc"}, "fifo"), ({"method": "chunk"}, "chunk")])  # fmt: skip
def test_a_queue_is_given_other_steps_or_left_in_one_word(typed: dict[str, Any], method: str, tmp_path: Path) -> None:
    path = film(tmp_path, method="fifo", frames=65, seed=3, set=["fifo.partitions=3", "fifo.eta=.5", "ending=shrink"])
    settings = again(path, **typed)
    assert settings.method == method and settings.steps == (36 if "solver" in typed else 24)
    assert settings.ending == ("shrink" if method == "fifo" else "exact")
    assert settings.parameters.get("eta") == (0.5 if method == "fifo" and "solver" not in typed else None)


def test_a_file_of_prompts_takes_the_place_of_the_prompt(tmp_path: Path) -> None:
    path, story = film(tmp_path, frames=64, seed=3), tmp_path / "story.txt"
    story.write_text("0s: a dog runs\n4s: a cat sits")
    settings = again(path, prompt_file=str(story))
    assert [scene["prompt"] for scene in settings.prompts] == ["a dog runs", "a cat sits"] and settings.frames == 64
    with pytest.raises(UsageError, match="give one"):
        again(path, prompt_file=str(story), prompt="a cow")


def test_a_preset_counts_more_than_the_video_and_less_than_what_is_typed(tmp_path: Path) -> None:
    path = film(tmp_path, **SEARCHED)
    settings = again(path, preset="miga-wan")
    assert (settings.method, settings.steps, settings.search, settings.guidance) == ("miga", 54, "reflect", 5.0)
    assert settings.search_parameters == {"threshold": 0.01, "tries": 3} and settings.parameters["zigzag"] == 7
    assert settings.fade == 3 and settings.reward == "motion", "what the preset does not speak of stays"
    bare = again(path, preset="miga-wan", search="none", guidance=0, steps=40)
    assert (bare.search, bare.reward, bare.guidance, bare.steps) == ("none", None, 0, 40)


def words(parameter: Parameter) -> list[str]:
    """What may be typed for a parameter: at least two values of its kind."""
    if isinstance(parameter, Sum):
        one, other = parameter.names[:2]
        return [one, f"{other}+2*{one}", f".0000125*{one}+{other}", f"1e15*{other}"]
    if isinstance(parameter, Numbers):
        return ["8,6,4", "5"]
    if isinstance(parameter, Word):
        return ["Some/Folder", "a=b"] if type(parameter) is Word else ["colour-histogram"]
    if isinstance(parameter.kind, tuple):
        return list(parameter.kind)
    low = parameter.low or 0
    numbers = [f"{low + 1:g}", "17"] if parameter.kind is int else [f"{low + 0.1:g}", "1e-05", "123456.789", "9e15"]
    known = {bool: ["true", "false"], str: ["true", "97"]}
    return [text for text in known.get(parameter.kind, numbers) if text != "1e-05" or low == 0]


OWNERS = [
    *((f"{row.name}.", parameter) for table in (METHODS, SEARCHES, REWARDS) for row in table.values()
      for parameter in row.parameters),
    *(("", parameter) for parameter in (*GENERAL, *MODEL_OPTIONS) if parameter.name != "batch"),
]  # fmt: skip


@pytest.mark.parametrize("owner, parameter", OWNERS, ids=[f"{owner}{one.name}" for owner, one in OWNERS])
def test_every_parameter_comes_back_as_it_was_typed(owner: str, parameter: Parameter) -> None:
    """Typed, read, kept as JSON, and written as it would be typed again, it reads the same."""
    bare = plan_of_nothing()
    for text in words(parameter):
        value = parameter.parse(owner, text)
        name, kept = owner.rstrip("."), json.loads(json.dumps({parameter.name: value}))
        if name in METHODS:
            told = sets_of(replace(bare, method=name, parameters=kept))
        elif name in SEARCHES:
            told = sets_of(replace(bare, search=name, search_parameters=kept))
        elif name in REWARDS:
            told = reward_sets(replace(bare, reward_parameters={name: kept}))
        else:
            told = sets_of(replace(bare, **(kept if parameter in GENERAL else {"options": kept})))
        (found,) = [one.partition("=")[2] for one in told if one.startswith(f"{owner}{parameter.name}=")]
        assert parameter.parse(owner, found) == value


def plan_of_nothing() -> Settings:
    return Settings(PROMPT, "", "pocket", "chunk", {}, None, None, 8, None, 64, 64, "8", 8, 1, None, None, "cpu", None,
                    None)  # fmt: skip


@pytest.mark.parametrize("typed", [
    {"search": "latsearch", "set": ["latsearch.levels=8,6,4"]},
    {"search": "evolve", "set": ["evolve.population=4,2,2", "evolve.levels=12,8,4"]},
    {"search": "beam", "set": ["beam.proposals=gaussian+.5*fft", "beam.width=2"]},
])  # fmt: skip
def test_lists_and_sums_of_a_search_are_told_by_a_video(typed: dict[str, Any], tmp_path: Path) -> None:
    typed = dict(method="chunk", frames=65, seed=3, steps=12, **typed)
    settings = again(film(tmp_path, **typed))
    assert settings == typed_in_full(**typed) and len(settings.search_parameters) == len(typed["set"])


def test_another_model_has_its_own_size_rate_steps_and_guidance(tmp_path: Path) -> None:
    from longtake.models.tiny import save_tiny

    wan = tmp_path / "tiny"
    save_tiny(wan)
    typed: dict[str, Any] = dict(method="chunk", seconds=8, seed=3, set=["chunk.overlap=1", "fade=3"])
    path = film(tmp_path, **typed, steps=12, guidance=3.0, solver="euler", fps=10, size="32x32")
    assert again(path, model=str(wan)) == typed_in_full(**typed, model=str(wan))
    assert again(path, model=str(wan), fps=5, steps=3).frames == 40, "as long as it was, at the rate that is typed"
    assert again(path, model="pocket").fps == "10", "the same model goes on as it was"
    assert any("is another: size, fps" in line for line in requested({"prompt": None, "model": str(wan)}, path)[1])
    native = again(film(tmp_path, **typed, steps=12, guidance=3.0), model="pocket-progressive")
    assert (native.steps, native.guidance) == (12, 3.0), "a model whose videos are alike goes on as it was"
