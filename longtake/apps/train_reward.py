"""The command `train reward`: a latent reward model for any model that loads, beside its weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from longtake.errors import UsageError

SCENES = 240  # prompts, each with several videos
FIRST_SCENE = 90_000_000  # scenes that nothing else is trained or tested on
show = partial(print, flush=True)


def register(train: typer.Typer) -> None:
    """Add the command."""

    @train.command()
    def reward(
        minutes: Annotated[float, typer.Option(help="wall time to spend; what is done is kept")],
        model: Annotated[str, typer.Option(help="a name, a folder or a hub id")] = "pocket",
        by: Annotated[
            str | None, typer.Option("--reward", help="what finished videos are labelled by  [default: pocket's judge]")
        ] = None,
        prompts: Annotated[
            Path | None, typer.Option(help="a file of prompts, one a line  [default: captions of pocket's world]")
        ] = None,
        to: Annotated[Path | None, typer.Option(help="folder to write  [default: the model's own]")] = None,
        cache: Annotated[Path, typer.Option(help="where videos and curves are kept")] = Path(".cache/longtake"),
    ) -> None:
        """A network that scores unfinished latents, for searches that decode nothing."""
        run(minutes, model, by, prompts, to, cache)


def run(minutes: float, name: str, by: str | None, prompts: Path | None, to: Path | None, cache: Path) -> None:
    """Load, collect, train, report, export."""
    if not minutes > 0:
        raise UsageError(f"--minutes {minutes:g} is not possible; give a number above 0")
    texts = _prompts(prompts, name)
    if by is None and name != "pocket":
        raise UsageError("--reward says what finished videos are labelled by; give one, such as consistency+text")
    from longtake.models.load import load
    from longtake.training.reward import export, report, train_reward, wins

    model = load(name)
    if to is None and model.source is None:
        raise UsageError("--to says where the reward model goes; give a folder")
    heads, label = _world(model) if by is None else _rewards(by, model)
    try:
        net, data = train_reward(model, texts, label, heads, minutes, cache)
    except ValueError as error:
        raise UsageError(str(error)) from error
    rows = report(net, data, baselines(model))
    for row in rows:
        show(json.dumps(row))
    export(net, rows, to or model.source)  # type: ignore[arg-type]
    if not wins(rows):
        show("this network ranks no better than what needs no training, so searches do not take it unless asked")


def _prompts(path: Path | None, model: str) -> list[str]:
    if path is not None:
        if not path.is_file():
            raise UsageError(f"--prompts {path}: there is no such file")
        found = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if len(set(found)) < 2:
            raise UsageError(f"--prompts {path} holds {len(set(found))} prompts; give at least 2, one a line")
        return found
    if model != "pocket":
        raise UsageError("--prompts is needed for models other than pocket; give a file, one prompt a line")
    from longtake.world.captions import caption
    from longtake.world.grammar import scene

    return [caption(scene(FIRST_SCENE + number)) for number in range(SCENES)]


Label = Callable[[Sequence[Any], str], Sequence[Sequence[float]]]


def _world(model: Any) -> tuple[tuple[str, ...], Label]:
    """Pocket's world: what metrics measure, by the set of judges that a search may follow."""
    from longtake.metrics import judge as judging
    from longtake.metrics.world_quality import quality
    from longtake.world.captions import parse

    judge = judging.load(judging.WEIGHTS / "reward")

    def label(clips: Sequence[Any], prompt: str) -> Sequence[Sequence[float]]:
        wanted = parse(prompt).scene()
        told = [quality(judge, model.codec.decode(clip)[0], wanted) for clip in clips]
        return [(one.visual_quality, one.motion_quality, one.text_alignment) for one in told]

    return ("visual", "motion", "text"), label


def _rewards(by: str, model: Any) -> tuple[tuple[str, ...], Label]:
    """A head for each term of `--reward`. They share their eyes, so a clip is decoded once."""
    from longtake.apps.rewarding import Supplies, make_reward, parse_reward
    from longtake.core.rollout import View

    terms = parse_reward(by)
    if any(weight != 1 for _, weight in terms):
        raise UsageError(f"--reward {by}: every term is a head of its own and weighs the same; leave the weights out")
    supplies = Supplies(model.codec, model.source, model.window, model.denoiser.schedule)
    scorers = [make_reward([(name, 1.0)], supplies, {}) for name, _ in terms]

    def label(clips: Sequence[Any], prompt: str) -> Sequence[Sequence[float]]:
        views = [View((), (), (), (), (), tuple(clip), len(clip), prompt=prompt) for clip in clips]
        return list(zip(*(score(views) for score in scorers), strict=True))

    return tuple(name for name, _ in terms), label


def baselines(model: Any) -> dict[str, Callable[[Any, Any, str], float]]:
    """What needs no training: MIGA's cosine of the noisy latents, how near the estimate is to what it came from, and,
    by its name, the reward of the estimates that a search takes without a latent reward model.
    """
    from longtake.apps.rewarding import Supplies, make_reward, parse_reward, usual_reward
    from longtake.core.rollout import View
    from longtake.rewards.latent import latent_cosine

    supplies = Supplies(model.codec, model.source, model.window, model.denoiser.schedule)
    name, _ = usual_reward(supplies)
    look = make_reward(parse_reward(name), supplies, {})

    def cosine(x: Any, x0: Any, prompt: str) -> float:
        return latent_cosine(x[1:], x[:1])

    def distance(x: Any, x0: Any, prompt: str) -> float:
        return -float((x - x0).square().mean())

    def usual(x: Any, x0: Any, prompt: str) -> float:
        return look([View((), (), (), (), (), tuple(x0), len(x0), prompt=prompt)])[0]

    return {"latent-cosine": cosine, "preview-distance": distance, f"usual: {name}": usual}
