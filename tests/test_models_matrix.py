"""Every method on every family, by the command line, on tiny random folders: docs/models/matrix.json is what happens.

A "yes" makes a film of the asked length whose plan, meter and network count the same evaluations; a "no" is refused for
the reason that stands there. Fast cells run always, all of them with `--slow` tests.
"""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn.modules.module import register_module_forward_hook

from longtake.apps.cli import main
from longtake.apps.tables import METHODS
from longtake.models.consisti2v_tiny import save_tiny_consisti2v
from longtake.models.families import FAMILIES
from longtake.models.opensora_tiny import save_tiny_open_sora
from longtake.models.opensoraplan_tiny import save_tiny_open_sora_plan
from longtake.models.tiny import tiny_wan
from longtake.models.tiny_cogvideox import tiny_cogvideox
from longtake.models.tiny_own import save_tiny_latte_ucf, save_tiny_videocrafter, tiny_latte, tiny_svd
from longtake.models.tiny_skyreels import tiny_skyreels
from longtake.output.video import read_frames

DOCS = Path(__file__).parent.parent / "docs"
CELLS: dict[str, dict[str, str]] = json.loads((DOCS / "models" / "matrix.json").read_text())

COUNTED = {
    "WanTransformer3DModel", "SkyReelsV2Transformer3DModel", "VideoCrafterUNet", "CogVideoXTransformer3DModel",
    "LatteUCF", "UNetSpatioTemporalConditionModel", "ConsistUNet", "STDiT3", "PlanTransformer",
}  # fmt: skip
"""Modules whose batch is the number of evaluations."""
LATTE = {"PixArtAlphaTextProjection"}
"""Latte's forward is ours over the parts of its transformer; this part is called once in each."""


def saved(make: Callable[[], Any], window: int = 4) -> Callable[[Path], Any]:
    """A pipeline in its folder with a window so short that films are chained."""

    def save(folder: Path) -> None:
        make().save_pretrained(folder, safe_serialization=True)
        (folder / "longtake.json").write_text(json.dumps({"window": window, "max_sequence_length": 226}))

    return save


def shorter(save: Callable[[Path], Any], window: int) -> Callable[[Path], Any]:
    """A folder of ours with another window."""

    def saved(folder: Path) -> None:
        save(folder)
        settings = json.loads((folder / "longtake.json").read_text())
        (folder / "longtake.json").write_text(json.dumps({**settings, "window": window}))

    return saved


# family: (how its folder is written, its window, flags); pictures stand beside the folders
MAKE: dict[str, tuple[Callable[[Path], Any], int, list[str]]] = {
    "wan": (saved(lambda: tiny_wan(scheduler="euler")), 4, ["--size", "32x48"]),
    "skyreels": (saved(lambda: tiny_skyreels(scheduler="euler")), 4, ["--size", "32x48"]),
    "videocrafter2": (save_tiny_videocrafter, 4, []),
    "cogvideox": (saved(lambda: tiny_cogvideox(rotary=True, scheduler="ddim"), 5), 5, ["--size", "48x32"]),
    "latte": (saved(tiny_latte), 4, ["--size", "48x32"]),
    "latte-ucf": (save_tiny_latte_ucf, 4, []),
    "svd": (saved(tiny_svd), 4, ["--size", "48x32", "--image", "picture.png"]),
    "consisti2v": (shorter(save_tiny_consisti2v, 4), 4, ["--image", "picture.png"]),
    "open-sora": (shorter(save_tiny_open_sora, 10), 10, []),
    "open-sora-plan": (shorter(save_tiny_open_sora_plan, 4), 4, []),
}


def flags(method: str, window: int) -> list[str]:
    """Few steps, and what a method needs to fit them."""
    steps = {"fifo": window, "progressive": window - 1, "miga": 4}.get(method, 2)
    sets = {"miga": ["miga.anchors=1", "miga.stride=2", "miga.handover=2", "miga.zigzag=2"]}.get(method, [])
    return ["--method", method, "--steps", str(steps), *(part for text in sets for part in ("--set", text))]


def length(family: str, method: str) -> int:
    """Frames of a film that is longer than a window, or of one clip."""
    if family in ("videocrafter2", "latte", "latte-ucf", "svd", "consisti2v"):  # a latent a frame
        return 3 if method == "plain" else 6
    if family == "open-sora":  # 17 frames are 5 latents
        return 20 if method == "plain" else 37
    return 9 if method == "plain" else 18


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("families")
    picture = Image.new("RGB", (64, 48), (200, 40, 60))
    picture.paste((30, 160, 90), (10, 5, 40, 30))
    picture.save(root / "picture.png")
    return root


@contextmanager
def counting(kinds: set[str]) -> Iterator[list[int]]:
    """The evaluations of networks at work; checks at load run outside inference mode and do not count."""
    seen: list[int] = []

    def hook(module: Any, inputs: Any, output: Any) -> None:
        if type(module).__name__ in kinds and torch.is_inference_mode_enabled():
            seen.append(len(output if isinstance(output, torch.Tensor) else output[0]))

    handle = register_module_forward_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()


