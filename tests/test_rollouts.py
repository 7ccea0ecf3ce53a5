"""What the long-video methods are, each against an independent loop, its relatives and its stated cost."""

from __future__ import annotations

import re
from math import ceil
from typing import Any

import pytest
import torch

from longtake.core.engine import Engine
from longtake.core.forecast import forecast
from longtake.core.model import Blend
from longtake.core.noise import normal, root
from longtake.core.plan import level_gaps, mixes_levels
from longtake.core.rollout import Timeline
from longtake.core.solvers import Solver
from longtake.core.stream import stream
from longtake.rollouts.chunk import Chunk
from longtake.rollouts.fifo import Fifo
from longtake.rollouts.fixed import weights
from longtake.rollouts.freenoise import FreeNoise, sources
from longtake.rollouts.miga import Miga
from longtake.rollouts.plain import Plain
from longtake.rollouts.progressive import Progressive, fits
from longtake.rollouts.replace import Replace
from longtake.rollouts.rolling import Rolling
from longtake.rollouts.windows import Windows
from tests import reference
from tests.cases import FIXED, LENGTH, SHAPE, SOLVERS, WINDOW, equal, grid, oracle, rollouts, run

S16 = grid()


def noise(index: int) -> torch.Tensor:
    """Row `index`'s first draw in a run of seed 7."""
    return normal(SHAPE, root(7), "init", index)


def apart(left: list[torch.Tensor], right: list[torch.Tensor]) -> float:
    """The largest difference of two videos."""
    return max(float((a - b).abs().max()) for a, b in zip(left, right, strict=True))


# -- against independent loops ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("window", "chunk", "prefix"), [(8, 1, 1), (8, 2, 2), (6, 3, 3), (4, 2, 0), (16, 4, 2)])
def test_progressive_equals_an_independent_loop(window: int, chunk: int, prefix: int):
    rollout = Progressive(SHAPE, S16, Solver(), window, chunk, prefix)
    got, _ = run(rollout, 26)
    assert apart(got, reference.progressive(oracle(rollout), noise, 26, window, chunk, prefix)[:26]) < 1e-5


@pytest.mark.parametrize("overlap", [0, 2, 5])
def test_replacement_with_noise_equals_an_independent_loop(overlap: int):
    rollout = Replace(SHAPE, S16, Solver(), WINDOW, overlap)
    got, _ = run(rollout, 26)

    def again(index: int, level: int) -> torch.Tensor:
        return normal(SHAPE, root(7), "replace", index, level)

    assert apart(got, reference.replaced(oracle(rollout), noise, again, 26, WINDOW, overlap)[:26]) < 1e-5


def test_replacement_without_noise_is_chunk():
    for overlap in (0, 3):
        got, _ = run(Replace(SHAPE, S16, Solver("unipc"), WINDOW, overlap, noise=False), 26)
        assert equal(got, run(Chunk(SHAPE, S16, Solver("unipc"), WINDOW, overlap), 26)[0])


@pytest.mark.parametrize(("block", "delay", "overlap"), [(2, 3, 2), (1, 16, 1), (8, 4, 0), (3, 5, 3), (3, 5, 2)])
def test_rolling_equals_an_independent_loop(block: int, delay: int, overlap: int):
    rollout = Rolling(SHAPE, S16, Solver(), WINDOW, block, delay, overlap)
    got, _ = run(rollout, 22)
    assert apart(got, reference.rolling(oracle(rollout), noise, 22, WINDOW, block, delay, overlap)[:22]) < 1e-5


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_rolling_without_delay_is_chunk(solver: Solver):
    s = grid(solver)
    got, _ = run(Rolling(SHAPE, s, solver, WINDOW, 2, 0, 2), 26)
    assert equal(got, run(Chunk(SHAPE, s, solver, WINDOW, 2), 26)[0])


