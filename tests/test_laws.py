"""The laws on the exact oracle: rho = .9 couples rows, rho = 0 makes them separable."""

from __future__ import annotations

import pytest
import torch

from longtake.core.engine import Engine
from longtake.core.forecast import forecast
from longtake.core.noise import normal, root
from longtake.core.rollout import Timeline
from longtake.core.solvers import Solver
from longtake.core.step import all_of
from longtake.core.stream import stream
from longtake.search.lookahead import Lookahead
from longtake.search.population import Population
from longtake.testing.laws import check_rollout, resumed
from tests import reference
from tests.cases import FIXED, SHAPE, SOLVERS, WINDOW, Smooth, equal, grid, oracle, rollouts, run, searches, wanted

CASES = list(rollouts())
STREAMS = [name for name in CASES if name not in FIXED]
# other steps than plain's, or more than one pass
OTHER_STEPS = ("fifo replicate", "fifo odd", "progressive wide", "miga all")
FIFOS = [name for name in CASES if name.startswith("fifo")]


def noise(index: int) -> torch.Tensor:
    """Row `index`'s first draw in a run of seed 7."""
    return normal(SHAPE, root(7), "init", index)


# -- methods against independent loops -------------------------------------------------------------------------


def test_fifo_equals_an_independent_loop():
    rollout = rollouts()["fifo"]
    got, _ = run(rollout, 25)
    want = reference.fifo(oracle(rollout), noise, 25, WINDOW, WINDOW // 2)
    assert max(float((a - b).abs().max()) for a, b in zip(got, want, strict=True)) < 1e-5


@pytest.mark.parametrize(("name", "overlap"), [("chunk", 2), ("chunk disjoint", 0)])
def test_chunk_equals_an_independent_loop(name: str, overlap: int):
    rollout = rollouts()[name]
    got, _ = run(rollout, 30)
    want = reference.clips(oracle(rollout), noise, 30, WINDOW, overlap)[:30]
    assert max(float((a - b).abs().max()) for a, b in zip(got, want, strict=True)) < 1e-5


def test_plain_is_one_chunk():
    plain, _ = run(rollouts()["plain"], WINDOW)
    chunk, _ = run(rollouts()["chunk"], WINDOW)
    assert equal(plain, chunk)


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("name", [name for name in STREAMS if name not in OTHER_STEPS])
def test_on_the_separable_oracle_every_method_is_plain(name: str, solver: Solver):
    """Rows do not see each other, so only a row's own baggage matters: it catches whatever is lost on the way."""
    got, _ = run(rollouts(solver)[name], WINDOW, rho=0.0)
    want, _ = run(rollouts(solver)["plain"], WINDOW, rho=0.0)
    assert equal(got, want)


def test_methods_do_differ_on_the_coupled_oracle():
    got = {name: torch.stack(run(rollouts()[name], WINDOW)[0]) for name in CASES if name != "fifo odd"}
    names = [name for name in got if name != "plain"]
    # the first chunk is the first chunk, and batch = stream
    for same in ("chunk disjoint", "chunk matched", "chunk led", "replace", "miga batch"):
        names.remove(same)
    for left in names:
        for right in names:
            assert left == right or not torch.allclose(got[left], got[right], atol=1e-3), (left, right)


# -- the end, prompts, resuming --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*STREAMS, *searches()])
def test_more_frames_never_change_earlier_ones(name: str):
    rollout = {**rollouts(), **searches()}[name]
    short, _ = run(rollout, 11)
    long, _ = run(rollout, 23)
    assert equal(short, long[:11])


@pytest.mark.parametrize("name", [*CASES, *searches()])
def test_saving_and_loading_after_every_tick_changes_nothing(name: str, tmp_path):
    rollout = {**rollouts(Solver("unipc")), **searches(Solver("ddim", 0.5))}[name]
    many = wanted(name, 12)
    want, _ = run(rollout, many)
    got = resumed(rollout, Engine(oracle(rollout), 4), many, tmp_path, seed=7, prompt="a")
    assert equal(got[:many], want)


@pytest.mark.parametrize("name", [name for name in STREAMS if name not in ("miga all", "miga stage 2")])
def test_a_prompt_change_reaches_back_exactly_as_far_as_stated(name: str):
    """The new prompt has a mean of 1e30, so that float32 cannot hide the faintest influence."""
    rollout = rollouts()[name]
    cycle = getattr(rollout, "cycle", 1)
    observed = 0
    start = 2 * rollout.in_flight + 2  # past the start-up, where windows are smaller
    many = start + 2 * cycle
    before, _ = run(rollout, many, prompts="", mean_scale=1e30)
    for change in range(start, start + cycle):
        after, _ = run(rollout, many, prompts={0: "", change: "b"}, mean_scale=1e30)
        differs = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if not torch.equal(a, b)]
        assert differs[0] >= change - rollout.reach
        observed = max(observed, change - differs[0])
    assert observed == rollout.reach


