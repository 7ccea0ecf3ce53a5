"""Muon for hidden matrices, AdamW for the rest, behind one object.

Muon: momentum, then the nearest orthogonal matrix by a quintic Newton-Schulz iteration (Jordan et al. 2024), scaled
so that an update's root mean square is that of AdamW at the same rate (Moonshot 2025). Matrices of one shape are
orthogonalised in one batch, in bfloat16 where the processor has it.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

STEPS = ((3.4445, -4.7750, 2.0315),) * 5


def orthogonalise(g: Tensor) -> Tensor:
    """[N,R,C] to matrices of the same row and column spaces with singular values near 1."""
    x = g.bfloat16()
    x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    for a, b, c in STEPS:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(g.dtype)


class Muon(torch.optim.Optimizer):
    """For parameters that are matrices or convolution kernels (flattened to [out, rest])."""

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.0) -> None:
        super().__init__(params, dict(lr=lr, momentum=momentum, decay=decay))

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    shapes[tuple(p.shape)].append(p)
            for shape, params in shapes.items():
                self._update(params, (shape[0], p_numel(shape) // shape[0]), group)

    def _update(self, params: list[nn.Parameter], flat: tuple[int, int], group: dict) -> None:
        directions = []
        for p in params:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
            m = self.state[p]["momentum"]
            m.lerp_(p.grad, 1 - group["momentum"])
            directions.append(p.grad.lerp(m, group["momentum"]).reshape(flat))
        updates = orthogonalise(torch.stack(directions)) * (0.2 * max(flat) ** 0.5)
        for p, update in zip(params, updates, strict=True):
            p.mul_(1 - group["lr"] * group["decay"]).add_(update.view_as(p), alpha=-group["lr"])


def p_numel(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


class Optimizer:
    """AdamW at `lr` and, if there are matrices for it, Muon at `muon` times that; one factor scales both."""

    def __init__(
        self, matrices: list[nn.Parameter], others: list[nn.Parameter], lr: float, muon: float = 1.0,
        weight_decay: float = 0.0,
    ) -> None:  # fmt: skip
        self.parts: list[torch.optim.Optimizer] = []
        self.rates: list[float] = []
        if matrices:
            self.parts.append(Muon(matrices, lr=lr * muon))
            self.rates.append(lr * muon)
        if others:
            self.parts.append(torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=weight_decay))
            self.rates.append(lr)

    def step(self, factor: float = 1.0) -> None:
        for part, rate in zip(self.parts, self.rates, strict=True):
            for group in part.param_groups:
                group["lr"] = rate * factor
            part.step()

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> dict:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict) -> None:
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)