@pytest.mark.parametrize("fuse", ["pyramid", "uniform", "linear"])
def test_windows_equal_an_independent_loop(fuse: Any):
    rollout = Windows(SHAPE, S16, Solver(), WINDOW, 19, 3, fuse)
    got, _ = run(rollout, 19)
    table = {
        "uniform": [1.0] * 8,
        "pyramid": [1.0, 2.0, 3.0, 4.0, 4.0, 3.0, 2.0, 1.0],
        "linear": [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25],
    }
    assert weights(fuse, 8, 3) == tuple(table[fuse])
    want = reference.windows(oracle(rollout), [noise(i) for i in range(19)], WINDOW, 3, table[fuse])
    assert apart(got, want) < 1e-5


def test_windows_of_a_short_video_are_plain():
    for many in (5, WINDOW):
        got, _ = run(Windows(SHAPE, S16, Solver("unipc"), WINDOW, many), many)
        assert equal(got, run(Plain(SHAPE, S16, Solver("unipc"), many), many)[0])


def test_freenoise_repeats_the_noise_of_the_first_window_in_shuffled_groups():
    found = sources(29, 8, 2, path=3)
    assert found[:8] == list(range(8))
    for start in range(8, 28, 2):
        assert sorted(found[start : start + 2]) == sorted(found[start - 8 : start - 6])
    assert any(found[i] != found[i - 8] for i in range(8, 29))
    rollout = FreeNoise(SHAPE, S16, Solver(), WINDOW, LENGTH, overlap=6, shuffle=2)
    got, _ = run(rollout, LENGTH)
    rows = [noise(source) for source in sources(LENGTH, WINDOW, 2, root(7))]
    pyramid = [1.0, 2.0, 3.0, 4.0, 4.0, 3.0, 2.0, 1.0]
    assert apart(got, reference.windows(oracle(rollout), rows, WINDOW, 6, pyramid)) < 1e-5


@pytest.mark.parametrize(("z", "h", "m", "s"), [(3, 4, 0, 4), (3, 4, 2, 4), (2, 5, 3, 3), (4, 0, 2, 4), (1, 16, 0, 4)])
def test_miga_equals_an_independent_loop(z: int, h: int, m: int, s: int):
    rollout = Miga(SHAPE, S16, Solver(), WINDOW, z, h, m, s, stage2="batch", end=24)
    got, _ = run(rollout, 24)
    assert apart(got, reference.miga(oracle(rollout), noise, 24, WINDOW, z, h, m, s)[:24]) < 1e-5


# -- the same thing by two names -------------------------------------------------------------------------------

FRONTS = [
    dict(zigzag=3, handover=4, anchors=2),
    dict(zigzag=3, handover=4, anchors=0),
    dict(zigzag=1, handover=6, anchors=4, stride=2),
    dict(zigzag=4, handover=5, anchors=3, stride=3, rotate=True),
    dict(zigzag=2, handover=3, anchors=2, side="before"),
    dict(zigzag=5, handover=4, anchors=0, side="before", stride=5),
    dict(zigzag=3, handover=16, anchors=2),
    dict(zigzag=8, handover=2, anchors=1, stride=7),
]


@pytest.mark.parametrize("options", FRONTS, ids=str)
@pytest.mark.parametrize("solver", [Solver(), Solver("unipc"), Solver("ddim", 1.0)], ids=str)
def test_the_wavefront_is_the_batch_form(options: dict[str, Any], solver: Solver):
    """Bit for bit, where the batch is long enough that its own end is out of sight."""
    s = grid(solver)
    stream_form = Miga(SHAPE, s, solver, WINDOW, **options)
    many, beyond = 20, stream_form.in_flight
    got, _ = run(stream_form, many)
    batch, _ = run(Miga(SHAPE, s, solver, WINDOW, **options, stage2="batch", end=many + beyond), many + beyond)
    assert equal(got, batch[:many])


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_miga_with_one_row_a_level_and_no_second_stage_is_fifo(solver: Solver):
    s = grid(solver)
    for side in ("after", "before"):
        got, _ = run(Miga(SHAPE, s, solver, WINDOW, 1, 0, 0, 4, side), 24)
        want, _ = run(Fifo(SHAPE, s, solver, WINDOW, stride=4, side=side, history=0), 24)
        assert equal(got, want)