@pytest.mark.parametrize("name", [*STREAMS, *searches()])
def test_what_was_released_before_a_row_entered_ignores_its_prompt(name: str):
    rollout = {**rollouts(), **searches()}[name]
    change, released = 2 * rollout.in_flight + 6, 0
    engine = Engine(oracle(rollout), 4)
    state = engine.drive(rollout.init(7, Timeline.of("a")))
    for state, _ in stream(rollout, engine, state):
        fresh = rollout.fresh(state)
        if fresh and change < fresh.stop:
            break
        released = state.emitted
    before, _ = run(rollout, released)
    after, _ = run(rollout, released, prompts={0: "a", change: "b"})
    assert released > 0 and equal(before, after)


# -- searches --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("wrap", ["emission", "tick", "lookahead", "nested"])
def test_one_candidate_is_no_search(name: str, wrap: str):
    inner = rollouts(Solver("ddim", 0.5))[name]
    wrapped = {
        "emission": Population(inner, Smooth(), num=1),
        "tick": Population(inner, Smooth(), num=1, when="tick"),
        "lookahead": Lookahead(inner, Smooth(), num=1),
        "nested": Lookahead(Population(inner, Smooth(), num=1, width=3), Smooth(), num=1),
    }[wrap]
    many = wanted(name, 14)
    (got, spent), (want, paid) = run(wrapped, many), run(inner, many)
    assert equal(got, want)
    assert spent.meter.nfe >= paid.meter.nfe  # a search gives up exact ending: it may read what is in flight


@pytest.mark.parametrize("name", searches())
def test_a_search_changes_something_and_repeats_itself(name: str):
    rollout = searches()[name]
    inner = rollout
    while hasattr(inner, "inner"):
        inner = inner.inner
    first, _ = run(rollout, 30)
    assert equal(first, run(rollout, 30)[0])
    assert not equal(first, run(inner, 30)[0])


def test_the_chosen_chunk_is_the_best_of_its_candidates():
    """Two sides: the search, and each candidate run by hand from the fork that the search describes."""
    from longtake.core.noise import fold

    inner, num = rollouts()["chunk"], 4
    got, _ = run(Population(inner, Smooth(), num=num), WINDOW)
    engine = Engine(oracle(inner), 4)
    start = engine.drive(inner.init(7, Timeline.of("a")))
    clips = []
    for candidate in range(num):
        state = inner.fork(start, fold(0, "candidate", candidate) if candidate else 0)
        latents = [latent for _, emission in stream(inner, engine, state, WINDOW) for latent in emission.latents]
        clips.append(latents)
    smooth = [
        -float(torch.stack([(b - a).square().mean() for a, b in zip(c, c[1:], strict=False)]).mean()) for c in clips
    ]
    assert equal(got, clips[smooth.index(max(smooth))])


@pytest.mark.parametrize("name", FIFOS + ["chunk"])
def test_candidates_in_lockstep_equal_one_after_the_other(name: str):
    rollout = rollouts(Solver("ddim", 0.5))[name]
    engine = Engine(oracle(rollout), 4)
    start = engine.drive(rollout.init(7, Timeline.of("a")))
    for _ in range(20):
        start, _ = engine.drive(rollout.step(start))
    forks = [rollout.fork(start, key) for key in range(4)]
    together = engine.drive(all_of([(rollout.step, (state,)) for state in forks]))
    apart = [engine.drive(rollout.step(state)) for state in forks]
    for (left, _), (right, _) in zip(together, apart, strict=True):
        assert equal([row.x for row in left.queue.rows], [row.x for row in right.queue.rows])


