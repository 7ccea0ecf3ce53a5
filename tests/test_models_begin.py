"""How ConsistI2V begins a clip: noise that frames share, FrameInit, and the methods where clips have a beginning."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from longtake.apps.beginning import KINDS, begun
from longtake.apps.planning import dry_run, plan
from longtake.apps.session import begin, build, generate, reopen, running, start
from longtake.apps.settings import Request
from longtake.core.engine import Engine
from longtake.core.noise import fold, normal, root
from longtake.core.rollout import Timeline
from longtake.core.rows import Queue, Row, clean_row, noise_row
from longtake.core.schedule import flow
from longtake.core.solvers import Solver
from longtake.core.stream import stream
from longtake.errors import UsageError
from longtake.models.analytic import GaussianVideo
from longtake.models.consisti2v import BETAS
from longtake.models.consisti2v_noise import Beginning, frame_init, low_pass, mixed, progressive
from longtake.models.consisti2v_tiny import save_tiny_consisti2v
from longtake.models.load import load
from longtake.models.vp import signal
from longtake.rollouts.chunk import Chunk
from longtake.rollouts.fifo import Fifo
from longtake.rollouts.plain import Plain
from longtake.rollouts.rolling import Rolling
from longtake.rollouts.windows import Windows
from tests.test_models_opensora import noise
from tests.turns import assert_stopping_changes_nothing

SHAPE = (2, 12, 12)
LEVEL = 6
PROMPT = "a dog runs right over the hills"


# -- the noise ---------------------------------------------------------------------------------------------------


def test_shared_noise_has_unit_variance_and_its_correlation():
    """Every frame by itself, and every pair: 1/2 at any distance, or 2^(-k / 2) at distance k."""
    shared, own = noise(8, 60, 60), noise(9, 8, 60, 60, seed=1)
    for alpha in (1.0, 2.0):
        part = alpha**2 / (1 + alpha**2)
        both, chain = mixed(shared, own, alpha), progressive(own, alpha)
        for frames in (both, chain):
            assert torch.allclose(frames.var(dim=(1, 2, 3)), torch.ones(9), atol=0.05)
        for i in range(9):
            for j in range(i):
                assert float((both[i] * both[j]).mean()) == pytest.approx(part, abs=0.05)
                assert float((chain[i] * chain[j]).mean()) == pytest.approx(part ** ((i - j) / 2), abs=0.05)
    assert torch.allclose(mixed(shared, own), (shared + own) / 2**0.5, atol=1e-6)
    assert torch.allclose(progressive(own)[2], own[0] / 2 + own[1] / 2 + own[2] / 2**0.5, atol=1e-6)


def test_frame_init_keeps_the_low_band_of_the_standing_picture():
    """Each band by itself: frequency 0 is almost the diffused picture's, the highest exactly the noise's."""
    picture, clip, a = noise(2, 8, 8) + 3, noise(6, 2, 8, 8, seed=1), 0.3
    made = frame_init(picture, clip, a)
    still = a**0.5 * picture + (1 - a) ** 0.5 * clip
    share = low_pass(6, 8, 8)

    def band(x: Tensor, t: int, y: int, z: int) -> Tensor:
        return torch.fft.fftn(x, dim=(0, 2, 3))[t, :, y, z]

    for t, y, z in [(0, 0, 0), (0, 1, 0), (1, 0, 7), (3, 4, 4)]:
        part = float(share[(t + 3) % 6, (y + 4) % 8, (z + 4) % 8])
        theirs = part * band(still, t, y, z) + (1 - part) * band(clip, t, y, z)
        assert torch.allclose(band(made, t, y, z), theirs, atol=1e-3)
    assert torch.allclose(frame_init(picture, clip, 0.0), clip, atol=1e-5), "nothing of the picture, nothing to do"


# -- a clip ------------------------------------------------------------------------------------------------------


def clip(path: int = 5, known: int = 1, fresh: int = 3) -> Queue:
    rows = [clean_row(normal(SHAPE, root(1), "picture", i), i - known, path) for i in range(known)]
    return Queue((*rows, *(noise_row(SHAPE, LEVEL, i, path) for i in range(fresh))))


def test_a_clip_begins_from_its_picture_and_shared_noise():
    queue, a = clip(), 0.0084
    made = Beginning(signal=a)(queue, range(3))
    assert made.at(-1) is queue.at(-1) and [row.level for row in made.rows] == [0, *[LEVEL] * 3]
    assert [(row.path, row.seen) for row in made.rows[1:]] == [(5, False)] * 3
    shared, lead = (normal(SHAPE, 5, purpose, -1) for purpose in ("shared", "init"))
    own = torch.stack([lead, *(row.x for row in queue.rows[1:])])
    theirs = frame_init(queue.at(-1).x, (shared + own) / 2**0.5, a)
    assert all(torch.allclose(made.at(i).x, theirs[i + 1], atol=1e-6) for i in range(3))
    bare = Beginning("progressive", frameinit=False)(queue, range(3))
    assert torch.allclose(bare.at(0).x, (lead + queue.at(0).x) / 2**0.5, atol=1e-6)
    same = Beginning("own", frameinit=False)(queue, range(3))
    assert all(torch.equal(same.at(i).x, queue.at(i).x) for i in range(3))


def test_a_clip_without_a_picture_and_rows_that_are_given():
    bare = clip(known=0)
    with_frameinit, without = (Beginning("mixed", on, 0.5)(bare, range(3)) for on in (True, False))
    assert all(torch.equal(a.x, b.x) for a, b in zip(with_frameinit.rows, without.rows, strict=True))
    given = clip().replaced([clean_row(noise(*SHAPE), 2, 5)])
    made = Beginning(signal=0.1)(given, range(3))
    assert made.at(2) is given.at(2) and made.at(1).x is not given.at(1).x


def test_what_is_shared_is_keyed_by_the_branch():
    """A fork changes the shared half too; the same branch draws it again; clips of one video share nothing."""
    law = Beginning("mixed", frameinit=False)

    def shared(path: int, start: int = 0) -> Tensor:
        rows = [Row(torch.zeros(SHAPE), LEVEL, start + i, path) for i in range(2)]
        first, second = law(Queue(tuple(rows)), range(start, start + 2)).rows
        assert torch.equal(first.x, second.x)
        return first.x * 2**0.5

    assert torch.equal(shared(5), shared(5))
    for other in (shared(fold(5, "fork", 1)), shared(5, start=8)):
        assert abs(float((shared(5) * other).mean())) < 0.2


# -- in methods --------------------------------------------------------------------------------------------------

ORACLE = GaussianVideo(flow(LEVEL), SHAPE, rho=0.9)


def first_states(rollout: Any, context: int, ticks: int) -> list[Any]:
    engine = Engine(ORACLE)
    pictures = tuple(normal(SHAPE, root(1), "picture", i) for i in range(context))
    states = [engine.drive(rollout.init(3, Timeline.of(PROMPT), pictures))]
    for _ in range(ticks):
        states.append(engine.drive(rollout.step(states[-1]))[0])
    return states


@pytest.mark.parametrize(
    "made",
    [
        Plain(SHAPE, ORACLE.schedule, window=4),
        Chunk(SHAPE, ORACLE.schedule, window=4, overlap=1),
        Rolling(SHAPE, ORACLE.schedule, window=4, overlap=1, delay=LEVEL),
        Windows(SHAPE, ORACLE.schedule, window=4, num_latents=8),
    ],
    ids=lambda rollout: type(rollout).__name__,
)
def test_a_clip_is_begun_once_before_its_first_step(made):
    """What the network is shown at first is the law of the own noise; later ticks, and what is held, are left alone."""
    law = Beginning(signal=0.2)
    rollout = begun(made, law)
    assert type(rollout) is KINDS[type(made)] and isinstance(rollout, type(made))
    asked: list[Any] = []
    ticks = LEVEL if isinstance(made, (Plain, Windows)) else 4 * LEVEL + 1
    for state in first_states(rollout, 1, ticks):
        if state.finished:
            break
        step = rollout.step(state)
        asked.append((state, [call for call in next(step)]))
    fresh = [place for place, (state, _) in enumerate(asked) if made.fresh(state)]
    assert fresh[0] == 0 and (len(fresh) == 1) == isinstance(made, (Plain, Windows))
    for place, (state, calls) in enumerate(asked):
        shown = law(state.queue, made.fresh(state)) if place in fresh else state.queue
        for call in calls:
            for index, x in zip(call.window.read, call.x, strict=True):
                assert torch.equal(x, shown.at(index).x)


def test_queues_and_no_law_are_left_as_they_are():
    queue = Fifo(SHAPE, flow(8), window=4)
    assert begun(queue, Beginning()) is queue
    plain = Plain(SHAPE, ORACLE.schedule, window=4)
    assert begun(plain, None) is plain
    own = begun(plain, Beginning("own", frameinit=False))
    for ours, theirs in zip(first_states(own, 1, LEVEL), first_states(plain, 1, LEVEL), strict=True):
        assert all(torch.equal(a.x, b.x) for a, b in zip(ours.queue.rows, theirs.queue.rows, strict=True))


def test_the_estimate_of_a_search_is_of_the_same_beginning():
    """One preview step of a fresh clip is the first step's estimate."""
    rollout = begun(Plain(SHAPE, ORACLE.schedule, window=4), Beginning(signal=0.2))
    (state,) = first_states(rollout, 1, 0)
    for step in (rollout.preview(state, 1), rollout.step(state)):
        (call,) = next(step)
        assert torch.equal(call.x[1], Beginning(signal=0.2)(state.queue, range(3)).at(0).x)