def test_miga_with_groups_of_a_window_is_independent_chunks():
    got, _ = run(Miga(SHAPE, S16, Solver("dpmpp_2m"), WINDOW, WINDOW, 0, 0, WINDOW), 32)
    assert equal(got, run(Chunk(SHAPE, S16, Solver("dpmpp_2m"), WINDOW, 0), 32)[0])


def test_progressive_with_one_chunk_is_plain():
    got, _ = run(Progressive(SHAPE, S16, Solver("unipc"), WINDOW, chunk=WINDOW, prefix=0), WINDOW)
    assert equal(got, run(Plain(SHAPE, S16, Solver("unipc"), WINDOW), WINDOW)[0])


@pytest.mark.parametrize("name", rollouts())
def test_every_row_passes_every_level_exactly_once(name: str):
    """Every released row was written at levels S, S-1, ... 1, once each, in that order (with `refine` r more)."""
    rollout, passed = rollouts()[name], {}

    class Spy(Engine):
        def answer(self, calls, dead=()):
            for call in calls:
                level = dict(zip(call.window.read, call.levels, strict=True))
                for index in call.window.write:
                    passed.setdefault(index, []).append(level[index])
            return super().answer(calls, dead)

    engine = Spy(oracle(rollout), 4)
    state = engine.drive(rollout.init(7, Timeline.of("a")))
    passed.clear()  # a base clip's rows have the same places
    emitted = 0
    for _, emission in stream(rollout, engine, state):
        emitted = emission.stop
        if emitted >= 14:
            break
    steps = rollout.schedule.num_steps
    levels = list(range(steps, 0, -1)) + list(range(getattr(rollout, "refine", 0), 0, -1))
    first = 0 if name != "fifo replicate" else steps
    fused = name in ("windows", "freenoise")
    for index in range(first, emitted):
        seen = sorted(set(passed[index]), reverse=True) if fused else passed[index]
        assert seen == levels, (index, passed[index])


