"""Test settings: one thread, since the tensors of these tests are too small to share between cores."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
