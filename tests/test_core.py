"""Schedules, solvers, noise, windows: the parts under the laws, each against an independent side."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from longtake.core.noise import fold, normal, root
from longtake.core.rows import Row, advance
from longtake.core.schedule import NoiseSchedule, flow, flow_dpm, flow_unipc, from_grid, vp
from longtake.core.solvers import Solver
from longtake.core.window import Grid, sweep
from tests.cases import SOLVERS

# -- noise -----------------------------------------------------------------------------------------------------


def test_noise_depends_on_every_part_of_its_key_and_on_nothing_else():
    base = normal((4, 5), 1, "init", 2, 3)
    assert torch.equal(base, normal((4, 5), 1, "init", 2, 3))
    others = [
        normal((4, 5), *key) for key in [(2, "init", 2, 3), (1, "step", 2, 3), (1, "init", 3, 3), (1, "init", 2, 4)]
    ]
    assert all(not torch.equal(base, other) for other in others)


def test_noise_is_standard_normal():
    draws = torch.stack([normal((64, 64), root(0), "init", index) for index in range(50)])
    assert abs(float(draws.mean())) < 5 / math.sqrt(draws.numel())
    assert abs(float(draws.var()) - 1) < 5 * math.sqrt(2 / draws.numel())
    assert abs(float((draws[1:] * draws[:-1]).mean())) < 5 / math.sqrt(draws[1:].numel())


def test_keys_that_agree_in_their_low_32_bits_still_differ():
    """torch.Generator on the CPU would give these two the same draws: it seeds from 32 bits."""
    low, high = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5 + (1 << 40))
    assert torch.equal(torch.empty(8).normal_(generator=low), torch.empty(8).normal_(generator=high))
    assert len({fold(seed, "x") & 0xFFFFFFFF for seed in range(2000)}) > 1990
    assert len({fold(seed, "x") for seed in range(2000)}) == 2000


def test_golden_noise():
    """Numbers that must not drift between versions: every stored run depends on them."""
    assert fold(0, "seed", 7) == 8387462665229210492
    assert normal((3,), root(7), "init").tolist() == pytest.approx([-1.3738708, -1.5137149, 0.5743815], abs=1e-6)


# -- schedules -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
@pytest.mark.parametrize("steps", [1, 6, 50])
def test_flow_grids_are_the_schedulers_own(steps: int, shift: float):
    euler = FlowMatchEulerDiscreteScheduler(shift=shift)
    options = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift}
    unipc, dpm = UniPCMultistepScheduler(**options), DPMSolverMultistepScheduler(**options)
    for ours, theirs in [(flow, euler), (flow_unipc, unipc), (flow_dpm, dpm)]:
        theirs.set_timesteps(steps)
        assert ours(steps, shift).sigmas[::-1] == pytest.approx(theirs.sigmas.tolist(), abs=2e-6)
        # integer times: the schedulers truncate floats, one of which may be a hair below an integer
        assert ours(steps, shift).times[:0:-1] == pytest.approx(theirs.timesteps.tolist(), abs=1.001)


def test_schedules_refuse_what_is_no_schedule():
    with pytest.raises(ValueError, match="clean"):
        NoiseSchedule((1.0, 0.5), (0.1, 0.9), (0.0, 1.0))
    with pytest.raises(ValueError, match="increase"):
        from_grid([0.5, 0.7], [1, 2])
    with pytest.raises(ValueError, match="one length"):
        NoiseSchedule((1.0,), (0.0,), (0.0,))
    with pytest.raises(ValueError, match="fewer steps"):
        vp(1200)


def test_vp_ends_clean_and_keeps_variance():
    schedule = vp(64)
    assert schedule.times[1:5] == (0.0, 16.0, 32.0, 48.0) and schedule.times[-1] == 999.0  # the released grid
    assert schedule.alphas[0] == 1.0
    assert all(a * a + s * s == pytest.approx(1) for a, s in zip(schedule.alphas, schedule.sigmas, strict=True))


# -- solvers ---------------------------------------------------------------------------------------------------


def toy(x: torch.Tensor, level: int) -> torch.Tensor:
    """Some smooth nonlinear denoiser."""
    return torch.tanh(x * 0.7 + 0.03 * level)


def ours(solver: Solver, schedule: NoiseSchedule, x: torch.Tensor, steps: int) -> torch.Tensor:
    rows = [Row(x[i], schedule.num_steps, i, root(3)) for i in range(len(x))]
    for _ in range(steps):
        rows = advance(rows, [toy(row.x, row.level) for row in rows], [r.level - 1 for r in rows], solver, schedule)
    return torch.stack([row.x for row in rows])


def schedulers() -> dict[str, object]:
    multistep = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    return {
        "euler": FlowMatchEulerDiscreteScheduler(shift=3.0),
        "unipc": UniPCMultistepScheduler(**multistep),
        "dpmpp_2m": DPMSolverMultistepScheduler(**multistep),
    }


@pytest.mark.parametrize("name", ["euler", "unipc", "dpmpp_2m"])
def test_rows_at_different_levels_equal_independent_diffusers_schedulers(name: str):
    """Row i is i steps behind row 0; each has its own diffusers scheduler on the other side."""
    steps, num = 12, 5
    theirs = [copy.deepcopy(schedulers()[name]) for _ in range(num)]
    for scheduler in theirs:
        scheduler.set_timesteps(steps)
    schedule = from_grid(theirs[0].sigmas[:-1].tolist(), theirs[0].timesteps.tolist())
    x = torch.randn((num, 2, 3, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64).float()
    want, rows = list(x), [Row(x[i], steps, i, root(3)) for i in range(num)]
    for tick in range(steps + num - 1):
        turn = [i for i in range(num) if 0 <= tick - i < steps]
        x0s = [toy(rows[i].x, rows[i].level) for i in turn]
        for i in turn:
            level = steps - (tick - i)
            flow_out = (want[i] - toy(want[i], level)) / schedule.sigmas[level]
            time = theirs[i].timesteps[tick - i]
            want[i] = theirs[i].step(flow_out[None], time, want[i][None], return_dict=False)[0][0]
        moved = advance([rows[i] for i in turn], x0s, [rows[i].level - 1 for i in turn], Solver(name), schedule)
        for row in moved:
            rows[row.index] = row
    assert all(row.level == 0 for row in rows)
    assert max(float((row.x - w).abs().max()) for row, w in zip(rows, want, strict=True)) < 5e-6


def test_ddim_on_vp_equals_diffusers():
    steps = 20
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False,
                              set_alpha_to_one=True, prediction_type="sample")  # fmt: skip
    scheduler.set_timesteps(steps)
    signal, times = scheduler.alphas_cumprod, scheduler.timesteps.tolist()
    schedule = from_grid([float(((1 - signal[t]) / signal[t]).sqrt()) for t in times], times, flow=False)
    x = torch.randn((1, 2, 3, 3), generator=torch.Generator().manual_seed(1))
    got, want = ours(Solver("ddim"), schedule, x, steps), x
    for place, time in enumerate(times):
        want = scheduler.step(toy(want[0], steps - place)[None], time, want, eta=0.0).prev_sample
    assert float((got - want).abs().max()) < 2e-5
    assert vp(50).sigmas[-1] == pytest.approx(float((1 - signal[-1]).sqrt()), abs=1e-6)


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_every_solver_ends_on_the_estimate_and_draws_only_if_it_says_so(solver: Solver):
    schedule = flow_unipc(8, 3.0)
    x = torch.randn((3, 2, 2, 2), generator=torch.Generator().manual_seed(2))
    rows = [Row(x[i], 8, i, root(1)) for i in range(3)]
    for _ in range(8):
        estimate = [toy(row.x, row.level) for row in rows]
        other = [Row(row.x, row.level, row.index, root(2), row.memory) for row in rows]
        kept = rows
        rows = advance(kept, estimate, [r.level - 1 for r in kept], solver, schedule)
        forked = advance(other, estimate, [r.level - 1 for r in kept], solver, schedule)
        same = all(torch.equal(a.x, b.x) for a, b in zip(rows, forked, strict=True))
        assert same == (solver.noise_scale == 0 or rows[0].level == 0)
    assert all(torch.allclose(row.x, x0, atol=1e-5) for row, x0 in zip(rows, estimate, strict=True))


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_solvers_are_finite_from_pure_noise(solver: Solver):
    """flow() starts at sigma exactly 1, where lambda is minus infinity."""
    x = torch.randn((2, 1, 2, 2), generator=torch.Generator().manual_seed(3))
    assert torch.isfinite(ours(solver, flow(9, 3.0), x, 9)).all()


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("dpmpp_2m", 2), ("unipc", 2)])
def test_solvers_have_their_order(name: str, order: int):
    """Slope of the error on x0 = E[x0|x] of a Gaussian of variance 4, on a grid bounded away from both ends."""

    def error(steps: int) -> float:
        lams = [-1.5 + 3.0 * i / steps for i in range(steps + 1)]  # log snr from noisy to cleaner
        pairs = [(1 / math.sqrt(1 + math.exp(-2 * lam)), 1 / math.sqrt(1 + math.exp(2 * lam))) for lam in lams]
        alphas, sigmas = ([1.0] + [p[k] for p in pairs[::-1]] for k in (0, 1))
        schedule = NoiseSchedule(tuple(alphas), (0.0, *list(sigmas)[1:]), tuple(float(i) for i in range(steps + 2)))
        row = Row(torch.ones((1, 1, 1), dtype=torch.float64), steps + 1, 0, 0)
        for _ in range(steps):
            a, s = schedule.alphas[row.level], schedule.sigmas[row.level]
            (row,) = advance([row], [row.x * 4 * a / (4 * a * a + s * s)], [row.level - 1], Solver(name), schedule)
        scale = [math.sqrt(4 * p[0] ** 2 + p[1] ** 2) for p in (pairs[0], pairs[-1])]
        return abs(float(row.x) - scale[1] / scale[0])

    slope = math.log(error(20) / error(80)) / math.log(4)
    assert slope > order - 0.25


def test_solver_names_and_parameters_are_checked():
    with pytest.raises(ValueError, match="known: euler, ddim"):
        Solver("heun")
    with pytest.raises(ValueError, match="between 0 and 1"):
        Solver("ddim", 2.0)
    with pytest.raises(ValueError, match="parameter of ddim"):
        Solver("euler", 0.5)
    with pytest.raises(ValueError, match="goes down"):
        advance([Row(torch.zeros(1, 1, 1), 0, 0, 0)], [torch.zeros(1, 1, 1)], [0], Solver(), flow(4))


# -- windows ---------------------------------------------------------------------------------------------------


@given(
    length=st.integers(1, 40), size=st.integers(1, 17), part=st.integers(1, 34), offset=st.integers(-20, 20),
    before=st.integers(0, 9), behind=st.integers(0, 9), side=st.sampled_from(["before", "after"]),
)  # fmt: skip
@settings(max_examples=400, deadline=None)
def test_writes_tile_once_and_no_two_windows_read_the_same(length, size, part, offset, before, behind, side):
    from fractions import Fraction

    stride = min(Fraction(part, 2), Fraction(size))
    rows, limits = range(5, 5 + length), range(5 - before, 5 + length + behind)
    windows = sweep(rows, Grid(size, stride, side), offset, limits)
    assert sorted(index for window in windows for index in window.write) == list(rows)
    assert len({window.read for window in windows}) == len(windows)
    for window in windows:
        assert set(window.write) <= set(window.read) <= set(limits)
        assert list(window.read) == sorted(window.read)
        assert len(window.read) == min(size, len(limits))


def test_sides_read_the_cleaner_or_the_noisier_neighbours():
    before = sweep(range(8, 16), Grid(8, 4), 8, range(4, 16))
    assert [(w.read[0], w.read[-1], w.write) for w in before] == [(4, 11, (8, 9, 10, 11)), (8, 15, (12, 13, 14, 15))]
    after = sweep(range(8, 16), Grid(8, 4, "after"), 8, range(8, 20))
    assert [(w.read[0], w.write[0]) for w in after] == [(8, 8), (12, 12)]


def test_odd_windows_alternate_as_the_reference_does():
    # the released code with f = 17 and 8 rows of history: mid points 8, 17, 25, 34 become writes of 9, 8, 9, 8
    from fractions import Fraction

    windows = sweep(range(0, 34), Grid(17, Fraction(17, 2)), 0, range(-8, 34))
    assert [len(w.write) for w in windows] == [9, 8, 9, 8]
    assert [w.read[0] + 8 for w in windows] == [0, 8, 17, 25]


def test_anchors_are_read_by_all_and_written_by_none():
    windows = sweep(range(10, 20), Grid(6, 3), 10, range(8, 20), anchors=(1, 4))
    assert all(window.read[:2] == (1, 4) and len(window.read) == 6 for window in windows)
    assert sorted(i for window in windows for i in window.write) == list(range(10, 20))
    with pytest.raises(ValueError, match="anchors leave"):
        sweep(range(10), Grid(4, 3), anchors=(20, 21))


def test_impossible_grids_are_refused():
    with pytest.raises(ValueError, match=r"stride must be in 1..8"):
        Grid(8, 9)
    with pytest.raises(ValueError, match="side must be"):
        Grid(8, 4, "left")  # type: ignore[arg-type]