# -- cost ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num", [1, 7, 20])
@pytest.mark.parametrize(("steps", "window", "chunk"), [(16, 8, 1), (16, 8, 2), (16, 16, 1), (16, 16, 4), (4, 8, 1)])
def test_progressive_counts_as_stated(steps: int, window: int, chunk: int, num: int):
    rollout = Progressive(SHAPE, grid(steps=steps), Solver(), window, chunk, prefix=2)
    _, engine = run(rollout, num)
    rows = max(chunk, window // steps)
    assert engine.meter.nfe == steps + steps * rows // window * (ceil(num / rows) - 1)


@pytest.mark.parametrize("num", [3, 8, 13, 20, 21])
@pytest.mark.parametrize(("block", "delay", "overlap"), [(2, 3, 2), (1, 1, 1), (4, 16, 0), (8, 2, 3)])
def test_rolling_counts_as_stated(block: int, delay: int, overlap: int, num: int):
    _, engine = run(Rolling(SHAPE, S16, Solver(), WINDOW, block, delay, overlap), num)
    want, left, size = 0, num, WINDOW
    while left > 0:
        blocks = ceil(min(left, size) / block)
        want, left, size = want + 16 + delay * (blocks - 1), left - size, WINDOW - overlap
    assert engine.meter.nfe == want


@pytest.mark.parametrize(("num", "overlap"), [(5, 3), (8, 3), (9, 3), (30, 3), (30, 6), (31, 0)])
def test_windows_and_freenoise_count_as_stated(num: int, overlap: int):
    want = 16 * (ceil((num - WINDOW) / (WINDOW - overlap)) + 1 if num > WINDOW else 1)
    for kind in (Windows, FreeNoise):
        assert run(kind(SHAPE, S16, Solver(), WINDOW, num, overlap), num)[1].meter.nfe == want


@pytest.mark.parametrize("num", [1, 8, 9, 30])
def test_replace_counts_as_chunk(num: int):
    for noisy in (True, False):
        _, engine = run(Replace(SHAPE, S16, Solver(), WINDOW, 2, noisy), num)
        assert engine.meter.nfe == reference.chunk_nfe(16, WINDOW, 2, num)


@pytest.mark.parametrize(
    ("z", "h", "m", "s", "side"),
    [
        (3, 4, 2, 4, "after"),
        (2, 0, 0, 4, "after"),
        (4, 4, 0, 4, "before"),
        (2, 4, 2, 6, "after"),
        (1, 8, 1, 4, "after"),
    ],
)
def test_miga_costs_no_more_than_stated_once_running(z: int, h: int, m: int, s: int, side: Any):
    rollout = Miga(SHAPE, S16, Solver(), WINDOW, z, h, m, s, side)
    cycle, base = rollout.cycle, 2 * rollout.in_flight
    near, far = (forecast(rollout, many) for many in (base, base + 4 * cycle))
    stated = ceil(z * (16 - h) / s) / z + h / s
    measured = (far.nfe - near.nfe) / (4 * cycle)
    merged = 1 / z  # at most the last window of a sweep falls together with the one before
    assert stated - merged <= measured <= stated


def test_the_delay_of_stage_2_is_as_stated():
    for m, s in ((2, 4), (0, 4), (0, 5), (4, 4)):
        rollout = Miga(SHAPE, S16, Solver(), WINDOW, 1, 4, m, s)
        d = WINDOW - m
        ticks = forecast(rollout, 1).first_tick
        delay = 4 * ceil((d - s) / s) * s
        assert (16 - 4) + delay <= ticks <= (16 - 4) + delay + s + 1 + m  # the first windows have no guides and read f
        before = forecast(Miga(SHAPE, S16, Solver(), WINDOW, 1, 4, m, s, "before"), 1).first_tick
        assert before <= (16 - 4) + WINDOW + 1


def test_level_gaps_say_what_each_method_mixes():
    cases = rollouts()
    unmixed = {name for name in cases if not mixes_levels(cases[name])}
    assert unmixed == {"plain", "chunk disjoint", "replace", "miga stage 2", "windows", "freenoise"}
    for name in ("plain", "replace", "windows", "freenoise"):
        assert not mixes_levels(cases[name]) and level_gaps(cases[name]) == (0.0, 0)
    assert mixes_levels(cases["chunk"]) and level_gaps(cases["chunk"])[1] == 0  # clean rows in front of one level
    assert level_gaps(cases["fifo"])[1] == WINDOW - 1
    # MIGA Sec. 3.2: groups of z divide the span
    spans = [level_gaps(Miga(SHAPE, S16, Solver(), WINDOW, z, 0, 0))[1] for z in (1, 2, 4)]
    assert spans == [7, 3, 1]


# -- the end, prompts, regrowing -------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [
    lambda end: Progressive(SHAPE, S16, Solver(), 8, 2, 2, end=end),
    lambda end: Fifo(SHAPE, S16, Solver(), WINDOW, end=end),
])  # fmt: skip
def test_a_shrinking_end_saves_work_and_changes_only_the_last_latents(make: Any):
    endless, many = make(None), 25
    (got, short), (want, long) = run(make(many), many), run(endless, many)
    assert len(got) == many
    differs = [i for i, (a, b) in enumerate(zip(got, want, strict=True)) if not torch.equal(a, b)]
    assert differs and differs[0] >= many - endless.in_flight
    assert short.meter.frame_nfe < long.meter.frame_nfe
    state = short.drive(make(many).init(7, Timeline.of("a")))
    *_, (state, _) = stream(make(many), short, state)
    assert state.finished and state.emitted == many


