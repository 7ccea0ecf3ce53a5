"""What runs on a device that is not the host: everything is on its side, and nothing crosses by accident."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent


def in_a_process(module: str) -> dict[str, str]:
    """What a module of checks prints: errors by case."""
    made = subprocess.run([sys.executable, "-m", module], cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-3000:]
    return json.loads(made.stdout)


@pytest.fixture(scope="module")
def runs() -> dict[str, str]:
    return in_a_process("tests.device_runs")


def test_every_method_and_search_keeps_to_its_device(runs):
    assert len(runs) > 40
    assert {name: error for name, error in runs.items() if error} == {}


@pytest.mark.slow
def test_trainings_keep_to_their_device(tmp_path):
    command = [sys.executable, "-m", "tests.device_training", str(tmp_path)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-3000:]
    told = json.loads((tmp_path / "told.json").read_text())
    assert len(told) == 11 and {name: error for name, error in told.items() if error} == {}


MIXED = """
import torch
from tests.pretend import pretended
with pretended() as name:
    here, there = torch.ones(3, 4), torch.ones(3, 4, device=name)
    assert float((there + 1).sum()) == 24 and (there + torch.tensor(1.0)).device.type == name
    assert there[torch.tensor([0, 2])].shape == (2, 4)
    layer = torch.nn.Linear(4, 2).to(name)
    layer(there).sum().backward()
    assert layer.weight.grad.device.type == name
    for wrong in (lambda: there + here, lambda: torch.cat([there, here]), lambda: there.numpy(), lambda: layer(here),
                  lambda: torch.where(here > 0, there, there), lambda: here[torch.tensor([1], device=name)],
                  lambda: torch.randn(3, device=name, generator=torch.Generator())):
        try:
            wrong()
        except (RuntimeError, TypeError):
            continue
        raise SystemExit("sides were mixed and nothing said so")
"""


def test_the_pretended_device_refuses_what_a_real_one_refuses():
    made = subprocess.run([sys.executable, "-c", MIXED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr[-3000:]
    assert torch._C._get_privateuse1_backend_name() != "farside"  # not in this process
