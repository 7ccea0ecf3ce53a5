"""Test settings: what differs between machines, or from one run to the next, is held fixed for every test.

One thread, here and in processes that tests start: these tensors are too small to share between cores, and sums over
threads differ in their last bits. Every test begins with the same random state, so it does not matter which ran before
it; Hypothesis tries the same examples every time. Everything runs on the CPU, nothing is fetched, no cache of the user
is read or written, and the terminal is 100 columns wide without colours.
"""

from __future__ import annotations

import os
import random
import tempfile

KEPT = tempfile.TemporaryDirectory(prefix="longtake-tests-")
FIXED = {
    "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "LONGTAKE_CACHE": KEPT.name,
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "COLUMNS": "100", "PYTHONUTF8": "1",
    "CUDA_VISIBLE_DEVICES": "", "HF_HOME": KEPT.name,
}  # fmt: skip
os.environ.update(FIXED)
for name in ("FORCE_COLOR", "PY_COLORS", "NO_COLOR", "GITHUB_ACTIONS", "PYTHONSTARTUP", "XDG_CACHE_HOME"):
    os.environ.pop(name, None)

import numpy as np  # noqa: E402  (libraries read the environment when they are imported)
import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

torch.set_num_threads(1)
settings.register_profile("steady", derandomize=True, deadline=None, database=None,
                          suppress_health_check=list(HealthCheck))  # fmt: skip
settings.load_profile("steady")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Before the fixtures of a test, those it shares with others too."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)
