"""Rewards against numbers worked out by hand, against a second implementation, and what they see and decode."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from longtake.core.engine import Engine
from longtake.core.noise import normal
from longtake.core.rollout import Emission, Timeline, View
from longtake.core.stream import stream
from longtake.output.checkpoint import load, save
from longtake.rewards.anchors import Seen
from longtake.rewards.clip_min import ClipMin
from longtake.rewards.consistency import Consistency
from longtake.rewards.eyes import Decoded, Previews
from longtake.rewards.motion import Motion
from longtake.rewards.sums import PENALTY, Floored, Weighted
from longtake.search.beam import beam
from longtake.search.best_of import best_of
from longtake.search.k_step import k_step
from longtake.testing.laws import check_reward
from tests.cases import SHAPE, equal, oracle, rollouts, run
from tests.toy_run import ToyCache


class Pixels:
    """A codec of 4 frames a latent, 1 for the first, each fading from the latent before: a wrong cache shows."""

    def __init__(self) -> None:
        self.seen = 0

    def decode(self, z: Tensor, cache: Any = None) -> tuple[Tensor, Any]:
        frames = []
        for latent in z:
            before = latent if cache is None else cache.last
            count = 1 if cache is None else 4
            frames += [before + (latent - before) * (step + 1) / count for step in range(count)]
            cache = ToyCache((latent + before) / 2)
            self.seen += 1
        pixels = (torch.stack(frames)[:, [0, 1, 0]] * 40 + 128).clamp(0, 255).to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).contiguous(), cache

    def encode(self, frames: Tensor) -> Tensor:
        return (frames[:1].permute(0, 3, 1, 2).float() - 128) / 40


class Net:
    """A preview decoder of the same pictures, without a memory; counts how often it draws."""

    def __init__(self) -> None:
        self.drawn = 0

    def pictures(self, latents: Tensor) -> Tensor:
        self.drawn += len(latents)
        return (latents[:, [0, 1, 0]] * 40 + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


class Flat:
    """An encoder: pixels less grey, so that cosines are spread."""

    name = "flat"

    def __init__(self) -> None:
        self.encoded = 0

    def __call__(self, frames: Tensor) -> Tensor:
        self.encoded += len(frames)
        return frames.flatten(1).float() - 128


def latents(*numbers: int) -> tuple[Tensor, ...]:
    return tuple(normal(SHAPE, 3, "reward", number) for number in numbers)


def view(past: tuple[Tensor, ...] = (), x0: tuple[Tensor, ...] = (), recent: int = 0, **rest: Any) -> View:
    rows = tuple(range(len(x0)))
    return View(rows, x0, x0, (1,) * len(x0), ("a",) * len(x0), past, recent, **rest)


def feature(latent: Tensor) -> Tensor:
    """What `Flat` sees through `Net`, by another way."""
    seen = torch.stack([latent[0], latent[1], latent[0]], dim=-1)
    whole = (seen * 40 + 128).clamp(0, 255).floor().flatten() - 128
    return whole / whole.square().sum().sqrt()


# -- formulas --------------------------------------------------------------------------------------------------


class Table:
    """An encoder that looks features up by the picture's first byte, for numbers worked out by hand."""

    name = "table"
    rows = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])

    def __call__(self, frames: Tensor) -> Tensor:
        return 3 * self.rows[frames[:, 0, 0, 0].long()]  # not normalised


class Bytes:
    """Eyes for which a latent is the number of its picture."""

    needs = frozenset({"x0"})
    decodes = 0

    def follow(self, cache: Any, emission: Emission) -> tuple[Tensor, Any]:
        return self._drawn(emission.latents), None

    def look(self, views: Any, span: int | None = None) -> list[Tensor]:
        return [self._drawn(v.clip if span is None else v.clip[-span:]) for v in views]

    def _drawn(self, items: Any) -> Tensor:
        return torch.tensor([int(item) for item in items], dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 1, 3)


def numbers(*values: int) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(float(value)) for value in values)


def test_equation_7_by_hand():
    """Pictures 0, 1, 2 with features (1, 0), (.6, .8), (0, 1): neighbours .6 and .8; to the anchor (1, 0): .6 and 0."""
    clip, eyes = view(x0=numbers(0, 1, 2)), Bytes()
    memory = Consistency(eyes, Table()).follow(None, Emission(0, numbers(3, 0)))
    after = view(x0=numbers(0, 1, 2), memory=memory)
    both = (0.6 + 0.8 + 0.6 + 0.0) / (2 * 2)
    assert Consistency(eyes, Table())([clip, after]) == pytest.approx([both, both])
    assert Consistency(eyes, Table(), parts="local")([after]) == pytest.approx([(0.6 + 0.8) / 2])
    assert Consistency(eyes, Table(), parts="anchor")([after]) == pytest.approx([0.0])
    # the first picture of the video is number 3, (-1, 0)
    assert Consistency(eyes, Table(), "first")([after]) == pytest.approx([(1.4 - 0.6) / 4])
    assert Consistency(eyes, Table(), "first", "anchor")([view(x0=numbers(0), memory=memory)]) == pytest.approx([-1])
    one = view(x0=numbers(1), memory=memory)
    assert Consistency(eyes, Table())([one, view()]) == pytest.approx([0.6, 0.0])


