"""A run on paper: all decisions, the rollout, and what it will cost, with no weights loaded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from longtake.apps.lookup import advise, look_up
from longtake.apps.settings import Request, Settings, decide, screen
from longtake.apps.tables import Facts, Materials, method
from longtake.core.forecast import Cost, Forecast, forecast
from longtake.core.plan import GhostCodec
from longtake.core.schedule import flow
from longtake.core.solvers import Solver
from longtake.errors import UsageError

EXACT_LATENTS = 1000  # longer plans are continued along a line


def plan(request: Request) -> tuple[Settings, Facts, list[str]]:
    """All decisions of a run, and a line for each that the user should know of; no weights are loaded."""
    screen(request)
    facts = look_up(request)
    settings, notes = decide(request, facts)
    if facts.vocabulary == "world":
        read_as, words = advise(request.prompt)
        settings, notes = replace(settings, read_as=read_as), [*notes, *words]
    if facts.image_only and not (settings.image or settings.video):
        raise UsageError(f"{facts.name} makes videos from a picture; add --image FILE (or --video CLIP)")
    if settings.image and not facts.image_first:
        raise UsageError(
            f"{facts.name} cannot begin with a picture; use a model that can (Wan 2.2 TI2V), or --video CLIP"
        )
    dry_rollout(settings, facts.shape(facts.size), facts.window)  # parameters that do not fit show now
    return settings, facts, notes


def rollout_of(settings: Settings, materials: Materials) -> Any:
    """The method of these settings. UsageError for parameters that cannot work."""
    try:
        return method(settings.method).make(materials, settings.parameters)
    except ValueError as error:
        raise UsageError(str(error)) from error


def dry_rollout(settings: Settings, shape: tuple[int, int, int], window: int) -> Any:
    """The method with nothing loaded: costs depend on the number of steps alone, not on grid, solver or weights."""
    solver = Solver(settings.solver or "euler")
    return rollout_of(settings, Materials(shape, flow(settings.steps), solver, window, GhostCodec()))


def dry_run(settings: Settings, facts: Facts) -> tuple[Forecast, int | None]:
    """(cost of the run, its latent frames or None if endless), without a network.

    An endless run is costed over 1,000 latents.
    """
    rollout = dry_rollout(settings, facts.shape(facts.size), facts.window)
    latents = None
    if settings.frames is not None:
        lead = 1 if settings.image else 0
        latents = facts.num_latents(settings.frames - lead, after=bool(settings.image or settings.video))
    context = 1 if settings.image else context_latents(settings, facts.window) if settings.video else 0
    factor = facts.experts * (2 if facts.guided else 1)
    paid = cost(rollout, EXACT_LATENTS if latents is None else latents, context, factor)
    # which windows need both experts depends on the noise schedule, which is not loaded
    return replace(paid, exact=paid.exact and facts.experts == 1), latents


def cost(rollout: Any, latents: int, context: int = 0, factor: Cost = 1) -> Forecast:
    """`forecast`, continued along a straight line beyond 1,000 latents: methods repeat themselves within that."""
    if latents <= EXACT_LATENTS:
        return forecast(rollout, latents, context=context, cost=factor)
    cycle = max(getattr(rollout, "cycle", 1), 1)
    base = EXACT_LATENTS - (EXACT_LATENTS - latents) % cycle  # as far into the cycle as `latents`
    near, far = (forecast(rollout, n, context=context, cost=factor) for n in (base - cycle, base))
    times = (latents - base) // cycle
    return replace(
        far,
        num_latents=latents,
        nfe=far.nfe + times * (far.nfe - near.nfe),
        frame_nfe=far.frame_nfe + times * (far.frame_nfe - near.frame_nfe),
    )


def context_latents(settings: Settings, window: int) -> int:
    """Latents of the user's clip that the method reads."""
    return max(1, min(method(settings.method).context(window, settings.parameters), window - 1))
