"""`export-vbench`: what is written is read by the tools' own rules, which are written out here a second time."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from longtake.apps.export_command import run_export
from longtake.apps.sources import find_sources
from longtake.errors import UsageError
from longtake.metrics import official
from longtake.metrics.results import read_results, totals
from longtake.output.video import read_frames
from tests.small_runs import save_run, save_video

DOG, LONG = "a dog walks right across green_hills at noon", "a cat " + "and a cow " * 60
ODD = "a ram/goat jumps -Scene of a .mp4 \u00e4\u00f6\u00fc\u732b 12"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("export")
    prompts = [DOG, DOG, DOG, LONG, ODD]
    for number, prompt in enumerate(prompts):
        save_run(folder / "runs" / f"run-{number}", prompt, number)
    run_export([folder / "runs"], folder / "out")
    return folder / "out", prompts


# -- the tools' rules, from their source -----------------------------------------------------------------------------


def prompt_of(name: str) -> str:
    """VBench: stem without -digits."""
    return re.sub(r"-\d+$", "", Path(name).stem)


def vbench_custom(videos: Path, prompt_file: Path) -> dict[str, str]:
    wanted = [name for name in os.listdir(videos) if Path(name).suffix.lower() in (".mp4", ".gif", ".jpg", ".png")]
    table = {os.path.abspath(videos / name): prompt for name, prompt in json.loads(prompt_file.read_text()).items()}
    assert len(table) >= len(wanted)
    return {name: table[os.path.abspath(videos / name)] for name in wanted}


def vbench_standard(videos: Path, prompts: list[str], samples: int, cut: int | None = None) -> list[list[str]]:
    names = os.listdir(videos)
    suffix = Path(names[0]).suffix
    wanted = [[f"{prompt[:cut]}-{i}{suffix}" for i in range(samples)] for prompt in prompts]
    return [[name for name in row if name in names] for row in wanted]


def long_clips(videos: Path, frames_of: dict[str, int], fps: float) -> dict[str, list[str]]:
    """VBench-Long: clip files by the group that their scores are averaged in."""
    groups: dict[str, list[str]] = {}
    for name in os.listdir(videos):
        base, length = name.split(".mp4")[0], int(fps) * 2
        count, rest = divmod(frames_of[name], length)
        clips = [f"{base}_{i:03d}.mp4" for i in range(count + (rest > 0))] if count else [f"{base}_full.mp4"]
        for clip in clips:
            assert len(clip.encode()) <= 255
            groups.setdefault(clip.split("_")[0], []).append(clip)
    return groups


def narrlv_questions(videos: Path, suites: Path) -> dict[str, Any]:
    """NarrLV's answer_gen: which prompt and questions it takes for every file."""
    found = {}
    for folder in os.listdir(videos):
        suite = json.loads((suites / f"{folder}.json").read_text())
        for name in os.listdir(videos / folder):
            parts = name.split("_")
            item = suite[parts[0]][int(parts[1])]
            found[name] = (item["prompt_gen"], item["element_extract_1"], item["auto_gen_question_1"])
    return found


# -- what they find --------------------------------------------------------------------------------------------------


def test_vbench_reads_every_prompt_from_the_map(exported: tuple[Path, list[str]]):
    out, prompts = exported
    found = vbench_custom(out / "vbench" / "videos", out / "vbench" / "prompts.json")
    assert sorted(found.values()) == sorted(prompts)
    assert {name for name, prompt in found.items() if prompt == DOG} == {f"{DOG}-{i}.mp4" for i in range(3)}
    assert all(prompt_of(name) == DOG for name, prompt in found.items() if prompt == DOG)


def test_standard_modes_find_their_names(exported: tuple[Path, list[str]]):
    out, _ = exported
    assert vbench_standard(out / "vbench" / "videos", [DOG], 5) == [[f"{DOG}-{i}.mp4" for i in range(3)]]
    (dogs, longs) = vbench_standard(out / "vbench-2.0" / "videos", [DOG, LONG], 3, cut=180)
    assert len(dogs) == 3 and longs == [f"{LONG[:180]}-0.mp4"]


def test_vbench_long_keeps_videos_apart(exported: tuple[Path, list[str]]):
    """40 frames at 8 a second are three clips of two seconds (the last overlaps): one group a video, none merged."""
    out, prompts = exported
    videos = out / "vbench-long" / "videos"
    lengths = {name: sum(1 for _ in read_frames(videos / name)) for name in os.listdir(videos)}
    assert set(lengths.values()) == {40}
    groups = long_clips(videos, lengths, 8.0)
    assert len(groups) == len(prompts) and all(len(clips) == 3 for clips in groups.values())
    assert all("-Scene" not in group and re.search(r"-\d+$", group) for group in groups)


def test_without_care_vbench_long_would_merge_them():
    """The control: with underscores left in, all dogs become one group."""
    placed = official.vbench([DOG, DOG])
    assert len({item.name.split("_")[0] for item in placed}) == 1
    assert len({item.name.split("_")[0] for item in official.vbench_long([DOG, DOG])}) == 2


