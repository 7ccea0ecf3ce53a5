"""The HTML report: whole by itself, its curves drawn to scale, its tiles and numbers those of the videos."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from longtake.apps.eval_command import evaluate
from longtake.apps.videos import run_videos
from longtake.errors import UsageError
from longtake.metrics import plots, report
from longtake.metrics.report import Measured, write_report
from longtake.output.video import read_frames
from tests.small_runs import picture_frames, save_run, save_video

ENTRIES: dict[str, dict[str, Any]] = {
    "temporal_flickering": {"value": 0.75, "encoder": "pixels", "n": 39, "curve": [0.7, None, 0.8],
                            "slope": {"value": 0.5, "low": -0.25, "high": 1.25}},
    "scene_count": {"value": 2, "encoder": "adaptive-detector", "n": 40, "cuts": [20], "alarm": "cuts at 2.5 s <b>"},
    "subject_consistency@vbench-formula": {"value": 0.5, "encoder": "mobilenetv2", "n": 39},
}  # fmt: skip


class Reader(HTMLParser):
    """Checks that what is opened is closed, and keeps attributes and text."""

    EMPTY = frozenset(["meta", "img", "link", "br", "input"])

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _uri(value: str | None) -> bytes:
    return base64.b64decode(str(value).partition(";base64,")[2])


def test_one_video(tmp_path: Path):
    path = save_video(tmp_path / "a.mp4")
    out = write_report(tmp_path / "r.html", [Measured("<a> & b", path, ENTRIES, {"prompt": "a dog", "seed": None})])
    text = out.read_text()
    page = Reader(text)
    assert "<a> & b" in page.text and "cuts at 2.5 s <b>" in page.text and "prompt: a dog" in page.text
    assert not re.findall(r"https?://(?!www\.w3\.org)", text) and "seed" not in "".join(page.text)
    (player,) = [attributes for tag, attributes in page.found if tag == "video"]
    assert _uri(player["src"]) == path.read_bytes()
    tiles = [Image.open(BytesIO(_uri(attributes["src"]))) for tag, attributes in page.found if tag == "img"]
    times = [float(attributes["data-at"] or -1) for tag, attributes in page.found if tag == "button"]
    assert times == [0, 2, 4] and len(tiles) == 3
    frames = list(read_frames(path))
    for second, tile in zip(times, tiles, strict=True):
        assert abs(np.asarray(tile).astype(int) - frames[int(8 * second)]).mean() < 4
    for name, value in (("temporal_flickering", "0.7500"), ("scene_count", "2"), ("mobilenetv2", None)):
        assert name in page.text and (value is None or value in page.text)


def test_several_videos_have_a_table_that_leads_to_them(tmp_path: Path):
    paths = [save_video(tmp_path / f"{i}.mp4", picture_frames(9, seed=i)) for i in range(3)]
    videos = [Measured(path.name, path, ENTRIES if i else {"other": {"value": 0.1, "encoder": "x", "n": 1}})
              for i, path in enumerate(paths)]  # fmt: skip
    mean = {"temporal_flickering": {"value": 0.625, "encoder": "pixels", "n": 2}}
    page = Reader(write_report(tmp_path / "r.html", videos, mean).read_text())
    links = [attributes["href"] for tag, attributes in page.found if tag == "a"]
    ids = [attributes["id"] for tag, attributes in page.found if tag == "section"]
    assert links == ["#v0", "#v1", "#v2"] and ids == ["v0", "v1", "v2"]
    assert "0.6250" in page.text and "other" in page.text


def test_beyond_forty_videos_only_the_table_grows(tmp_path: Path):
    path = save_video(tmp_path / "a.mp4", picture_frames(3))
    videos = [Measured(f"video {i}", path, {"m": {"value": i / 100, "encoder": "x", "n": 1}}) for i in range(50)]
    page = Reader(write_report(tmp_path / "r.html", videos).read_text())
    assert sum(tag == "section" for tag, _ in page.found) == 40 and "video 49" in page.text and "0.4900" in page.text


# -- curves ----------------------------------------------------------------------------------------------------------


def _drawn(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def test_a_curve_is_drawn_to_scale():
    """Values 1, 3, 2 over 6 seconds: dots at 1, 3, 5 s; the top is 3, the bottom 1, the third half way between."""
    svg = _drawn(plots.curve_svg([1, 3, 2], 6, 2, "name", [3.0]))
    dots = [(float(dot.get("cx") or 0), float(dot.get("cy") or 0)) for dot in svg.iter("circle")]
    width = plots.WIDTH - plots.LEFT - plots.RIGHT
    assert [x for x, _ in dots] == pytest.approx(
        [plots.LEFT + width * part for part in (1 / 6, 3 / 6, 5 / 6)], abs=0.06
    )
    top, bottom = plots.TOP, plots.HEIGHT - plots.BOTTOM
    assert [y for _, y in dots] == pytest.approx([bottom, top, (top + bottom) / 2], abs=0.06)
    (cut,) = [line for line in svg.iter("line") if line.get("class") == "cut"]
    assert float(cut.get("x1") or 0) == pytest.approx(plots.LEFT + width / 2, abs=0.06)
    texts = [text.text for text in svg.iter("text")]
    assert "6 s" in texts and "3.0000" in texts and "1.0000" in texts


def test_a_gap_is_a_gap_and_nothing_known_is_nothing():
    svg = _drawn(plots.curve_svg([1, 2, None, 3, 4, float("nan"), 5], 14, 2, "<name>"))
    assert [len((line.get("points") or "").split()) for line in svg.iter("polyline")] == [2, 2]
    assert len(list(svg.iter("circle"))) == 5 and svg.get("aria-label") == "<name> over time"
    assert plots.curve_svg([None, float("nan")], 4, 2, "name") == ""


def test_hardly_any_change_does_not_look_like_one():
    svg = _drawn(plots.curve_svg([0.98, 0.9801], 4, 2, "name"))
    heights = [float(dot.get("cy") or 0) for dot in svg.iter("circle")]
    assert abs(heights[0] - heights[1]) < 2


# -- contact sheets --------------------------------------------------------------------------------------------------


def test_a_long_video_has_tiles_of_all_of_it(tmp_path: Path):
    """310 seconds at a frame a second: 155 tiles of two seconds are too many, so one in four, in equal steps."""
    frames = torch.arange(310, dtype=torch.uint8)[:, None, None, None].expand(310, 16, 16, 3).contiguous()
    sheet = report.contact_sheet(save_video(tmp_path / "long.mp4", frames, fps="1"))
    times = [second for second, _ in sheet.tiles]
    assert times == list(range(0, 310, 8)) and len(times) <= report.TILES
    assert (sheet.num_frames, sheet.seconds) == (310, 310)
    for second, tile in sheet.tiles:
        assert abs(int(np.asarray(tile).mean()) - int(second) % 256) <= 4


def test_tiles_are_small_and_keep_their_shape(tmp_path: Path):
    frames = torch.zeros(3, 90, 400, 3, dtype=torch.uint8)
    sheet = report.contact_sheet(save_video(tmp_path / "wide.mp4", frames))
    assert sheet.tiles[0][1].size == (160, 36)


def test_a_report_needs_videos_and_a_name(tmp_path: Path):
    video = save_video(tmp_path / "a.mp4")
    for inputs, suite, page in ((None, "world", tmp_path / "r.html"), ([video], None, tmp_path)):
        with pytest.raises(UsageError, match="--report"):
            evaluate(inputs, suite, report=page)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_eval_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = save_run(tmp_path / "runs" / "one", "a dog walks right")
    save_video(tmp_path / "runs" / "two.mp4", picture_frames(12, seed=2))
    run_videos([tmp_path / "runs"], True, tmp_path / "r.html")
    said = capsys.readouterr()
    page = Reader((tmp_path / "r.html").read_text())
    numbers = json.loads(said.out)["files"]
    assert set(numbers) == {str(run), str(tmp_path / "runs" / "two.mp4")} and "r.html" in said.err
    for name, entries in numbers.items():
        assert name in page.text and f"{entries['temporal_flickering']['value']:.4f}" in page.text
    assert "prompt: a dog walks right" in page.text and "method: fifo" in page.text
