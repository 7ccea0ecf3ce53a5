"""`generate --from`: what a video tells of its settings, and what is typed beside them.

Two sides throughout: the plan of a request read out of a film, and the plan of the same request typed in full.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from longtake.apps.planning import plan
from longtake.apps.settings import Request, Settings
from longtake.apps.stories import embedded, requested
from longtake.errors import UsageError
from longtake.output.video import Format, VideoWriter

PROMPT = "a dog walks right"
SEARCHED: dict[str, Any] = dict(
    method="chunk", search="k-step", reward="motion", frames=65, seed=3, steps=12,
    set=["chunk.overlap=3", "k-step.candidates=7", "motion.of=latents", "fade=3", "prompt_rule=start"],
)  # fmt: skip


def film(folder: Path, **typed: Any) -> Path:
    """A film of one frame that tells the settings of a request."""
    settings = plan(Request(PROMPT, **typed))[0]
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
