"""Tiny pipelines for the Wan tests, which take them in with `pytest_plugins`."""

from __future__ import annotations

from pathlib import Path

import pytest
from diffusers import WanPipeline

from longtake.testing.tiny import save_tiny, tiny_wan


@pytest.fixture(scope="session")
def pipe() -> WanPipeline:
    return tiny_wan()


@pytest.fixture(scope="session")
def ti2v() -> WanPipeline:
    return tiny_wan(ti2v=True, scheduler="euler")


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")