def test_equal_windows_of_relatives_are_evaluated_once():
    rollout = rollouts()["fifo"]
    engine = Engine(oracle(rollout), 64)
    start = engine.drive(rollout.init(7, Timeline.of("a")))
    for _ in range(30):
        start, _ = engine.drive(rollout.step(start))
    before = engine.meter.nfe
    engine.drive(all_of([(rollout.step, (rollout.fork(start, key),)) for key in range(5)]))
    # ScalingNoise Sec. 3.3: only the window with the new row differs, so 2w - 1 + k windows for k candidates
    assert engine.meter.nfe - before == 2 * rollout.partitions - 1 + 5


def test_beams_of_equal_merit_do_not_hold_emissions_back_for_ever():
    class Indifferent:
        needs = frozenset({"x0"})

        def __call__(self, views):
            return [0.0] * len(views)

    beam = Population(rollouts()["fifo"], Indifferent(), num=2, width=3, when="tick", max_lag=5)
    engine = Engine(oracle(beam), 8)
    state = engine.drive(beam.init(7, Timeline.of("a")))
    for state, _ in stream(beam, engine, state, 15):
        lag = max(sum(len(p.emission.latents) for p in member.pending) for member in state.members)
        assert lag <= 5


def test_unseen_rows_never_reach_a_reward():
    seen_levels = []

    class Spy:
        needs = frozenset({"x", "x0"})

        def __call__(self, views):
            seen_levels.extend(level for view in views for level in view.level)
            return [0.0] * len(views)

    rollout = rollouts()["fifo"]
    run(Population(rollout, Spy(), num=2, width=2, when="tick"), 6)
    # a row that no network has read is still at level S
    assert seen_levels and max(seen_levels) == rollout.schedule.num_steps - 1


# -- cost ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["fanout", "replicate"])
@pytest.mark.parametrize(("steps", "window"), [(16, 8), (24, 8), (36, 12), (12, 12), (14, 7), (18, 6)])
def test_fifo_counts_as_stated(steps: int, window: int, start: str):
    from longtake.rollouts.fifo import Fifo

    rollout = Fifo(SHAPE, grid(steps=steps), Solver(), window, start=start)
    _, engine = run(rollout, 40, cost=2)
    assert engine.meter.nfe == 2 * reference.fifo_nfe(steps, window, 40, start)


@pytest.mark.parametrize("num", [1, 8, 9, 30])
def test_chunk_and_plain_count_as_stated(num: int):
    _, engine = run(rollouts()["chunk"], num)
    assert engine.meter.nfe == reference.chunk_nfe(16, WINDOW, 2, num)
    _, engine = run(rollouts()["plain"], WINDOW)
    assert (engine.meter.nfe, engine.meter.frame_nfe) == (16, 16 * WINDOW)


@pytest.mark.parametrize("name", [*CASES, *searches()])
def test_a_dry_run_counts_what_a_run_costs(name: str):
    rollout = {**rollouts(), **searches()}[name]
    many = wanted(name, 20)
    _, engine = run(rollout, many)
    plan = forecast(rollout, many)
    assert plan.exact or name not in CASES
    if plan.exact:
        assert (plan.nfe, plan.frame_nfe) == (engine.meter.nfe, engine.meter.frame_nfe)
    assert plan.peak_rows > 0 and plan.first_nfe > 0


@pytest.mark.parametrize("name", FIFOS)
def test_exact_ending_skips_calls_and_changes_nothing(name: str):
    rollout = rollouts()[name]
    got, engine = run(rollout, 20)
    endless = Engine(oracle(rollout), 4)
    state = endless.drive(rollout.init(7, Timeline.of("a")))
    latents: list[torch.Tensor] = []
    for _, emission in stream(rollout, endless, state):
        latents.extend(emission.latents)
        if len(latents) >= 20:
            break
    assert equal(got, latents[:20])
    assert engine.meter.nfe < endless.meter.nfe


# -- context and law kit ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_context_is_read_and_never_emitted(name: str):
    rollout = rollouts()[name]
    clip = [normal(SHAPE, 1, "clip", index) for index in range(4)]
    many = WINDOW - 4 if name == "plain" else min(wanted(name), 12)
    with_clip, _ = run(rollout, many, context=clip)
    without, _ = run(rollout, many)
    assert len(with_clip) == many
    if name not in ("chunk disjoint", "fifo disjoint", "miga stage 2"):
        assert not equal(with_clip, without)


@pytest.mark.parametrize("name", CASES)
def test_the_law_kit_passes_on_our_own(name: str):
    check_rollout(rollouts()[name], oracle(rollouts()[name]), num_latents=wanted(name, 10))