def test_the_anchor_lags_as_asked():
    reward = Consistency(Bytes(), Table(), "lag", "anchor", lag=2)
    memory = None
    for start, number in enumerate((0, 1, 2, 3)):
        memory = reward.follow(memory, Emission(start, numbers(number)))
    assert reward([view(x0=numbers(2), memory=memory)]) == pytest.approx([1.0])  # two before the clip: number 2
    early = reward.follow(None, Emission(0, numbers(1)))
    assert reward([view(x0=numbers(2), memory=early)]) == pytest.approx([0.8])  # the oldest there is


def test_equation_7_against_a_second_implementation():
    past, x0 = latents(0, 1, 2), latents(3, 4, 5, 6)
    reward = Consistency(Previews(Net()), Flat())
    memory = reward.follow(None, Emission(0, past))
    total = 0.0
    for i in range(1, 4):
        total += float(feature(past[-1]) @ feature(x0[i])) + float(feature(x0[i - 1]) @ feature(x0[i]))
    assert reward([view(past, x0, memory=memory)]) == pytest.approx([total / 6], abs=1e-5)


def test_clip_min_is_the_least_cosine_to_the_guide():
    reward = ClipMin(Bytes(), Table())
    memory = reward.follow(None, Emission(0, numbers(2, 1)))
    assert reward([view(x0=numbers(0, 2), memory=memory), view(x0=numbers(1, 0))]) == pytest.approx([0.6, 0.6])


def test_motion_by_hand():
    eyes = Bytes()
    memory = Motion(eyes).follow(None, Emission(0, numbers(3)))
    still, moving = view(x0=numbers(5, 5, 5)), view(x0=numbers(10, 20, 50))
    assert Motion(eyes)([still, moving]) == pytest.approx([0.0, 20 / 255])
    assert Motion(eyes)([view(x0=numbers(10, 20), memory=memory)]) == pytest.approx([8.5 / 255])  # 7 and 10
    assert Motion(eyes, span=2)([moving, view(x0=numbers(1))]) == pytest.approx([30 / 255, 0.0])
    assert Motion()([view(x0=numbers(3, 4))]) == pytest.approx([1 / math.sqrt(12.5)])
    assert Motion()([view(numbers(3), numbers(4)), view(numbers(3, 4), recent=1)]) == pytest.approx([0.2828427] * 2)


def test_a_floor_makes_stillness_lose_and_does_not_reward_more_than_the_floor():
    still, slow, fast = view(x0=numbers(0, 0)), view(x0=numbers(0, 1)), view(x0=numbers(0, 2))
    bare = Consistency(Bytes(), Table())
    floored = Floored(bare, Motion(Bytes()), 1 / 255)
    assert bare([still])[0] > bare([slow])[0] > bare([fast])[0]
    assert floored([slow, fast]) == pytest.approx(bare([slow, fast]))
    assert floored([still]) == pytest.approx([1 - PENALTY])
    alone = view(x0=numbers(2))  # nothing to compare it with: no candidate is better or worse
    assert floored([alone]) == bare([alone]) == ClipMin(Bytes(), Table())([alone]) == [0.0]
    with pytest.raises(ValueError, match="above 0"):
        Floored(bare, Motion(Bytes()), 0.0)


def test_sums_weigh_and_each_term_keeps_its_own_memory():
    terms = [(1.0, Consistency(Bytes(), Table())), (0.5, Motion(Bytes())), (2.0, Motion())]
    both = Weighted(terms)
    memory = both.follow(None, Emission(0, numbers(0)))
    assert isinstance(memory[0], Seen) and memory[0].newest and not memory[1].newest and memory[2] is None
    clip = view(numbers(0), numbers(1, 2), memory=memory)
    alone = [term([view(numbers(0), numbers(1, 2), memory=part)])[0] for (_, term), part in zip(terms, memory)]  # noqa: B905
    assert both([clip]) == pytest.approx([alone[0] + 0.5 * alone[1] + 2 * alone[2]])


