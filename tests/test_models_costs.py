"""What the pages of the models say a minute costs is what a dry run counts, on folders with the published shapes.

Folders hold JSON of the published number of frames beside tiny weights, which a dry run does not load. The numbers are
read from the pages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from longtake.apps.planning import dry_run, plan
from longtake.apps.session import windows_at_once
from longtake.apps.settings import Request, Settings
from longtake.core.forecast import Forecast
from longtake.core.model import Capabilities
from longtake.models.consisti2v_tiny import save_tiny_consisti2v
from longtake.models.opensora_tiny import save_tiny_open_sora
from longtake.models.opensoraplan_tiny import save_tiny_open_sora_plan
from longtake.models.tiny import tiny_wan
from longtake.models.tiny_cogvideox import tiny_cogvideox
from longtake.models.tiny_own import save_tiny_latte_ucf, save_tiny_videocrafter, tiny_latte, tiny_svd
from longtake.models.tiny_skyreels import tiny_skyreels, tiny_skyreels_image

DOCS = Path(__file__).parent.parent / "docs"


def pipeline(make: Callable[[], Any]) -> Callable[[Path], Any]:
    return lambda home: make().save_pretrained(home, safe_serialization=True)


# name: (how its folder is written, what the published JSON says otherwise by file, the size and what it begins with)
WAN: dict[str, Any] = {"size": "32x48"}
SMALL: dict[str, Any] = {"size": "48x32"}
PICTURE: dict[str, Any] = {"image": "picture.png"}
HOMES: dict[str, tuple[Callable[[Path], Any], dict[str, dict[str, Any]], dict[str, Any]]] = {
    "wan": (pipeline(tiny_wan), {}, WAN),
    "wan-a14b": (pipeline(lambda: tiny_wan(boundary=0.875)), {}, WAN),
    "wan-ti2v": (pipeline(lambda: tiny_wan(ti2v=True)), {}, {"size": "64x64"}),
    "skyreels": (pipeline(tiny_skyreels), {}, WAN),
    "skyreels-i2v": (pipeline(tiny_skyreels_image), {}, WAN | PICTURE),
    "cogvideox": (pipeline(lambda: tiny_cogvideox(rotary=True)), {"longtake": {"window": 13}}, SMALL),
    "cogvideox-i2v": (
        pipeline(lambda: tiny_cogvideox(image=True, rotary=True)), {"longtake": {"window": 13}}, SMALL | PICTURE
    ),
    "cogvideox15": (pipeline(lambda: tiny_cogvideox(newer=True)), {"longtake": {"window": 22}}, SMALL),
    "cogvideox15-i2v": (
        pipeline(lambda: tiny_cogvideox(image=True, newer=True)), {"longtake": {"window": 21}}, SMALL | PICTURE
    ),
    "videocrafter2": (save_tiny_videocrafter, {"longtake": {"window": 16}}, {}),
    "latte": (pipeline(tiny_latte), {"transformer/config": {"video_length": 16}}, SMALL),
    "latte-ucf": (
        save_tiny_latte_ucf, {"transformer/config": {"frames": 16}, "longtake": {"window": 16}},
        {"prompt": "playing guitar"},
    ),
    "svd": (pipeline(tiny_svd), {"unet/config": {"num_frames": 14}}, SMALL | PICTURE),
    "svd-xt": (pipeline(tiny_svd), {"unet/config": {"num_frames": 25}}, SMALL | PICTURE),
    "consisti2v": (save_tiny_consisti2v, {"longtake": {"window": 16}}, PICTURE),
    "open-sora": (save_tiny_open_sora, {"longtake": {"window": 15}}, {}),
    "open-sora-35": (save_tiny_open_sora, {"longtake": {"window": 35}}, {}),
    "open-sora-plan": (save_tiny_open_sora_plan, {"longtake": {"window": 24}}, {}),
    "open-sora-plan-i2v": (
        lambda home: save_tiny_open_sora_plan(home, inpaint=True), {"longtake": {"window": 24}}, PICTURE
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published")
    Image.new("RGB", (64, 48), (200, 40, 60)).save(root / "picture.png")
    return root


def paper(root: Path, name: str, **asked: Any) -> tuple[Settings, Forecast]:
    """The settings and the dry run of a minute, unless `frames` are asked for."""
    save, changes, more = HOMES[name]
    home = root / name
    if not home.is_dir():
        save(home)
        for file, values in changes.items():
            path = home / f"{file}.json"
            told = json.loads(path.read_text()) if path.is_file() else {}
            # a tiny folder's own steps, fps and guidance are not those of the family
            kept = {key: told[key] for key in ("family", "size") if key in told} if file == "longtake" else told
            path.write_text(json.dumps({**kept, **values}))
    options = {"prompt": "a dog", "seed": 1, **more, **({} if "frames" in asked else {"seconds": "60"}), **asked}
    if "image" in options:
        options["image"] = str(root / options["image"])
    settings, facts, _ = plan(Request(model=str(home), **options))
    return settings, dry_run(settings, facts)[0]


def said(page: str, pattern: str) -> int:
    """The number that stands on a page where `pattern` has its group."""
    found = re.findall(pattern, " ".join((DOCS / page).read_text().split()))
    assert len(found) == 1, (page, pattern, found)
    return int(found[0].replace(",", ""))


N = r"([\d,]+\d)"
VC2, LATTE, OPEN, PLAN = (f"models/{name}.md" for name in ("videocrafter2", "latte", "open-sora", "open-sora-plan"))
SKY, COG, SVD, CON, WANS = (f"models/{name}.md" for name in ("skyreels", "cogvideox", "svd", "consisti2v", "wan"))
FIFO, CHUNK = {"method": "fifo"}, {"method": "chunk"}
SWEEP = {**FIFO, "steps": 64}
COSTS: list[tuple[str, str, str, dict[str, Any]]] = [
    (WANS, rf"\| 2.1, 16 fps \| 241 \| {N}", "wan", CHUNK),
    (WANS, rf"\| 2.1, 16 fps \| 241 \| [\d,]+ \| {N} \(63", "wan", FIFO),
    (WANS, rf"\| 2.1, 16 fps \|[^(]*\(63 steps\) \| {N} \(54", "wan", {"preset": "miga-paper"}),
    (WANS, rf"\| 2.2 A14B, 16 fps \| 241 \| {N}", "wan-a14b", CHUNK),
    (WANS, rf"\| 2.2 A14B, 16 fps \| 241 \| [\d,]+ \| at most {N}", "wan-a14b", FIFO),
    (WANS, rf"\| 2.2 TI2V-5B, 24 fps \| 361 \| {N}", "wan-ti2v", CHUNK),
    (WANS, rf"\| 2.2 TI2V-5B, 24 fps \| 361 \| [\d,]+ \| {N} \(93", "wan-ti2v", FIFO),
    (SKY, rf"counts 2\): fifo {N} \(75", "skyreels", FIFO),
    (SKY, rf"progressive {N} \(72", "skyreels", {"method": "progressive"}),
    (SKY, rf"chunk with overlap 2 {N}", "skyreels", {**CHUNK, "set": ["chunk.overlap=2"]}),
    (SKY, rf"from a picture by channels, chunk {N}", "skyreels-i2v", CHUNK),
    (COG, rf"chunk with overlap 2, {N}", "cogvideox", CHUNK),
    (COG, rf"joined through the last one, {N}", "cogvideox-i2v", CHUNK),
    (COG, rf"241 latents: chunk {N} either way", "cogvideox15", CHUNK),
    (COG, rf"241 latents: chunk {N} either way", "cogvideox15-i2v", CHUNK),
    (VC2, rf"600 frames cost {N} network", "videocrafter2", {**SWEEP, "solver": "ddim", "set": ["fifo.eta=1"]}),
    (VC2, rf"chunk by chunk with 50 steps {N}", "videocrafter2", {**CHUNK, "steps": 50}),
    (VC2, r"one clip of 16 frames (\d+)", "videocrafter2", {"method": "plain", "frames": 16, "steps": 50}),
    (LATTE, rf"480 frames cost {N}", "latte", SWEEP),
    (LATTE, rf"chunk by chunk with 50 steps {N}", "latte", {**CHUNK, "steps": 50}),
    (LATTE, rf"128 frames cost {N}", "latte-ucf", {**SWEEP, "frames": 128}),
    (SVD, rf"420 frames cost {N}", "svd", {**CHUNK, "set": ["chunk.overlap=1"]}),
    (SVD, r"with XT (\d+)\.", "svd-xt", {**CHUNK, "set": ["chunk.overlap=1"]}),
    (CON, rf"chunk: {N} network", "consisti2v", {}),
    (CON, rf"fifo of 48 steps: {N}", "consisti2v", {**FIFO, "steps": 48}),
    (OPEN, rf"as the release does\): {N}", "open-sora", CHUNK),
    (OPEN, rf"fifo of 45 steps, its default: {N}; PA", "open-sora", FIFO),
    (OPEN, r"PA-VDM \(below\): (\d+)", "open-sora-35", {
        "method": "progressive", "steps": 30,
        "set": ["progressive.window=30", "progressive.chunk=5", "progressive.prefix=5"],
    }),
    (PLAN, rf"chunk with overlap 6: {N}", "open-sora-plan-i2v", {"set": ["chunk.overlap=6"]}),
    (PLAN, rf"fifo of 72 steps, the default: {N}", "open-sora-plan", {}),
    (PLAN, rf"of 96 steps, nearest to the release's 100: {N}", "open-sora-plan", {"steps": 96}),
]  # fmt: skip


@pytest.mark.parametrize(
    "page,pattern,name,asked", COSTS, ids=[f"{at}-{name}" for at, (_, _, name, _) in enumerate(COSTS)]
)
def test_a_minute_costs_what_its_page_says(root, page: str, pattern: str, name: str, asked: dict[str, Any]):
    told = paper(root, name, **asked)[1]
    assert told.nfe == said(page, pattern) and told.exact == ("at most" not in pattern)


@pytest.mark.parametrize(
    "window,shape,many",
    [(12, (16, 8, 8), 8), (16, (4, 40, 64), 4), (13, (16, 60, 90), 2), (21, (16, 60, 104), 1), (21, (16, 90, 160), 1)],
    ids=["pocket", "VideoCrafter2", "CogVideoX", "Wan at 480p", "Wan at 720p"],
)
def test_an_accelerator_is_given_as_many_windows_as_it_holds(window: int, shape: tuple[int, int, int], many: int):
    """Eight windows of Wan at 480p, twice for guidance, run out of 24 GB on the first tick."""
    assert windows_at_once(Capabilities(window, shape)) == many
