"""Another method or search from a moment on, of runs that began with a picture or end on one."""

# ruff: noqa: F811 (fixtures come from another file of tests)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from longtake.models.tiny import tiny_wan_image
from longtake.output.trace import read_trace
from tests.test_cli import cli, make, one_thread, picture_model, tiny  # noqa: F401


def hashes(folder: Path | str) -> dict[tuple[int, ...], str]:
    return {tuple(line["latents"]): line["sha256"] for line in read_trace(Path(folder) / "trace.jsonl")}


def settings(folder: Path | str) -> dict[str, Any]:
    return json.loads((Path(folder) / "run.json").read_text())


@pytest.fixture
def two(cli: Any, tiny: Path) -> Any:
    """Two runs, of 11 latents, alike but for the picture that the second ends on."""
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)).save("last.png")
    for out, extra in (("free", ()), ("ended", ("--last-image", "last.png"))):
        said = make(cli, tiny, "--frames", 41, "--method", "chunk", "--steps", 4, "--out", out, *extra)
        assert said.code == 0, said.err
    Path("last.png").unlink()
    return cli


def rerolled(cli: Any, run: str, *arguments: Any) -> dict[tuple[int, ...], str]:
    said = cli("reroll", run, "--from", "0.1s", "--seed", 1, "--format", "json", *arguments)
    assert said.code == 0, said.err
    assert settings(said.json["run"]).get("last_image") is None or run != "free"
    return hashes(said.json["run"])


@pytest.mark.parametrize("change", [("--method", "fifo"), ("--search", "best-of-n")])
def test_the_picture_that_a_run_ends_on_goes_along(two: Any, change: tuple[str, str]) -> None:
    free, ended = (rerolled(two, run, *change) for run in ("free", "ended"))
    assert max(free)[1] == max(ended)[1] >= 11 and free[min(free)] == ended[min(free)]
    assert free[max(free)] != ended[max(ended)]


def test_it_stays_at_its_place_in_a_run_that_was_made_longer(two: Any) -> None:
    """Rerolled after `extend`, the frames up to the old end are those of a reroll before it."""
    short = rerolled(two, "ended", "--method", "fifo")
    assert two("extend", "ended", "--frames", 24).code == 0
    long = rerolled(two, "ended", "--method", "fifo")
    whole = [key for key in short if key != max(short)]  # the last shows fewer frames of its latent
    assert max(long) > max(short) and [long[key] for key in whole] == [short[key] for key in whole]
    free = rerolled(two, "free", "--method", "fifo")
    assert any(long[key] != free[key] for key in whole), "the way to the picture shows it before it is there"


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model that makes videos from a picture alone, as Wan 2.1 I2V."""
    folder = tmp_path_factory.mktemp("models") / "seeing"
    tiny_wan_image(scheduler="euler").save_pretrained(folder, safe_serialization=True)
    known = {"window": 4, "fps": 12, "steps": 4, "size": [32, 32], "guidance": 1.0}
    (folder / "longtake.json").write_text(json.dumps(known))
    return folder


def test_a_run_of_a_model_that_needs_a_picture_is_rerolled_without_it(cli: Any, seeing: Path) -> None:
    """The picture is gone by then; the branch goes on from the run's latents, and tells what it began with."""
    Image.new("RGB", (32, 32), (200, 30, 30)).save("first.png")
    said = cli("generate", "a dog", "--model", seeing, "--image", "first.png", "--frames", 29, "--seed", 5, "--out",
               "run", "--method", "chunk")  # fmt: skip
    assert said.code == 0, said.err
    Path("first.png").unlink()
    said = cli("reroll", "run", "--from", "1.2s", "--search", "best-of-n", "--seed", 1, "--format", "json")
    assert said.code == 0, said.err
    take = said.json["run"]
    own, branch = hashes("run"), hashes(take)
    kept = [key for key in own if branch.get(key) == own[key]]
    assert kept and kept[0] == min(own) and max(own) not in kept
    assert settings(take)["image"] == settings("run")["image"] and settings(take)["search"] == "best-of-n"
    assert settings(take)["parameters"]["join"] == "pixel"


def test_a_reward_that_the_new_search_does_not_ask_is_left_out(cli: Any, tiny: Path) -> None:
    said = make(cli, tiny, "--frames", 29, "--method", "chunk", "--search", "best-of-n", "--reward", "motion", "--set",
                "motion.of=latents", "--set", "best-of-n.candidates=2", "--out", "run")  # fmt: skip
    assert said.code == 0, said.err
    said = cli("reroll", "run", "--from", "1s", "--search", "freeinit", "--seed", 1, "--format", "json")
    assert said.code == 0, said.err
    told = settings(said.json["run"])
    assert (told["search"], told["reward"], told["reward_parameters"]) == ("freeinit", None, {})