def test_videos_lie_alone_and_once_on_disk(exported: tuple[Path, list[str]]):
    out, _ = exported
    for tool in ("vbench", "vbench-long", "vbench-2.0"):
        assert {path.suffix for path in (out / tool / "videos").iterdir()} == {".mp4"}
    assert {path.stat().st_nlink for path in (out / "vbench" / "videos").glob("a dog*")} <= {3, 4}
    assert str(out) in (out / "README.txt").read_text()


def test_narrlv_takes_our_suite(exported: tuple[Path, list[str]]):
    out, _ = exported
    found = narrlv_questions(out / "narrlv" / "videos", out / "narrlv" / "prompt_suit")
    assert sorted(prompt for prompt, _, _ in found.values()) == sorted({DOG, LONG, ODD})
    for prompt, elements, questions in found.values():
        assert elements and any(prompt in question for asked in questions.values() if asked for question in asked)


def test_narrlv_finds_the_prompts_of_its_own_suite(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    fenced, plain = "```\nA hill at dawn. Then, snow falls.\n```", "A dog waits. Then, it runs."
    suite = {
        "12": [{"prompt_gen": plain, "element_extract": {"Scene": "x"}, "auto_gen_question": {"Scene": ["?"]}}],
        "7": [{"prompt_gen": "another", "element_extract": {}, "auto_gen_question": {}},
              {"prompt_gen": fenced, "element_extract": {}, "auto_gen_question": {}}],
    }  # fmt: skip
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "prompt_suit_v4_x_tna_2.json").write_text(json.dumps(suite))
    for number, prompt in enumerate(["A hill at dawn. Then, snow falls.", plain, plain, "none of them"]):
        save_run(tmp_path / "runs" / str(number), prompt, number)
    out = run_export([tmp_path / "runs"], tmp_path / "out", tmp_path / "suite")
    found = narrlv_questions(out / "narrlv" / "videos", out / "narrlv" / "prompt_suit")
    assert set(found) == {"7_1_A hill at dawn. Then.mp4", "12_0_A dog waits. Then, i.mp4"}
    assert found["12_0_A dog waits. Then, i.mp4"][0] == plain
    assert "2 of 4 videos left out" in capsys.readouterr().err


def test_a_story_asks_for_each_part_and_each_turn():
    (item,) = official.own_suite([("a dog walks", "a dog swims", "a dog sleeps")])["0"]
    shown, turns = item["auto_gen_question"].values()
    assert len(shown) == 3 and len(turns) == 2 and "a dog walks, to showing this: a dog swims" in turns[0]


def test_prompts_come_from_the_video_or_its_name(tmp_path: Path):
    save_video(tmp_path / "in" / "a cow swims-3.mp4")
    save_video(tmp_path / "in" / "b.mp4", comment=json.dumps({"longtake": {"prompt": "a pig flies", "seed": 4}}))
    save_video(tmp_path / "in" / "c d.mp4", comment=json.dumps(["something else"]))
    out = run_export([tmp_path / "in"], tmp_path / "out")
    assert set(json.loads((out / "vbench" / "prompts.json").read_text()).values()) == {
        "a cow swims",
        "a pig flies",
        "c d",
    }


def test_a_story_is_told_with_all_its_prompts(tmp_path: Path):
    run = save_run(tmp_path / "run", "a dog walks")
    settings = json.loads((run / "run.json").read_text())
    settings["prompts"] = [{"frame": 0, "prompt": "a dog walks"}, {"frame": 16, "prompt": "a dog swims"}]
    settings["turns"] = [{"latent": 6, "key": 1, "prompt": None}, {"latent": 8, "key": 0, "prompt": "a dog sleeps"}]
    (run / "run.json").write_text(json.dumps(settings))
    (source,) = find_sources([run])
    assert source.prompts == ("a dog walks", "a dog swims", "a dog sleeps")
    out = run_export([run], tmp_path / "out")
    ((text, _, questions),) = narrlv_questions(out / "narrlv" / "videos", out / "narrlv" / "prompt_suit").values()
    assert text == "a dog walks. Then, a dog swims. Then, a dog sleeps" and len(list(questions.values())[1]) == 2


def test_names_are_cut_at_whole_letters():
    (placed,) = official.vbench(["\u732b" * 300])
    assert len(placed.name.encode()) <= 255 and set(placed.name) == set("\u732b-0.mp4")


def test_what_the_tools_would_stumble_over_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    save_run(tmp_path / "run", DOG, fps="24000/1001", ended=False)
    run_export([tmp_path / "run"], tmp_path / "out")
    said = capsys.readouterr().err
    assert "whole number" in said and "not finished" in said and "fewer than the 5 samples" in said


