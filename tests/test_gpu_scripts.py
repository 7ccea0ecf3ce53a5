"""The scripts for an accelerator, as far as a machine without one can hold them to what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from longtake.core.engine import Engine
from longtake.core.rollout import Timeline
from longtake.core.stream import stream
from tests import cases, search_cases

ROOT = Path(__file__).parent.parent
PROMPTS = ("a", "b", "c")


@pytest.fixture
def scripts(monkeypatch):
    """The folder of the scripts on the path, as for those who run them."""
    for folder in ("benchmarks", "benchmarks/gpu"):
        monkeypatch.syspath_prepend(str(ROOT / folder))


@pytest.mark.parametrize("name", ["fifo", "chunk", "miga", "search beam", "search best-of video fifo", "search k-step"])
def test_films_in_lockstep_are_those_made_alone_and_cost_the_same(scripts, name):
    import searching

    def made():
        if name.startswith("search "):
            return search_cases.every_search()[name.removeprefix("search ")]
        return cases.rollouts()[name]

    length, denoiser = 7, cases.oracle(made())
    films = searching.together([made() for _ in PROMPTS], denoiser, PROMPTS, (1, 2, 3), length, batch=5)
    for film, prompt, seed in zip(films, PROMPTS, (1, 2, 3), strict=True):
        rollout, engine = made(), Engine(denoiser)
        state = engine.drive(rollout.init(seed, Timeline.of(prompt)))
        alone = [emission for _, emission in stream(rollout, engine, state, length)]
        latents = [x for emission in alone for x in emission.latents]
        assert len(latents) == len(film.latents)
        assert all(torch.equal(a, b) for a, b in zip(latents, film.latents, strict=True))
        assert film.cost["nfe"] == engine.meter.nfe
        assert film.cost["judged"] == sum(emission.info.reward_calls for emission in alone)


def test_what_goes_home_is_small_and_comes_back(scripts, tmp_path, monkeypatch):
    import packing

    work, out, again = tmp_path / "work", tmp_path / "out", tmp_path / "again"
    for path, size in (("pocket/vae/w.safetensors", 5000), ("pocket-judge/measure/judge.safetensors", 3000),
                       ("vae-stills/checkpoint.pt", 9000), ("clips.safetensors", 9000)):  # fmt: skip
        (work / path).parent.mkdir(parents=True, exist_ok=True)
        (work / path).write_bytes(os.urandom(size))
    (work / "vae-stills/curve.jsonl").write_text('{"step": 1}\n')
    (work / "done").mkdir()
    for name in ("wan", "vae-stills"):
        (work / "done" / name).write_text("1\n")
    monkeypatch.setenv("COMMIT", "abc123")
    packing.row(work, "wan", "cpu", {"seconds": 1.5})
    monkeypatch.setattr(packing, "PIECE", 4096)
    out.mkdir()
    packing.pack(work, out)
    assert len(list(out.iterdir())) <= 8 + 3  # pieces are tiny here
    assert max(path.stat().st_size for path in out.glob("weights*")) <= 4096
    row = packing.read(out / "results.jsonl")[0]
    assert (row["part"], row["device"], row["commit"], row["seconds"]) == ("wan", "cpu", "abc123", 1.5) and row["date"]
    again.mkdir()
    packing.unpack(out, again)
    for path in ("pocket/vae/w.safetensors", "pocket-judge/measure/judge.safetensors", "vae-stills/curve.jsonl"):
        assert (again / path).read_bytes() == (work / path).read_bytes()
    assert sorted(path.name for path in (again / "done").iterdir()) == ["vae-stills", "wan"]
    assert not (again / "clips.safetensors").exists()


def test_parts_fit_their_limits(scripts):
    import everything

    names = [part.name for part in everything.PARTS]
    assert len(set(names)) == len(names) and all(part.minutes <= 9 for part in everything.PARTS)
    assert all(not part.after or names.index(part.after) < names.index(part.name) for part in everything.PARTS)
    for part in everything.PARTS:
        text = (ROOT / "benchmarks/gpu" / f"{part.module}.py").read_text()
        assert f"def {part.function}(place: Any" in text
    assert [part.name for part in everything.chosen(["vae", "wan"])] == [
        "wan",
        "wan-compiled",
        "vae-stills",
        "vae-clips",
    ]
    with pytest.raises(SystemExit, match="the parts are"):
        everything.chosen(["vea"])


@pytest.mark.slow
def test_every_script_runs_from_start_to_end(tmp_path):
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "COMMIT": "abc123"}
    command = [str(ROOT / "benchmarks/gpu/all.sh"), str(tmp_path / "out"), "--dry", "--work", str(tmp_path / "work")]
    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    files = list((tmp_path / "out").iterdir())
    assert len(files) <= 8 and max(path.stat().st_size for path in files) <= 15 * 2**20
    rows = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    ends = {row["part"]: row["part_result"] for row in rows if "part_result" in row}
    assert len(ends) == 15 and set(ends.values()) == {"done"}
    assert {
        "overhead",
        "wan",
        "vae-stills",
        "pocket-long",
        "judge-measure",
        "progressive-pocket",
        "world",
        "search",
    } <= {row["part"] for row in rows}
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0 and again.stdout.count("done before") == 15