@pytest.mark.parametrize("make", [
    lambda: Fifo(SHAPE, S16, Solver("unipc"), WINDOW, history=0),
    lambda: Miga(SHAPE, S16, Solver("unipc"), WINDOW, 2, 4, 0, 4, "before"),
    lambda: Progressive(SHAPE, S16, Solver("unipc"), 8, 2, 0),
])  # fmt: skip
def test_growing_the_whole_queue_again_is_a_run_with_other_noise(make: Any):
    rollout, ticks = make(), 7
    engine = Engine(oracle(rollout), 4)
    start = engine.drive(rollout.init(7, Timeline.of("a")))

    def after(state: Any) -> Any:
        for _ in range(ticks):
            state, _ = engine.drive(rollout.step(state))
        return state

    grown = engine.drive(rollout.regrow(after(start), 0, 5, 0))
    fresh = after(rollout.fork(start, 5))
    for left, right in zip(grown.queue.rows, fresh.queue.rows, strict=True):
        assert (left.index, left.level, left.path) == (right.index, right.level, right.path)
        assert torch.equal(left.x, right.x)


def test_growing_a_tail_again_leaves_the_rest_and_sees_its_guides():
    rollout = rollouts()["miga"]
    engine = Engine(oracle(rollout), 4)
    state = engine.drive(rollout.init(7, Timeline.of("a")))
    for _ in range(8):
        state, _ = engine.drive(rollout.step(state))
    grown = [engine.drive(rollout.regrow(state, 12, 5, guides)) for guides in (6, 6, 0)]
    for before, after in zip(state.queue.rows, grown[0].queue.rows, strict=True):
        assert (before is after) == (before.index < 12)
        assert before.level == after.level and before.index == after.index and before.seen == after.seen
    assert equal([row.x for row in grown[0].queue.rows], [row.x for row in grown[1].queue.rows])
    assert not equal([row.x for row in grown[0].queue.rows], [row.x for row in grown[2].queue.rows])


def test_prompts_fade_row_by_row_and_never_over_a_cut():
    line = Timeline(((0, "a"), (10, "b"), (20, "c")), fade=3, cuts=(20,))
    assert [str(line.at(i)) for i in (9, 13, 19, 20)] == ["a", "b", "b", "c"]
    assert line.at(10) == Blend("a", "b", 0.25) and line.at(12) == Blend("a", "b", 0.75) and line.at(13) == "b"
    assert line.cond([9, 10, 11]) == Blend("a", "b", 0.25)  # (0 + .25 + .5) / 3
    assert line.cond([18, 19, 20]) == "b" and line.cond([19, 20, 21]) == "c"
    assert line.prompts == ("a", "b", "c")


def test_prompt_rules():
    entries = ((0, "a"), (10, "b"))
    assert Timeline(entries, rule="start").cond([9, 10, 11]) == "a"
    assert Timeline(entries).cond([9, 10, 11]) == "b"
    whole = Timeline(entries, rule="queue_switch")
    assert whole.conds(9)([30, 31]) == "a" and whole.conds(10)([9]) == "b"
    for bad in (dict(fade=-1), dict(rule="last")):
        with pytest.raises(ValueError, match=r"fade|prompt_rule"):
            Timeline(entries, **bad)


def test_a_fade_is_between_its_prompts_on_the_oracle():
    rollout = rollouts()["chunk"]
    faded = {}
    for fade in (0, 8):
        engine = Engine(oracle(rollout, rho=0.0), 4)
        state = engine.drive(rollout.init(7, Timeline(((0, "a"), (14, "b")), fade=fade)))
        latents = [x for _, emission in stream(rollout, engine, state, 30) for x in emission.latents]
        faded[fade] = latents
    one, two = (run(rollout, 30, prompts=p, rho=0.0)[0] for p in ("a", "b"))
    assert equal(faded[8][:14], one[:14]) and equal(faded[8][26:30], two[26:30])
    shares = [
        float(((x - p) * (q - p)).sum() / ((q - p) ** 2).sum())
        for x, p, q in zip(faded[8][14:26], one[14:26], two[14:26], strict=True)
    ]
    assert all(b - a > -1e-5 for a, b in zip(shares, shares[1:], strict=False))
    assert 0 < shares[0] < 0.5 and 0.9 < shares[-1] <= 1.0


