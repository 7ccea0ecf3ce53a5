"""Law kits: run them on your own denoiser, rollout or reward. Each raises AssertionError with the law that broke.

from longtake.testing import check_rollout
check_rollout(MyRollout(...), denoiser)
"""

from __future__ import annotations

import tempfile
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longtake.core.check import matches
from longtake.core.engine import Engine, cost_of
from longtake.core.forecast import forecast
from longtake.core.model import Denoiser
from longtake.core.noise import normal, root
from longtake.core.rollout import Reward, Rollout, Timeline, View
from longtake.core.stream import stream
from longtake.output.checkpoint import load, save
from longtake.search.lookahead import Lookahead
from longtake.search.population import Population


def check_denoiser(denoiser: Denoiser, num_rows: int = 3, tolerance: float = 1e-4) -> None:
    """An x0 denoiser as the core expects it: shapes, clean rows returned, batch = parts, rows told apart."""
    steps, shape = denoiser.schedule.num_steps, denoiser.can.latent_shape
    x = torch.stack([normal(shape, root(0), "law", index) for index in range(num_rows)]).to(denoiser.device)
    top = torch.full((1, num_rows), steps)
    # at half the way too: at the highest level of a flow an estimate may hardly depend on x
    for levels in (torch.full_like(top, max(steps // 2, 1)), top):
        both = denoiser(torch.stack([x, x.flip(0)]), levels.repeat(2, 1), ["", ""])
        _hold("x0 has the shape of x", both.shape == (2, *x.shape))
        _hold("x0 is finite", bool(torch.isfinite(both).all()))
        alone = denoiser(x[None], levels, [""])
        _hold("a batch equals its parts", _close(both[:1], alone, tolerance))
        _hold("the same input gives the same bits", torch.equal(alone, denoiser(x[None], levels, [""])))
    alone = denoiser(x[None], top, [""])
    if num_rows > 1 and denoiser.can.per_row_levels != "no":
        for row in (0, num_rows - 1):
            levels = top.clone()
            levels[0, row] = 0
            clean = denoiser(x[None], levels, [""])
            _hold("a row at level 0 is returned as it is", _close(clean[0, row], x[row], tolerance))
        # the last row: a network may be told the same of a first row whether it is a picture or noise
        _hold("a row's level matters to the others", not _close(clean[0, :-1], alone[0, :-1], 1e-7))


def check_rollout(
    rollout: Rollout[Any], denoiser: Denoiser, num_latents: int = 10, batch: int = 1, other: str | None = None
) -> None:
    """A rollout that resumes, streams, forks and can be searched: the laws that need no second side.

    `other` is a prompt that the denoiser knows and hears; given, `reach` is held to what a change of prompt touches.
    """
    _check_form(rollout, denoiser)
    want = _run(rollout, denoiser, num_latents, batch)
    _hold("a run repeats itself", _equal(want, _run(rollout, denoiser, num_latents, batch)))
    _hold("it emits what is asked", len(want) >= num_latents)
    _check_ticks(rollout, denoiser, num_latents, batch)
    short = _run(rollout, denoiser, max(num_latents // 2, 1), batch)
    _hold("more frames never change earlier ones", _equal(short, want[: len(short)]))
    with tempfile.TemporaryDirectory() as folder:
        again = resumed(rollout, Engine(denoiser, batch), num_latents, Path(folder))
    _hold("save and load after every tick changes nothing", _equal(again[:num_latents], want[:num_latents]))
    for wrap in (Population(rollout, _First(), num=1), Lookahead(rollout, _First(), num=1)):
        _hold("one candidate is no search", _equal(want, _run(wrap, denoiser, num_latents, batch)))
    _check_fork(rollout, denoiser, batch)
    if other is not None:
        _check_reach(rollout, denoiser, max(num_latents, rollout.reach + 4), batch, other)
    meter = Engine(denoiser, batch)
    _drain(rollout, meter, num_latents)
    plan = forecast(rollout, num_latents, cost=partial(cost_of, denoiser))
    _hold("a dry run counts what a run costs", not plan.exact or plan.nfe == meter.meter.nfe)


def check_reward(reward: Reward, views: list[View]) -> None:
    """A reward that scores candidates independently of their company and order, in finite numbers."""
    scores = reward(views)
    _hold("one score a view", len(scores) == len(views))
    _hold("scores are finite", all(abs(score) < float("inf") for score in scores))
    alone = [reward([view])[0] for view in views]
    _hold("a score does not depend on the other candidates", _near(scores, alone))
    _hold("nor on their order", _near(reward(views[::-1])[::-1], scores))
    _hold("needs are known", reward.needs <= {"x", "x0", "picture", "pixels", "past"})


def resumed(
    rollout: Rollout[Any], engine: Engine, num_latents: int, folder: Path, seed: int = 0, prompt: str = ""
) -> list[Tensor]:
    """A run whose state goes through the disk after every tick."""
    state = engine.drive(rollout.init(seed, Timeline.of(prompt)))
    latents: list[Tensor] = []
    while len(latents) < num_latents and not state.finished:
        save(state, folder)
        state, emission = next(iter(stream(rollout, engine, load(folder), num_latents)))
        latents.extend(emission.latents)
    return latents


def _check_form(rollout: Any, denoiser: Denoiser) -> None:
    names = ("shape", "reach", "in_flight", "init", "step", "fresh", "fork", "view")
    lacking = [name for name in names if not hasattr(rollout, name)]
    _hold(f"a rollout has {', '.join(names)}; this one lacks {', '.join(lacking)}", not lacking)
    kind: Any = type(rollout)
    frozen = is_dataclass(kind) and kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    _hold("a rollout is a frozen dataclass: plans are made of its fields and kept by its value", frozen)
    own = {field.name for field in fields(kind)}
    _hold("its shape is a field, or it wraps a rollout in a field `inner`", bool(own & {"shape", "inner"}))
    _hold("a method's schedule is a field", bool(own & {"schedule", "inner"}))
    try:
        matches(rollout, denoiser)
    except ValueError as error:
        raise AssertionError(f"law broken: it fits the denoiser: {error}") from error
    _hold("reach and in_flight are counts", rollout.reach >= 0 and rollout.in_flight > 0)


def _check_fork(rollout: Rollout[Any], denoiser: Denoiser, batch: int) -> None:
    engine = Engine(denoiser, batch)
    state = engine.drive(rollout.init(0, Timeline.of("")))
    _hold("key 0 forks to the state itself", rollout.fork(state, 0) is state)
    _hold("something is undecided at the start", len(rollout.fresh(state)) > 0)
    _hold("a view shows nothing unseen", not rollout.view(state).index)
    one, two = (_drain(rollout, engine, 1, rollout.fork(state, key)) for key in (1, 2))
    _hold("forks differ", not _equal(one, two))
    _hold("a fork repeats itself", _equal(one, _drain(rollout, engine, 1, rollout.fork(state, 1))))


def _check_ticks(rollout: Rollout[Any], denoiser: Denoiser, num_latents: int, batch: int) -> None:
    engine, count = Engine(denoiser, batch), 0
    state = engine.drive(rollout.init(0, Timeline.of("")))
    for state, emission in stream(rollout, engine, state, num_latents):
        _hold("an emission says how many latents came before it", emission.start == count)
        count += len(emission.latents)
        view = rollout.view(state)
        _hold("a view has as many levels and estimates as rows",
              len(view.index) == len(view.x) == len(view.x0) == len(view.level))  # fmt: skip
        top = denoiser.schedule.num_steps + hasattr(rollout, "inner")  # a search may make rows noisy again
        _hold("a view shows nothing unseen", all(0 < level < top for level in view.level))


def _check_reach(rollout: Rollout[Any], denoiser: Denoiser, num_latents: int, batch: int, other: str) -> None:
    place = num_latents - 2
    told: list[list[Tensor]] = []
    for prompts in ({0: ""}, {0: "", place: other}):
        engine = Engine(denoiser, batch)
        state = engine.drive(rollout.init(0, Timeline.of(prompts)))
        told.append(_drain(rollout, engine, num_latents, state))
    kept = max(place - rollout.reach, 0)
    _hold(f"a change of prompt at latent {place} leaves those before {kept} (reach {rollout.reach})",
          _equal(told[0][:kept], told[1][:kept]))  # fmt: skip
    _hold("a change of prompt changes something", not _equal(*told))


def _run(rollout: Rollout[Any], denoiser: Denoiser, num_latents: int, batch: int) -> list[Tensor]:
    return _drain(rollout, Engine(denoiser, batch), num_latents)


def _drain(rollout: Rollout[Any], engine: Engine, num_latents: int, state: Any = None) -> list[Tensor]:
    if state is None:
        state = engine.drive(rollout.init(0, Timeline.of("")))
    emitted = [emission for _, emission in stream(rollout, engine, state, num_latents)]
    return [latent for emission in emitted for latent in emission.latents][:num_latents]


class _First:
    """Prefers the first candidate."""

    needs: frozenset[str] = frozenset()

    def __call__(self, views: list[View]) -> list[float]:
        return [-float(place) for place in range(len(views))]


def _hold(law: str, holds: bool) -> None:
    if not holds:
        raise AssertionError(f"law broken: {law}")


def _close(left: Tensor, right: Tensor, tolerance: float) -> bool:
    scale = float(right.std()) or 1.0
    return float((left - right).abs().max()) <= tolerance * scale


def _near(left: list[float], right: list[float]) -> bool:
    return all(abs(a - b) <= 1e-5 * max(1.0, abs(b)) for a, b in zip(left, right, strict=True))


def _equal(left: list[Tensor], right: list[Tensor]) -> bool:
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
