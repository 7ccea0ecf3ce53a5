"""What benchmarks of pocket's world write: rows that append and resume, plots that are what the rows say."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

from longtake.metrics import judge as judging
from longtake.models.tiny import save_tiny

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in ("world_rows", "world_plot", "drift", "reward_card", "card_parts", "drift_table", "search_tables"):
        sys.modules.pop(name, None)


def test_rows_append_and_resume(bench, tmp_path):
    import world_rows

    path = tmp_path / "deep" / "rows.jsonl"
    row = {"arm": "chunk", "caption": "a dog", "seed": 3, "weights": "w", "judge": "j", "frames": 45}
    assert world_rows.done(path) == set()
    world_rows.append(path, row | {"metrics": {"curve": [0.1234567, 1]}})
    path.open("a").write('{"arm": "fifo", "cut')  # the process died here
    assert world_rows.done(path) == {world_rows.key_of(row)}
    assert world_rows.key_of(row | {"seed": 4}) not in world_rows.done(path)
    (only,) = world_rows.read(path)
    assert only["metrics"]["curve"] == [0.12346, 1] and only["commit"] and only["date"]


def test_a_plot_is_where_its_numbers_are(bench):
    from world_plot import HIGH, LEFT, TOP, WIDE, Panel, draw

    def point(value, half=0.0):
        return {"mean": value, "low": value - half, "high": value + half}

    svg = draw(
        [Panel("a & b", {"one": [point(0.0), point(1.0, 0.5)], "two": [point(-1.0), point(0.5)]})], 5.0, "<below>"
    )
    root = ET.fromstring(svg)
    space = "{http://www.w3.org/2000/svg}"
    lines = root.findall(f".//{space}polyline")
    assert len(lines) == 2 and len(root.findall(f".//{space}polygon")) == 2
    ends = [tuple(map(float, pair.split(","))) for pair in lines[0].get("points", "").split()]
    bottom = HIGH - 20
    for (x, y), (time, value) in zip(ends, ((2.5, 0.0), (7.5, 1.0)), strict=True):
        assert x == pytest.approx(LEFT + time / 10 * (WIDE - LEFT), abs=0.1)
        assert y == pytest.approx(bottom - (value + 1) / 2.5 * (bottom - TOP), abs=0.1)  # from -1 to 1.5
    texts = [text.text for text in root.findall(f".//{space}text")]
    assert "a & b" in texts and "<below>" in texts and "one" in texts and "10 s" in texts


def test_a_film_of_every_arm_has_the_asked_length(bench, tmp_path):
    import drift

    import longtake

    folder = save_tiny(tmp_path / "tiny", ti2v=True)
    (folder / "longtake.json").write_text('{"window": 4, "steps": 6, "size": [64, 64], "guidance": 1.0}')
    model = longtake.load(str(folder))
    films = {arm: drift.film(model, arm, "a dog", 1, 6) for arm in ("chunk", "pixel", "progressive")}
    assert {tuple(clip.shape) for clip, _ in films.values()} == {(21, 64, 64, 3)}
    assert films["chunk"][1] == 6 * (1 + 1) and films["pixel"][1] == 6 * (1 + 1)  # 4 latents, then 2 or 3 more a chunk
    assert torch.equal(films["chunk"][0][:13], films["pixel"][0][:13])  # the first chunk is the same
    assert not torch.equal(films["chunk"][0], films["progressive"][0])
    assert judging.label().startswith("measure-")


def test_the_card_of_the_reward_model_prints_every_level_and_the_means(bench):
    import reward_card

    rows = [
        {"level": level, "trained": level > 3, "n": 8, "model": 0.1 * level, "cosine": 0.0,
         "within": {"model": 0.5, "cosine": -0.25}}
        for level in (5, 3)
    ]  # fmt: skip
    assert reward_card.ranking(rows).splitlines() == [
        "| level | trained on | model | cosine | model, within a prompt | cosine, within a prompt |",
        "|---|---|---|---|---|---|",
        "| 5 | yes | +0.500 | +0.000 | +0.500 | -0.250 |",
        "| 3 | no | +0.300 | +0.000 | +0.500 | -0.250 |",
        "| mean |  | +0.400 | +0.000 | +0.500 | -0.250 |",
    ]


def test_the_drift_table_pairs_the_second_halves_by_caption(bench, tmp_path):
    import drift_table
    import world_rows

    path, keys = tmp_path / "drift.jsonl", drift_table.SHOWN
    for number in range(4):
        for arm, gain in (("chunk", 0.0), ("progressive", 0.25), ("tuned", 0.5)):
            curve = [9.0, 9.0, number + gain, number + gain]  # the first half does not count
            world_rows.append(path, {"arm": arm, "caption": str(number), "weights": "w", "judge": "j", "nfe": 10,
                                     "metrics": dict.fromkeys(keys, curve)})  # fmt: skip
    lines = drift_table.table(path).splitlines()
    assert lines[2].startswith("| chunk | 4 | 10 |  | 1.500 | ")
    assert lines[3].startswith("| progressive | 4 | 10 | chunk | 1.750 (+0.250 [+0.250, +0.250]) |")
    assert lines[4].startswith("| tuned | 4 | 10 | progressive | 2.000 (+0.250 [+0.250, +0.250]) |")