# -- from the command line ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    home = save_tiny_consisti2v(tmp_path_factory.mktemp("models") / "consist")
    Image.new("RGB", (64, 32), (200, 40, 60)).save(home / "picture.png")
    return home


def asked(folder: Path, **changes: Any) -> dict[str, Any]:
    usual = {"model": str(folder), "image": folder / "picture.png", "seed": 3, "steps": 2, "frames": 8}
    return {**usual, **changes}


def test_the_release_is_the_default_and_options_change_it(folder, tmp_path):
    model = load(folder)
    assert model.begin == Beginning("mixed", True, float(signal(BETAS)[850]))
    assert load(folder, extras={"noise": "own", "frameinit": False}).begin is None
    home = Path(shutil.copytree(folder, tmp_path / "set"))
    settings = json.loads((home / "longtake.json").read_text())
    (home / "longtake.json").write_text(json.dumps(settings | {"noise": "progressive", "frameinit": False}))
    assert load(home).begin == Beginning("progressive", False, model.begin.signal)
    (home / "longtake.json").write_text(json.dumps(settings | {"noise": "pink"}))
    with pytest.raises(UsageError, match="noise is own, mixed, progressive"):
        load(home)
    settings, _, notes = plan(Request(PROMPT, **asked(folder)))
    assert settings.method == "chunk" and settings.parameters == {"overlap": 1}, "as the release chains its clips"
    assert not any("noise of their own" in note for note in notes)


