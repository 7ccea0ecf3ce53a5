"""A run on paper: all decisions, the rollout, and what it will cost, with no weights loaded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from longtake.apps.at_hand import judgeable
from longtake.apps.beginning import how_frames_begin
from longtake.apps.budget import Blank, afford, parse_budget, told, too_dear
from longtake.apps.building import Materials
from longtake.apps.composing import in_own_words, latent_of, length_of, method_of, searched, timeline_of
from longtake.apps.deciding import decide
from longtake.apps.given import check_ending
from longtake.apps.guiding import guided
from longtake.apps.lookup import look_up
from longtake.apps.screening import beside, screen
from longtake.apps.searches import search
from longtake.apps.settings import Request, Settings
from longtake.apps.tables import Facts, method
from longtake.core.forecast import Cost, Forecast, forecast
from longtake.core.model import Capabilities
from longtake.core.plan import GhostCodec, drawn, fixed, mixes_levels, steady
from longtake.core.schedule import flow
from longtake.core.solvers import Solver
from longtake.errors import UsageError
from longtake.models.families import FAMILIES
from longtake.rollouts.miga import Miga
from longtake.search.branch import leaf

EXACT_LATENTS = 1000  # longer plans are continued along a line


def plan(request: Request, begun: bool = False) -> tuple[Settings, Facts, list[str]]:
    """All decisions of a run, and a line for each that the user should know of; no weights are loaded.

    What a run that has `begun` was begun with is in its state: those files need not be there any more.
    """
    screen(request, begun)
    request = beside(request)  # the model is looked up as it will be used: guidance doubles the cost
    facts = look_up(request)
    settings, notes = decide(request, facts)
    if facts.vocabulary == "world":
        settings, words = in_own_words(settings)
        notes += words
    settings, guide = guided(request, settings, facts)
    notes += guide
    if facts.image_only and not (settings.image or settings.video):
        raise UsageError(f"{facts.name} makes videos from a picture; add --image FILE, or --guide-model to make one")
    if settings.image and not facts.image_first:
        raise UsageError(
            f"{facts.name} cannot begin with a picture; use a model that can (Wan 2.2 TI2V), or --video CLIP"
        )
    if settings.last_image:
        check_ending(settings, facts.name, facts.can, length_of(settings, facts.can))
    unread(settings)
    unheard(settings, facts)
    judging = judgeable(settings, facts)
    settings, more = afforded(request, settings, facts)
    rollout = dry_rollout(settings, facts.can)  # parameters that do not fit show now
    more += how_frames_begin(settings, facts, rollout)
    return settings, facts, [*notes, *judging, *more, *_turning(settings, facts, rollout)]


def unread(settings: Settings) -> None:
    """UsageError for what a user gave and the method would never look at."""
    row, batch = method(settings.method), settings.parameters.get("stage2") == "batch"
    if settings.prompt_rule == "queue_switch" and len(settings.prompts) > 1 and (row.fixed or batch):
        raise UsageError(
            f"prompt_rule=queue_switch turns all latents in flight at once, and {row.name} has the whole video in "
            f"flight: it would show the first prompt alone; leave it out, or use a method that streams"
        )
    handover = settings.parameters.get("handover", Miga.handover)
    if row.name == "miga" and (settings.image or settings.video) and handover >= settings.steps - 1:
        raise UsageError(
            f"miga reads a picture or clip in stage 1, which miga.handover={handover} of {settings.steps} steps leaves "
            f"no room for; use --set miga.handover={max(settings.steps - 2, 0)} or less"
        )


def unheard(settings: Settings, facts: Facts) -> None:
    """UsageError for prompts that the model cannot make anything of."""
    if settings.negative_prompt and not FAMILIES[facts.family].reads and settings.guide_model is None:
        raise UsageError(f"{facts.name} reads no prompt, so --negative-prompt has no effect; leave it out")
    if facts.labels:
        from longtake.models.latte_ucf import label_of  # imports diffusers, which takes seconds

        prompts = [scene["prompt"] for scene in settings.prompts] or [settings.prompt]
        for prompt in [*prompts, *([settings.negative_prompt] if facts.guided else [])]:
            label_of(prompt, facts.labels)


def afforded(request: Request, settings: Settings, facts: Facts) -> tuple[Settings, list[str]]:
    """The settings with the search that a budget can pay, and the line that says so."""
    if request.search_budget is None:
        return settings, []
    factor, row = parse_budget(request.search_budget), search(settings.search)
    latents = length_of(settings, facts.can)
    inner = dry_rollout(replace(settings, search="none"), facts.can)
    base, aim, reached = dry_run(replace(settings, search="none"), facts)[0].nfe, factor, 0.0
    while True:  # long videos are sized by their beginning, so the whole may cost a little more than that told
        try:
            values, guess = afford(row, inner, settings.search_parameters, aim, latents or 200, settings.seed)
        except UsageError as error:
            raise error if not reached else too_dear(row, factor, reached) from error
        chosen = replace(settings, search_parameters=values)
        reached = dry_run(chosen, facts)[0].nfe / base
        if reached <= factor:
            return chosen, [told(row, values, reached)]
        aim = guess * (1 - 1e-9)  # the next smaller one


def _turning(settings: Settings, facts: Facts, rollout: Any) -> list[str]:
    # when a change of prompt is seen: from its own row on, and faintly up to `reach` latents before
    timeline, lines = timeline_of(settings, facts.can), []
    for start, prompt in timeline.entries[1:]:
        frame = next(s["frame"] for s in settings.prompts if latent_of(settings, facts.can, s["frame"]) == start)
        begins, early = (float(n / settings.rate) for n in (frame, facts.can.num_frames(max(start - rollout.reach, 0))))
        lines.append(f"{prompt[:60]!r} begins at {begins:.1f} s; frames from {min(early, begins):.1f} s on may turn")
    return lines


def dry_rollout(settings: Settings, can: Capabilities) -> Any:
    """Method and search with nothing loaded: costs depend on the number of steps, not on grid, solver or weights."""
    latents, solver = length_of(settings, can), Solver(settings.solver or "euler")
    paper = flow(settings.steps)
    materials = Materials(
        can.latent_shape, paper, solver, can.window, GhostCodec(), latents, settings.ending == "shrink",
        at_once=can.latents_at_once,
    )  # fmt: skip
    return searched(settings, method_of(settings, materials), Blank(), latents)


def dry_run(settings: Settings, facts: Facts) -> tuple[Forecast, int | None]:
    """(cost of the run, its latent frames or None if endless), without a network.

    An endless run is costed over 1,000 latents.
    """
    rollout, latents = dry_rollout(settings, facts.can), length_of(settings, facts.can)
    context = 1 if settings.image else context_latents(settings, facts.can) if settings.video else 0
    # which windows need both of two experts depends on the noise schedule, which is not loaded: then it is a bound
    many = facts.experts if facts.experts > 1 and mixes_levels(leaf(rollout), clean=False) else 1
    factor = many * facts.cost
    paid = cost(rollout, EXACT_LATENTS if latents is None else latents, context, factor, settings.seed)
    return replace(paid, exact=paid.exact and many == 1), latents


def cost(rollout: Any, latents: int, context: int = 0, factor: Cost = 1, seed: int = 0) -> Forecast:
    """`forecast`, continued along a straight line beyond 1,000 latents: methods repeat themselves within that.

    What is made for a length is made for shorter ones there, since the end of a video costs otherwise than its middle.
    Searches may decide once in many cycles of their method: `forecast` adds up their own periods, and where they have
    none (what a decision costs is drawn, or the queue runs empty) they are continued by the mean of many cycles.
    """
    whole = hasattr(leaf(rollout), "num_latents")  # its few ticks hold the whole video: nothing repeats
    if latents <= EXACT_LATENTS or (steady(rollout) and not whole):
        return forecast(rollout, latents, context=context, cost=factor, seed=seed)
    cycle = cycle_of(rollout)
    if not (fixed(rollout) or whole):
        cycle *= max(EXACT_LATENTS // 2 // cycle, 1)
    base = EXACT_LATENTS - (EXACT_LATENTS - latents) % cycle  # as far into the cycle as `latents`
    near, far = (
        forecast(of_length(rollout, n), n, context=context, cost=factor, seed=seed) for n in (base - cycle, base)
    )
    times = (latents - base) // cycle
    grown = {name: getattr(far, name) + times * (getattr(far, name) - getattr(near, name))
             for name in ("nfe", "frame_nfe", "first_nfe", "first_tick", "peak_rows")}  # fmt: skip
    return replace(far, num_latents=latents, exact=far.exact and not drawn(rollout), **grown)


def cycle_of(rollout: Any) -> int:
    """Latents after which the calls of a method repeat themselves, searched or not."""
    method = leaf(rollout)
    if hasattr(method, "num_latents"):  # windows over a video of fixed length
        return method.machine.size - method.machine.overlap
    return max(getattr(method, "cycle", 1), 1)


def of_length(rollout: Any, latents: int) -> Any:
    """The same method for a video of another length, where it was made for one."""
    if hasattr(rollout, "inner"):
        return replace(rollout, inner=of_length(rollout.inner, latents))
    lengths = [name for name in ("num_latents", "end") if getattr(rollout, name, None) is not None]
    return replace(rollout, **dict.fromkeys(lengths, latents))


def context_latents(settings: Settings, can: Capabilities) -> int:
    """Latents of the user's clip that the method reads: whole groups where they are decoded so, or the last picture."""
    read = max(1, min(method(settings.method).context(can.window, settings.parameters), can.window - 1))
    if can.latent_group == 1 or read == 1:
        return read
    return min(-(-read // can.latent_group), (can.window - 1) // can.latent_group) * can.latent_group or 1