@pytest.mark.parametrize("name", ["fifo", "chunk"])
def test_the_state_stays_flat(name: str):
    from longtake.core.rows import Row
    from longtake.core.tree import walk

    rollout = rollouts(Solver("unipc"))[name]
    engine = Engine(oracle(rollout), 4)
    state = engine.drive(rollout.init(7, Timeline.of("a")))
    sizes = []
    for tick, (state, _) in enumerate(stream(rollout, engine, state)):
        sizes.append(sum(isinstance(item, Row) for item in walk(state)))
        if tick == 300:
            break
    assert max(sizes[40:]) == max(sizes) <= rollout.in_flight + rollout.line.group


# -- small laws that single faults break -----------------------------------------------------------------------


def test_a_replaced_row_forgets_what_it_was():
    """Mutation in flight (EvoSearch): x is another, so neither the solver's memory nor its estimate may stay."""
    rollout = rollouts(Solver("unipc"))["fifo"]
    engine = Engine(oracle(rollout), 4)
    state = engine.drive(rollout.init(7, Timeline.of("a")))
    for _ in range(10):
        state, _ = engine.drive(rollout.step(state))
    mutated = rollout.fork(state, 5, mix=lambda row, fresh: row.x + 0.2 * fresh, which="flight")
    for before, after in zip(state.queue.rows, mutated.queue.rows, strict=True):
        assert after.level == before.level and after.path != before.path
        assert not after.seen and after.memory.x0s == () and not torch.equal(after.x, before.x)
    kept = rollout.fork(state, 5, which="flight")
    assert all(a.x is b.x and a.memory is b.memory for a, b in zip(kept.queue.rows, state.queue.rows, strict=True))


def test_candidate_0_is_the_run_without_a_search():
    """A reward that prefers the first candidate leaves the run as it was."""

    class First:
        needs = frozenset({"x0"})

        def __call__(self, views):
            return [-float(place) for place in range(len(views))]

    inner = rollouts()["chunk"]
    assert equal(run(Population(inner, First(), num=3), 20)[0], run(inner, 20)[0])
    assert equal(run(Lookahead(inner, First(), num=3, look=2), 20)[0], run(inner, 20)[0])


def test_relatives_never_draw_alike():
    """Beams that share an ancestor fork at different ticks; a key without the tick gives them each other's noise."""
    beam = searches()["beam fifo"]
    engine = Engine(oracle(beam), 8)
    state = engine.drive(beam.init(7, Timeline.of("a")))
    drawn: dict[bytes, int] = {}
    for tick, (state, _) in enumerate(stream(beam, engine, state)):
        branches = beam._spawn(state)
        fresh = [row for branch in branches for row in branch.state.queue.rows if not row.seen]
        by_identity = {id(row.x): row for row in fresh}
        # rows that are not the same object hold different noise, now and compared with all earlier ticks
        for row in by_identity.values():
            key = row.x.numpy().tobytes()
            assert drawn.setdefault(key, row.path) == row.path
        assert len({row.x.numpy().tobytes() for row in by_identity.values()}) == len(
            {r.path for r in by_identity.values()}
        )
        paths = [branch.state.path for branch in branches]
        assert len(set(paths)) == len(paths)
        if tick == 25:
            break


def test_steps_of_a_row_draw_independent_noise():
    solver = Solver("ddim", 1.0)
    rollout = rollouts(solver)["plain"]
    engine = Engine(oracle(rollout, rho=0.0), 4)
    state = engine.drive(rollout.init(7, Timeline.of("")))
    noises = []
    for _ in range(6):
        before = state.queue.rows[0]
        state, _ = engine.drive(rollout.step(state))
        after = state.queue.rows[0]
        plan = solver.plan(rollout.schedule, before.level, after.level, before.memory)
        clean = plan.next.x * before.x + plan.next.x0 * after.memory.x0s[0]
        noises.append((after.x - clean) / plan.std)
    for left in range(len(noises)):
        for right in range(left):
            assert not torch.allclose(noises[left], noises[right], atol=1e-2)


def test_a_window_takes_the_prompt_of_most_rows_it_commits():
    timeline = Timeline.of({0: "a", 10: "b"})
    assert timeline.cond([8, 9, 10]) == "a" and timeline.cond([9, 10, 11]) == "b"
    assert timeline.cond([9, 10]) == "a"  # ties to the earlier
    assert timeline.cond([-3, -2]) == "a" and timeline.at(500) == "b"