def test_films_differ_by_how_they_begin_and_nothing_else(folder, tmp_path):
    films = {}
    for name, sets in (("release", ()), ("again", ["noise=mixed", "frameinit=true"]), ("chain", ["noise=progressive"]),
                       ("bare", ["noise=own", "frameinit=false"])):  # fmt: skip
        made = generate(PROMPT, tmp_path / name, **asked(folder, set=sets))
        films[name] = (tmp_path / name / "FINISHED").read_text(), made.nfe
    assert films["release"][0].partition("sha256")[2] == films["again"][0].partition("sha256")[2]
    assert len({text.partition("sha256")[2] for text, _ in films.values()}) == 3
    assert len({nfe for _, nfe in films.values()}) == 1


def test_a_film_in_two_turns_at_every_place(folder, tmp_path):
    """Stopped before a clip has begun (tick 2 ends the first), and while one is under way."""
    for ticks in (1, 2, 3):
        assert_stopping_changes_nothing(
            PROMPT, tmp_path / str(ticks), ticks, **asked(folder, set=["noise=progressive"])
        )


@pytest.mark.parametrize(
    "options,why",
    [
        (dict(method="fifo", steps=6), "fifo lets frames in one after the other"),
        (dict(method="freenoise"), "freenoise says itself what noise"),
        (dict(method="chunk", search="freeinit"), "freeinit makes the noise of every round itself"),
    ],
)
def test_where_there_is_no_clip_it_is_said_and_refused(folder, options, why):
    notes = plan(Request(PROMPT, **asked(folder, **options)))[2]
    assert any(why in note for note in notes)
    for named in ("noise=mixed", "frameinit=true"):
        with pytest.raises(UsageError, match=f"--set {named.partition('=')[0]}= needs a clip .* {why}"):
            plan(Request(PROMPT, **asked(folder, set=[named], **options)))
    assert not any(why in note for note in plan(
        Request(PROMPT, **asked(folder, set=["noise=own", "frameinit=false"], **options)))[2])  # fmt: skip