@pytest.mark.parametrize("bad", [
    lambda: Progressive(SHAPE, S16, Solver(), 11),
    lambda: Progressive(SHAPE, S16, Solver(), 8, chunk=3),
    lambda: Replace(SHAPE, S16, overlap=12),
    lambda: Rolling(SHAPE, S16, delay=17),
    lambda: Rolling(SHAPE, S16, block=0),
    lambda: Miga(SHAPE, S16, handover=17),
    lambda: Miga(SHAPE, S16, anchors=7),
    lambda: Miga(SHAPE, S16, stage2="batch"),
    lambda: Windows(SHAPE, S16, overlap=12),
    lambda: Windows(SHAPE, S16, fuse="none"),  # type: ignore[arg-type]
    lambda: FreeNoise(SHAPE, S16, shuffle=0),
])  # fmt: skip
def test_impossible_settings_are_refused(bad: Any):
    with pytest.raises(ValueError, match=r"must be|needs|multiple|divide"):
        bad()


def test_colours_are_matched_to_the_first_clip_and_not_in_it():
    """Two sides: the statistics of every later clip, and the first clip as without matching."""
    plain, matched = (Chunk(SHAPE, S16, Solver("unipc"), WINDOW, 2, color_match=m) for m in ("none", "adain"))
    got, want = run(matched, 26)[0], run(plain, 26)[0]
    assert equal(got[:WINDOW], want[:WINDOW]) and not torch.equal(got[WINDOW], want[WINDOW])
    first = torch.stack(got[:WINDOW])
    for start in range(WINDOW, 26, WINDOW - 2):
        clip, other = torch.stack(got[start : start + 6]), torch.stack(want[start : start + 6])
        for part in (0, 1):
            here, there, before = (x[:, part].flatten() for x in (clip, first, other))
            assert float(here.mean()) == pytest.approx(float(there.mean()), abs=1e-5)
            assert float(here.std(correction=0)) == pytest.approx(float(there.std(correction=0)), rel=1e-4)
            assert abs(float(before.mean() - there.mean())) > 1e-3
    with pytest.raises(ValueError, match="color_match"):
        Chunk(SHAPE, S16, color_match="hue")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", rollouts())
def test_a_video_may_end_on_a_picture(name: str):
    """The given latent comes out as it is, at its place; what is before turns towards it; nothing else is touched."""
    rollout, many = rollouts()[name], min(FIXED.get(name, 19), 19)
    picture = 3 * normal(SHAPE, 9, "picture")
    made = []
    for pictures in ((), ((many - 1, picture),)):
        engine = Engine(oracle(rollout), 4)
        state = engine.drive(rollout.init(7, Timeline(((0, "a"),), pictures=pictures)))
        made.append([x for _, emission in stream(rollout, engine, state, many) for x in emission.latents][:many])
    free, given = made
    assert torch.equal(given[-1], picture)
    # clips of `replace` end before it (those of `chunk led` too), and disjoint windows may not see it
    if name not in ("replace", "chunk led", "chunk disjoint", "fifo disjoint", "progressive wide", "chunk matched",
                    "progressive led"):  # fmt: skip
        assert not torch.equal(given[-2], free[-2])
        assert float((given[-2] * picture).mean()) > float((free[-2] * picture).mean())
    before = 0 if name in FIXED else max(many - 1 - rollout.in_flight, 0)
    assert equal(given[:before], free[:before])


@pytest.mark.slow
def test_the_table_of_the_documentation_is_the_program_s():
    import runpy
    from pathlib import Path

    script = runpy.run_path(str(Path(__file__).parent.parent / "scripts" / "methods_table.py"))
    assert script["table"]() in script["DOC"].read_text(), "run python scripts/methods_table.py"


def test_chunk_led_by_the_first_latent_equals_an_independent_loop():
    rollout = rollouts()["chunk led"]
    den, sig, done = oracle(rollout), S16.sigmas, []
    while len(done) < 23:
        context = [done[0], *done[-2:]] if done else []
        fresh = [noise(len(done) + place) for place in range(WINDOW - len(context))]
        for k in range(16, 0, -1):
            levels = torch.tensor([[0] * len(context) + [k] * len(fresh)])
            x0 = den(torch.stack(context + fresh)[None], levels, ["a"])[0][len(context) :]
            fresh = [x + (sig[k - 1] - sig[k]) * (x - clean) / sig[k] for x, clean in zip(fresh, x0, strict=True)]
        done += fresh
    assert apart(run(rollout, 23)[0], done[:23]) < 1e-5
    for bad in (dict(overlap=1), dict(lead="none")):
        with pytest.raises(ValueError, match="lead"):
            Chunk(SHAPE, S16, **{"lead": "first", **bad})