def test_the_commands_name_folders_whose_names_have_spaces(tmp_path: Path):
    """Read as a shell reads them."""
    out = run_export([save_run(tmp_path / "run", DOG)], tmp_path / "all of it")
    words = shlex.split((out / "README.txt").read_text().replace("\\\n", ""))
    for flag in ("--videos_path", "--prompt_file", "--evaluated_model_videos_path"):
        named = [Path(after) for word, after in zip(words, words[1:], strict=False) if word == flag]
        assert named and all(path.exists() for path in named), flag


@pytest.mark.parametrize("what", ["missing", "empty", "taken", "other", "suite"])
def test_mistakes_leave_nothing(tmp_path: Path, what: str):
    (tmp_path / "empty").mkdir()
    video = save_video(tmp_path / "clip.mp4")
    arguments: dict[str, Any] = {"paths": [video], "out": tmp_path / "out"}
    if what == "missing":
        arguments["paths"] = [tmp_path / "none"]
    elif what == "empty":
        arguments["paths"] = [tmp_path / "empty"]
    elif what == "taken":
        arguments["out"] = tmp_path
    elif what == "other":
        arguments["paths"] = [video.rename(tmp_path / "clip.mkv")]
    else:
        arguments["suite"] = tmp_path / "empty"
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UsageError):
        run_export(**arguments)
    assert [path for path in sorted(tmp_path.iterdir()) if path.suffix != ".mkv"] == [
        path for path in before if path.suffix != ".mkv"
    ]


# -- results ---------------------------------------------------------------------------------------------------------


def _rows(*values: float, **more: float) -> list[dict[str, Any]]:
    return [{"video_path": f"x/split_clip/v-{i}.mp4", "video_results": value, **more} for i, value in enumerate(values)]


def test_results_of_vbench_and_vbench_long(tmp_path: Path):
    content = {
        "subject_consistency": [0.95, _rows(0.9, 1.0, inclip_score=0.9, clip2clip_score=0.8)],
        "temporal_flickering": [0.9, _rows(0.9), [*_rows(0.9), {"long_video_cnt": 1}]],
        "dynamic_degree": [1, _rows(True)],
    }  # fmt: skip
    path = tmp_path / "results_2026_eval_results.json"
    path.write_text(json.dumps(content))
    found = read_results(path)
    assert found["subject_consistency"]["value"] == 0.95 and found["subject_consistency"]["n"] == 2
    assert found["subject_consistency"]["parts"]["v-1.mp4"] == {"inclip_score": 0.9, "clip2clip_score": 0.8}
    assert found["temporal_flickering"]["videos"] == {"v-0.mp4": 0.9} and found["dynamic_degree"]["value"] == 1.0
    assert "parts" not in found["dynamic_degree"] and totals(found) == {}
    assert read_results(tmp_path) == found
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "b_eval_results.json").write_text(json.dumps({"dynamic_degree": [0, []]}))
    with pytest.raises(UsageError, match="twice"):
        read_results(tmp_path)


def test_totals_by_hand():
    """All quality scores at the top of their range: 1. Dynamic degree at 0 takes 0.5 of 6.5 away."""
    quality = {"subject_consistency": 1, "background_consistency": 1, "temporal_flickering": 1, "dynamic_degree": 0,
               "motion_smoothness": 0.9975, "aesthetic_quality": 1, "imaging_quality": 1}  # fmt: skip
    semantic = {"object_class": 0.5, "multiple_objects": 0.5, "human_action": 0.5, "color": 0.5, "scene": 0.4111,
                "spatial_relationship": 0.5, "appearance_style": 0.1432, "temporal_style": 0.182,
                "overall_consistency": 0.182}  # fmt: skip
    found = totals({name: {"value": value} for name, value in {**quality, **semantic}.items()})
    assert found["quality"] == pytest.approx(6 / 6.5) and found["semantic"] == pytest.approx(0.5)
    assert found["total"] == pytest.approx((4 * 6 / 6.5 + 0.5) / 5)


def test_totals_of_the_second_suite_by_hand():
    names = ["Composition", "Diversity", "Instance_Preservation", "Motion_Rationality", "Camera_Motion",
             "Complex_Landscape", "Complex_Plot", "Dynamic_Attribute", "Dynamic_Spatial_Relationship",
             "Human_Interaction", "Motion_Order_Understanding", "Human_Anatomy", "Human_Clothes",
             "Human_Identity", "Material", "Mechanics",
             "Multi-View_Consistency", "Thermotics"]  # fmt: skip
    values = {name: {"value": i / 20} for i, name in enumerate(names)}
    means = [0.5 / 20, 2.5 / 20, 7 / 20, 12 / 20, 15.5 / 20]
    assert totals(values)["vbench2_total"] == pytest.approx(sum(means) / 5)
    del values["Thermotics"]
    assert "vbench2_total" not in totals(values) and "creativity" in totals(values)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"a": []}', '{"a": [true]}', '{"a": 3}'])
def test_other_files_are_no_results(tmp_path: Path, text: str):
    (tmp_path / "x_eval_results.json").write_text(text)
    with pytest.raises(UsageError):
        read_results(tmp_path)