def test_under_a_search_every_candidate_begins_so(folder, tmp_path):
    """One candidate is no search, bit for bit."""
    sums = []
    for name, more in (("plain", {}), ("one", dict(search="best-of-n", set=["best-of-n.candidates=1"]))):
        generate(PROMPT, tmp_path / name, **asked(folder, **more))
        sums.append(json.loads((tmp_path / name / "FINISHED").read_text())["sha256"])
    assert sums[0] == sums[1]


# -- guidance of three passes ------------------------------------------------------------------------------------


def test_a_third_pass_is_announced_and_counted(folder, tmp_path):
    """Plan, meter and network count the same, with and without guidance towards the prompt or the picture."""
    for number, (guidance, image, passes) in enumerate([(1.0, 1, 1), (7.5, 1, 2), (1.0, 2, 3), (7.5, 2, 3)]):
        options = asked(folder, guidance=guidance, set=[f"guidance_image={image}"])
        settings, facts, _ = plan(Request(PROMPT, **options))
        paper, _ = dry_run(settings, facts)
        session = start(Request(PROMPT, **options))
        seen: list[int] = []
        module = session.model.denoiser.worker.module
        module.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(len(inputs[0])))
        target = begin(session, tmp_path / str(number))
        with running(session, target) as (_, progress):
            for _ in progress:
                pass
        assert sum(seen) == target.finished["nfe"] == paper.nfe == passes * 2 * 2, (guidance, image)
        assert session.job.expected_nfe == paper.nfe and paper.exact
    with pytest.raises(UsageError, match=r"guidance_image=0\.5 is not possible"):
        plan(Request(PROMPT, **asked(folder, set=["guidance_image=0.5"])))


def test_options_survive_a_resume(folder, tmp_path):
    session = start(Request(PROMPT, **asked(folder, set=["guidance_image=2", "noise=own"])))
    target = begin(session, tmp_path / "run")
    settings, _ = reopen(target)
    assert settings.options == {"guidance_image": 2.0, "noise": "own"}
    again = build(replace(settings, image=session.settings.image), fresh=True)
    assert again.model.denoiser.cost == 3 and again.model.begin == Beginning("own", True, session.model.begin.signal)


def test_a_real_film_runs_from_the_engine(folder):
    """The law on real latents, through the network."""
    model = load(folder, num_steps=2)
    can = model.denoiser.can
    rollout = begun(Chunk(can.latent_shape, model.denoiser.schedule, Solver("ddim"), 4, 1), model.begin)
    engine = Engine(model.denoiser)
    state = engine.drive(rollout.init(0, Timeline.of(PROMPT), (normal(can.latent_shape, root(1), "picture"),)))
    made = [x for _, emission in stream(rollout, engine, state, 6) for x in emission.latents]
    assert len(made) >= 6 and all(torch.isfinite(x).all() for x in made)