@pytest.fixture
def cli(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """(exit code, stdout, stderr) of a command beside the folders."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("LONGTAKE_CACHE", str(home / "cache"))

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out, said.err

    return run


def command(home: Path, family: str, method: str, out: Path) -> list[str]:
    save, window, more = (MAKE | MORE)[family]
    if not (home / family).is_dir():
        save(home / family)
    prompt = "playing guitar" if family == "latte-ucf" else "a dog runs"
    return ["generate", prompt, "--model", str(home / family), *more, *flags(method, window), "--seed", "5",
            "--frames", str(length(family, method)), "--out", str(out), "--format", "json", "-q"]  # fmt: skip


FAST = {
    "wan": {"fifo"}, "skyreels": {"rolling"}, "videocrafter2": set(METHODS), "cogvideox": {"replace"},
    "latte": {"progressive", "windows"}, "latte-ucf": {"miga", "freenoise"}, "svd": {"plain", "replace"},
    "consisti2v": {"rolling", "windows", "fifo"}, "open-sora": {"chunk"}, "open-sora-plan": {"fifo", "freenoise"},
}  # fmt: skip
YES = [
    pytest.param(family, method, marks=[] if method in FAST[family] else pytest.mark.slow)
    for family, row in CELLS.items() for method, cell in row.items() if cell == "yes"
]  # fmt: skip
NO = [(family, method) for family, row in CELLS.items() for method, cell in row.items() if cell != "yes"]


@pytest.mark.parametrize("family,method", YES)
def test_a_yes_is_a_film_and_its_cost_is_what_was_announced(home, cli, family: str, method: str, tmp_path):
    asked = command(home, family, method, tmp_path / "run")
    code, out, err = cli(*asked, "--dry-run")
    assert code == 0, err
    paper = json.loads(out.splitlines()[-1])
    with counting(LATTE if family == "latte" else COUNTED) as seen:
        code, out, err = cli(*asked)
    assert code == 0, err
    made = json.loads(out.splitlines()[-1])
    assert made["frames"] == length(family, method) == len(list(read_frames(Path(made["video"]))))
    assert paper["exact"] and made["nfe"] == paper["nfe"] == sum(seen)
    assert made["latent_frames"] == paper["latent_frames"]


COSTLY: list[tuple[str, str, list[str], int]] = [
    ("svd", "chunk", ["--guidance", "1"], 1),
    ("svd", "plain", ["--guidance", "2"], 2),
    ("videocrafter2", "plain", ["--set", "freelong=6"], 2),
    ("consisti2v", "plain", ["--guidance", "1", "--set", "guidance_image=1.5", "--set", "freepca=6"], 3),
    ("pictures", "plain", ["--image", "picture.png", "--last-image", "picture.png"], 2),
    ("two experts", "chunk", ["--size", "32x48"], 2),
]
"""Options that change what a window costs, with the evaluations of one."""
MORE: dict[str, tuple[Callable[[Path], Any], int, list[str]]] = {
    "pictures": (shorter(lambda folder: save_tiny_open_sora_plan(folder, inpaint=True), 4), 4, []),
    "two experts": (saved(lambda: tiny_wan(boundary=0.7, scheduler="euler")), 4, []),
}


@pytest.mark.parametrize("family,method,options,passes", COSTLY)
def test_options_cost_what_was_announced(home, cli, family, method, options, passes, tmp_path):
    asked = [*command(home, family, method, tmp_path / "run"), *options]
    code, out, err = cli(*asked, "--dry-run")
    assert code == 0, err
    paper = json.loads(out.splitlines()[-1])
    with counting(COUNTED) as seen:
        code, out, err = cli(*asked)
    assert code == 0, err
    made = json.loads(out.splitlines()[-1])
    assert made["nfe"] == paper["nfe"] == sum(seen) and made["nfe"] % passes == 0
    assert method != "plain" or made["nfe"] == 2 * passes


def test_a_queue_that_straddles_two_experts_costs_no_more_than_was_announced(home, cli, tmp_path):
    asked = [*command(home, "two experts", "fifo", tmp_path / "run"), "--size", "32x48"]
    paper = json.loads(cli(*asked, "--dry-run")[1].splitlines()[-1])
    with counting(COUNTED) as seen:
        made = json.loads(cli(*asked)[1].splitlines()[-1])
    assert not paper["exact"] and sum(seen) == made["nfe"] < paper["nfe"]


@pytest.mark.parametrize("family,method", NO)
def test_a_no_is_refused_for_its_reason(home, cli, family: str, method: str, tmp_path):
    code, out, err = cli(*command(home, family, method, tmp_path / "run"))
    assert code == 2 and not out and not (tmp_path / "run").exists()
    assert CELLS[family][method].removeprefix("no: ") in err and f"{method} needs one noise level" in err


def test_the_files_are_what_the_program_says():
    """Every method, every family; the file, the page and the program are one."""
    made = runpy.run_path(str(DOCS.parent / "scripts" / "models_matrix.py"))
    assert made["matrix"]() == CELLS and list(CELLS) == list(FAMILIES) == list(MAKE)
    assert all(list(row) == list(METHODS) for row in CELLS.values())
    page = (DOCS / "models.md").read_text()
    assert made["written"](page, made["table"](CELLS)) == page
    assert all(cell == "yes" or len(cell) > 20 for row in CELLS.values() for cell in row.values())