@pytest.mark.parametrize("name", ["consistency", "clip-min", "motion", "latent motion", "sum", "floored", "pixels"])
def test_the_law_kit_passes(name: str):
    eyes, codec = Previews(Net()), Decoded(Pixels())
    reward = {
        "consistency": Consistency(eyes, Flat()),
        "clip-min": ClipMin(eyes, Flat()),
        "motion": Motion(eyes),
        "latent motion": Motion(),
        "sum": Weighted([(1.0, Consistency(eyes, Flat())), (0.3, Motion(eyes))]),
        "floored": Floored(Consistency(eyes, Flat()), Motion(), 0.1),
        "pixels": Consistency(codec, Flat(), span=2),
    }[name]
    memory = reward.follow(None, Emission(0, latents(0, 1)))
    views = [view(latents(0, 1), latents(2 + n, 3 + n, 9), memory=memory) for n in range(3)]
    check_reward(reward, views)


# -- what is decoded, and behind which frames ------------------------------------------------------------------


def test_a_clip_is_decoded_behind_its_own_branch():
    """The whole video decoded at once is the other side."""
    past, x0 = latents(0, 1, 2), latents(3, 4)
    whole, _ = Pixels().decode(torch.stack([*past, *x0]))
    eyes = Decoded(Pixels(), every=True)
    pictures, cache = eyes.follow(None, Emission(0, past))
    assert torch.equal(pictures, whole[:9])
    (clip,) = eyes.look([view(past, x0, memory=Seen(cache))])
    assert torch.equal(clip, whole[9:])
    assert eyes.decodes == 5
    eyes.follow(cache, Emission(3, x0))  # the winner's clip is finished: it has been decoded already
    assert eyes.decodes == 5


def test_only_what_is_read_is_decoded():
    codec = Pixels()
    eyes = Decoded(codec)
    (end,) = eyes.look([view((), latents(*range(9)))], span=3)
    assert len(end) == 3 and codec.seen == eyes.decodes == 4  # one more than is read, whose frame stands for nothing
    want, _ = Pixels().decode(torch.stack(latents(5, 6, 7, 8)))
    assert torch.equal(end, want[[4, 8, 12]])


def test_a_join_through_pixels_is_decoded_from_its_guide():
    guide, clip = latents(7), latents(0, 1)
    eyes = Decoded(Pixels(), every=True)
    stale = eyes.follow(None, Emission(0, latents(5, 6)))[1]
    want = Pixels().decode(torch.stack([*guide, *clip]))[0][1:]
    assert torch.equal(eyes.follow(stale, Emission(2, clip, guide=guide))[0], want)
    assert torch.equal(eyes.look([view((), clip, guide=guide, memory=Seen(stale))])[0], want)


def test_shared_latents_and_anchors_are_seen_once():
    net, encoder = Net(), Flat()
    eyes = Previews(net)
    shared, own = latents(0, 1, 2), [latents(3), latents(4), latents(5)]
    reward = Weighted([(1.0, Consistency(eyes, encoder)), (1.0, ClipMin(eyes, encoder)), (0.1, Motion(eyes))])
    memory = reward.follow(None, Emission(0, latents(9)))
    drawn = net.drawn
    reward([view(latents(9), (*shared, *mine), memory=memory) for mine in own])
    assert net.drawn - drawn == 6  # three shared, three of their own, for all three terms
    before = encoder.encoded
    reward([view(latents(9), (*shared, *mine), memory=memory) for mine in own])
    assert encoder.encoded - before == 2 * 12  # the anchor is not encoded again


def test_a_memory_can_be_saved(tmp_path):
    reward = Weighted([(1.0, Consistency(Decoded(Pixels()), Flat())), (0.3, Motion(Previews(Net())))])
    memory = reward.follow(None, Emission(0, latents(0, 1)))
    save(memory, tmp_path)
    clip = latents(2, 3)
    assert reward([view((), clip, memory=load(tmp_path))]) == reward([view((), clip, memory=memory)])


@pytest.mark.parametrize("search", ["chunk", "k-step", "beam"])
def test_a_search_by_pixels_shows_each_candidate_behind_its_own_frames(search: str):
    """What the search decoded for the winner is what the finished video shows there."""
    inner = rollouts()["fifo" if search == "beam" else "chunk"]
    codec, shown = Pixels(), []

    class Spy(Consistency):
        def follow(self, memory: Any, emission: Emission) -> Seen:
            pictures, _ = self.eyes.follow(memory.cache if memory else None, emission)
            shown.append((emission.start, pictures))
            return super().follow(memory, emission)

    reward = Spy(Decoded(codec, every=True), Flat())
    rollout = {
        "chunk": lambda: best_of(inner, reward, 3),
        "k-step": lambda: k_step(inner, reward, 3, 2),
        "beam": lambda: beam(inner, reward, 1, 3),
    }[search]()
    got, _ = run(rollout, 30)
    whole, _ = Pixels().decode(torch.stack(got))
    assert len(shown) >= 3
    for start, pictures in shown:
        first = max(0, 4 * start - 3)
        part = whole[first : first + len(pictures)]
        assert torch.equal(pictures[: len(part)], part)


