"""File names and prompt maps that the official benchmark tools read, unmodified.

VBench         `{prompt}-{i}.mp4`, i = 0..4, in a folder that holds nothing else: its standard mode takes the suffix of
               whatever file comes first. Custom input takes the prompt from the name without `-{i}`, or from a JSON of
               file name to prompt.
VBench-Long    the same, but it groups clips by the text before the first "_", cuts names at ".mp4" and at "-Scene",
               and reads `int(fps)`: so no "_", no ".mp4" and no "-Scene" in a prompt's name, and whole frames a second.
               It cuts videos into clips of 2 seconds named `{name}_{number}.mp4`; below two clips there is no score
               from clip to clip.
VBench-2.0     `{prompt[:180]}-{i}.mp4`, three samples a prompt (20 for Diversity); it stops at the first missing one.
NarrLV         `{scene}_{number}_{prompt[:20]}.mp4` in a folder named like the JSON of its prompts, where `scene` and
               `number` say which prompt. The tool that asks the questions reads "element_extract_1" and
               "auto_gen_question_1" from `resource/prompt_suit/`; the published prompts call them "element_extract"
               and "auto_gen_question" and lie in `resource/prompt_suite/`, so the copy made here has both names.

A file's name holds at most 255 bytes, so long prompts are cut; the JSON of prompts has them whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LONGEST = 255
SAMPLES = {"vbench": 5, "vbench-long": 5, "vbench-2.0": 3}
"""Videos of one prompt that a tool's standard mode wants."""

SUITE = "longtake"
QUESTIONS = ("Main Target Action Evolution_0", "Main Target Action Evolution_1")


@dataclass(frozen=True)
class Placed:
    """A video under the name that a tool expects. `folder` is below the tool's own."""

    video: int
    folder: str
    name: str


def vbench(prompts: Sequence[str]) -> list[Placed]:
    """VBench's names of videos with these prompts, in order."""
    return _numbered(prompts, _plain)


def vbench_long(prompts: Sequence[str]) -> list[Placed]:
    """VBench-Long's: names without what it splits at, and room for what it appends."""
    return _numbered(prompts, lambda prompt: _cut(_unsplit(_plain(prompt)), LONGEST - 40))


def vbench2(prompts: Sequence[str]) -> list[Placed]:
    """VBench-2.0's: 180 characters of the prompt."""
    return _numbered(prompts, lambda prompt: _plain(prompt[:180]))


def narrlv(prompts: Sequence[str], suites: Mapping[str, Mapping[str, Any]]) -> list[Placed]:
    """NarrLV's, for those prompts that a suite (by file name without .json) holds; one video a prompt."""
    where: dict[str, tuple[str, str, int, str]] = {}
    for suite, scenes in suites.items():
        for scene, items in scenes.items():
            for number, item in enumerate(items):
                text = unfenced(item["prompt_gen"])
                where.setdefault(text.strip(), (suite, scene, number, text))
    placed, taken = [], set()
    for video, prompt in enumerate(prompts):
        found = where.get(prompt.strip())
        if found and found[:3] not in taken:
            suite, scene, number, text = found
            taken.add(found[:3])
            placed.append(Placed(video, suite, f"{scene}_{number}_{_plain(text[:20])}.mp4"))
    return placed


def own_suite(stories: Sequence[Sequence[str]]) -> dict[str, list[dict[str, Any]]]:
    """A suite in NarrLV's form for stories, each a list of prompts. Its questions are ours, not the benchmark's."""
    items = []
    for story in stories:
        shown = [f"Does the video contain any segments showing this: {part}?" for part in story]
        turns = [
            f"Does the video change over time from showing this: {before}, to showing this: {after}? If it does not "
            "show both, one after the other, consider 'no'."
            for before, after in zip(story, story[1:], strict=False)
        ]
        questions = dict(zip(QUESTIONS, (shown, turns or None), strict=True))
        elements = {"Main Target Action Evolution": list(story)}
        items.append(
            {"prompt_gen": told(story), "prompt_gen_list_extract": list(story), "element_extract": elements,
             "auto_gen_question": questions}
        )  # fmt: skip
    return {"0": items}


def told(story: Sequence[str]) -> str:
    """A story's prompts as one text; a single prompt as it is."""
    if len(story) == 1:
        return story[0]
    return ". Then, ".join(part.strip().rstrip(".") for part in story)


def readable(suite: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """A suite with the names that NarrLV's tool looks for, beside those that its prompts have."""
    keys = {"element_extract_1": "element_extract", "auto_gen_question_1": "auto_gen_question"}

    def named(item: Mapping[str, Any]) -> dict[str, Any]:
        return {**{new: item[old] for new, old in keys.items() if old in item}, **item}

    return {scene: [named(item) for item in items] for scene, items in suite.items()}


def unfenced(text: str) -> str:
    """A prompt of NarrLV without the code fence that some of its prompts stand in."""
    fence = "```"
    if text.startswith(fence + "\n") and text.endswith("\n" + fence):
        text = text[4:]
    return text[:-4] if text.endswith("\n" + fence) else text


def _numbered(prompts: Sequence[str], name: Any) -> list[Placed]:
    counts: dict[str, int] = {}
    placed = []
    for video, prompt in enumerate(prompts):
        text = name(prompt)
        number = counts[text] = counts.get(text, -1) + 1
        placed.append(Placed(video, "", f"{text}-{number}.mp4"))
    return placed


def _plain(prompt: str) -> str:
    # what no file name may hold becomes a space; nothing else changes, for names must equal prompts to the letter
    return _cut(re.sub(r"[/\\\x00-\x1f\x7f]", " ", prompt), LONGEST - len("-1000.mp4"))


def _unsplit(text: str) -> str:
    return text.replace("_", " ").replace("-Scene", " Scene").replace(".mp4", " mp4")


def _cut(text: str, limit: int) -> str:
    return text.encode()[:limit].decode(errors="ignore")