@pytest.mark.parametrize(("window", "chunk", "prefix"), [(8, 1, 1), (8, 2, 3), (4, 4, 2)])
def test_progressive_led_by_the_first_latent_equals_an_independent_loop(window: int, chunk: int, prefix: int):
    rollout = Progressive(SHAPE, S16, Solver(), window, chunk, prefix, lead="first")
    got = run(rollout, 22)[0]
    assert apart(got, reference.progressive(oracle(rollout), noise, 22, window, chunk, prefix, "own")[:22]) < 1e-5
    # this oracle forgets what stands behind a clean row, so what the calls are shown is looked at as well
    calls: list[Any] = []

    class Spy(Engine):
        def answer(self, asked, dead=()):
            calls.extend(asked)
            return super().answer(asked, dead)

    engine = Spy(oracle(rollout), 4)
    for state, _ in stream(rollout, engine, engine.drive(rollout.init(7, Timeline.of("a"))), 22):
        done = [row for row in state.queue.rows if row.index < min(state.emitted, 22)]
        assert all(torch.equal(row.x, got[row.index]) for row in done), "only what is read is exchanged"
    later = [call for call in calls if call.levels[0] == 0]
    assert len(later) > 22 * 8 // window and all(torch.equal(call.x[0], got[0]) for call in later)
    for call in later:
        clean = [place for place in call.window.read if place not in call.window.write][1:]
        assert all(torch.equal(x, got[place]) for x, place in zip(call.x[1:], clean, strict=False))
    for bad in (dict(prefix=0, lead="first"), dict(lead="none")):
        with pytest.raises(ValueError, match="lead"):
            Progressive(SHAPE, S16, window=8, **bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["chunk", "progressive"])
def test_a_video_that_begins_with_a_picture_is_led_by_it(kind: str):
    """Every call of both methods has clean rows in front, and at position 0 stands the picture."""
    rollout: Any = Chunk(SHAPE, S16, Solver(), WINDOW, 2, lead="first")
    if kind == "progressive":
        rollout = Progressive(SHAPE, S16, Solver(), 4, 2, 2, lead="first")
    picture, led = normal(SHAPE, 9, "picture"), []

    class Spy(Engine):
        def answer(self, calls, dead=()):
            led.extend(torch.equal(call.x[0], picture) for call in calls)
            return super().answer(calls, dead)

    engine = Spy(oracle(rollout), 4)
    state = engine.drive(rollout.init(7, Timeline.of("a"), [picture]))
    for _ in stream(rollout, engine, state, 20):
        pass
    assert len(led) > 32 and all(led)


def test_steps_of_progressive_that_fit_are_told_as_the_nearest():
    """Against every number tried: Sec. 3.1's two cases, F a multiple of S and S a multiple of F."""
    for window, chunk in ((12, 1), (12, 3), (8, 2), (11, 1)):
        works = []
        for steps in range(1, 40):
            try:
                rollout = Progressive(SHAPE, grid(steps=steps), Solver(), window, chunk)
            except ValueError as error:
                told = [int(word) for word in re.findall(r"use (\d+) or (\d+)", str(error))[0]]
                assert told[0] == max(works, default=told[1]), steps
                continue
            assert steps * max(chunk, window // steps) % window == 0
            # a chunk is never torn: rows of one chunk share a level
            assert rollout.group % chunk == 0
            works.append(steps)
        assert {s for s in range(1, 40) if window % s == 0 and (window // s) % chunk == 0} <= set(works)
        assert {s for s in range(1, 40) if s % window == 0} <= set(works)
    assert 6 in [steps for steps in range(1, 13) if fits(steps, 12)]