def test_a_resumed_search_by_pixels_is_the_uninterrupted_one(tmp_path):
    from longtake.testing.laws import resumed

    def made() -> Any:
        reward = Weighted([(1.0, Consistency(Decoded(Pixels()), Flat(), "first")), (0.5, Motion(Previews(Net())))])
        return beam(rollouts()["chunk"], reward, 2, 2)

    want, _ = run(made(), 20)
    got = resumed(made(), Engine(oracle(made()), 4), 20, tmp_path, seed=7, prompt="a")
    assert equal(got[:20], want)


def test_a_sum_with_a_floor_moves_more():
    """On the oracle a consistent video is a still one: the floor turns the search round."""
    inner = rollouts()["chunk"]
    eyes = Previews(Net())
    bare = Consistency(eyes, Flat())
    moves = []
    for reward in (bare, Floored(bare, Motion(eyes), 0.12)):
        search, total = best_of(inner, reward, 6), []
        for seed in range(3):
            got, _ = run(search, 14, seed=seed)
            total += [float(Motion(eyes)([view((), tuple(got))])[0])]
        moves.append(sum(total) / len(total))
    assert moves[1] > moves[0]


def test_a_prompt_reaches_its_own_rows():
    told: list[str] = []

    class Spy:
        needs = frozenset({"x0"})

        def __call__(self, views: list[View]) -> list[float]:
            told.extend(v.prompt for v in views)
            return [0.0] * len(views)

    rollout = best_of(rollouts()["chunk"], Spy(), 2)
    engine = Engine(oracle(rollout), 8)
    state = engine.drive(rollout.init(7, Timeline.of({0: "a", 8: "b"})))
    for _ in stream(rollout, engine, state, 14):
        pass
    assert told == ["a", "a", "b", "b"]


def test_the_example_of_an_own_reward_runs(capsys, monkeypatch):
    import runpy
    import sys
    from pathlib import Path

    monkeypatch.setattr(sys, "argv", ["own_reward.py"])
    runpy.run_path(str(Path(__file__).parent.parent / "examples" / "own_reward.py"), run_name="__main__")
    assert "every law holds" in capsys.readouterr().out


# -- text ------------------------------------------------------------------------------------------------------


def test_clip_scores_are_the_models_own_cosine(tmp_path):
    """The other side is the library's own forward pass, its processor's steps done by hand."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    from longtake.rewards.text import STATISTICS, Clip, Text

    torch.manual_seed(0)
    words = {"<|endoftext|>": 0, "a": 1, "dog": 2, "hill": 3}
    small = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    config = CLIPConfig(
        text_config=dict(small, vocab_size=4, max_position_embeddings=8, eos_token_id=0, bos_token_id=0),
        vision_config=dict(small, image_size=32, patch_size=16),
        projection_dim=8,
    )
    net = CLIPModel(config).eval()
    net.save_pretrained(tmp_path, safe_serialization=True)
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=end).save_pretrained(tmp_path)
    pictures = torch.randint(0, 256, (3, 32, 32, 3), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    reader = Clip(tmp_path)
    got = reader([pictures[:1], pictures[1:]], ["a dog", "a hill"])
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in STATISTICS)
    pixels = (pictures.permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.no_grad():
        out = net(input_ids=torch.tensor([[1, 2], [1, 3]]), pixel_values=pixels)
    cosines = out.image_embeds @ out.text_embeds.T
    assert got == pytest.approx([float(cosines[0, 0]), float(cosines[1:, 1].mean())], abs=1e-5)

    class Drawn:
        needs, decodes = frozenset({"x0"}), 0

        def look(self, views: Any, span: Any = None) -> Any:
            return [pictures[[int(x) for x in v.clip]] for v in views]

    views = [view(x0=numbers(1, 2), prompt="a hill"), view(), view(x0=numbers(0), prompt="a dog")]
    assert Text(Drawn(), reader)(views) == pytest.approx([got[1], 0.0, got[0]], abs=1e-5)  # type: ignore[arg-type]


def test_the_judge_reads_the_words_of_a_prompt():
    """On rendered truth the clip's own caption scores above every other's."""
    from longtake.metrics import judge
    from longtake.rewards.text import Words
    from longtake.world.captions import caption
    from longtake.world.grammar import scene
    from longtake.world.renderer import render

    scenes = [scene(seed, "heldout") for seed in (1, 2, 3, 4)]
    clips = render(scenes, 45).pixels.permute(0, 1, 3, 4, 2).contiguous()
    reader = Words(judge.load(judge.WEIGHTS / "reward"), motion=True)
    table = [[reader([clip], [caption(told)])[0] for told in scenes] for clip in clips]
    assert all(max(row) == row[place] for place, row in enumerate(table))
    assert reader([clips[0]], ["xyzzy"]) == [0.0]
