"""The table of rewards, and how `--reward consistency+0.5*motion` becomes one. A new reward is a file and a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longtake.apps.homes import home_of_judge, home_of_reward
from longtake.apps.looking import ENCODER, look_of, of_world
from longtake.apps.parameters import Parameter, choose
from longtake.apps.terms import Word, parse_sum
from longtake.core.rollout import Reward
from longtake.core.schedule import NoiseSchedule
from longtake.errors import UsageError
from longtake.rewards import features, reward_model
from longtake.rewards.clip_min import ClipMin
from longtake.rewards.consistency import Consistency
from longtake.rewards.eyes import Decoded, Eyes, Previews
from longtake.rewards.latent import LatentCosine
from longtake.rewards.motion import Motion
from longtake.rewards.sums import Floored, Weighted
from longtake.rewards.text import Clip, Text, Words, clip_folder

Values = Mapping[str, Any]
"""Parameters of one reward that were set, by their short names."""

SEE = Parameter("see", ("preview", "decode"), "look through the preview decoder, or through the autoencoder")


@dataclass
class Supplies:
    """What rewards are made of: a loaded model's codec and folder (None for a live pipeline), window and schedule.

    Eyes are made once, so that the terms of a sum decode together.
    """

    codec: Any
    folder: Path | None
    window: int
    schedule: NoiseSchedule | None = None
    eyes: dict[str, Eyes] = field(default_factory=dict)

    @property
    def world(self) -> bool:
        """Whether the model draws pocket's world, which is all that pocket's judge was taught."""
        return of_world(self.folder)

    @property
    def has_preview(self) -> bool:
        """Whether the model has a preview decoder."""
        from longtake.models import preview

        return self.folder is not None and preview.exists(self.folder)

    def kind(self, values: Values) -> str:
        """What `see` asks for; without it the preview decoder if the model has one. UsageError if it has none."""
        if values.get("see") == "preview" and not self.has_preview:
            raise UsageError("this model has no preview decoder; use see=decode")
        return str(values.get("see") or ("preview" if self.has_preview else "decode"))

    def see(self, values: Values, every: bool = False) -> Eyes:
        """The eyes that `see` asks for; without it the preview decoder if the model has one. `every`: all frames."""
        from longtake.models import preview

        kind = self.kind(values)
        name = f"{kind} {every}"
        if name not in self.eyes:
            preview_of = self.folder if kind == "preview" else None
            self.eyes[name] = Previews(preview.load(preview_of)) if preview_of else Decoded(self.codec, every)
        return self.eyes[name]


@dataclass(frozen=True)
class RewardRow:
    """A row of the table. `reads` says in words what a candidate is judged by."""

    name: str
    help: str
    paper: str
    reads: str
    make: Callable[[Supplies, Values], Reward]
    parameters: tuple[Parameter, ...] = ()


def _consistency(supplies: Supplies, values: Values) -> Reward:
    named = {name: values[name] for name in ("anchor", "parts", "lag") if name in values}
    looks = features.load(look_of(values, supplies.world))
    return Consistency(supplies.see(values), looks, span=supplies.window, **named)


def _clip_min(supplies: Supplies, values: Values) -> Reward:
    return ClipMin(supplies.see(values), features.load(look_of(values, supplies.world)), supplies.window)


def _text(supplies: Supplies, values: Values) -> Reward:
    from longtake.metrics import judge

    if values.get("encoder", "pocket-judge") != "pocket-judge":
        return Text(supplies.see(values), Clip(clip_folder(values["encoder"])), supplies.window)
    folder = home_of_judge(values, supplies.folder)
    every = values.get("see") == "decode"
    return Text(supplies.see(values, every), Words(judge.load(folder), motion=every), supplies.window)


def _latent_reward(supplies: Supplies, values: Values) -> Reward:
    folder = home_of_reward(supplies.folder)
    assert supplies.schedule is not None
    return reward_model.LatentReward(reward_model.load(folder), supplies.schedule, supplies.window)


def _motion(supplies: Supplies, values: Values) -> Motion:
    return Motion(None if values.get("of") == "latents" else supplies.see(values), supplies.window)


REWARDS: dict[str, RewardRow] = {
    row.name: row
    for row in (
        RewardRow(
            "consistency",
            "pictures agree with an anchor before them and with their neighbours",
            "ScalingNoise Eq. 7",
            "pictures of what came out, or of the newest window",
            _consistency,
            (
                Parameter(
                    "anchor", ("moving", "first", "lag"), "the newest finished picture, the first, or one before"
                ),
                Parameter("parts", ("both", "local", "anchor"), "terms of Eq. 7"),
                Parameter("lag", int, "how many pictures before, with anchor=lag", 1),
                ENCODER,
                SEE,
            ),
        ),
        RewardRow(
            "clip-min",
            "the picture that agrees least with the one that the clip continues",
            "k-step search Eq. 4",
            "pictures of what came out, or of the newest window",
            _clip_min,
            (ENCODER, SEE),
        ),
        RewardRow(
            "latent-cosine",
            "the newest latents agree with those before, with nothing decoded",
            "MIGA Eq. 5-7, Feng et al. 2026",
            "estimates of latents, or noisy latents",
            lambda supplies, values: LatentCosine(**values),
            (
                Parameter("eval", int, "latents that are judged, 0: all that were decided", 0),
                Parameter("ref", int, "latents before them", 1),
                Parameter("read", ("x0", "x"), "the network's estimates, or the noisy latents"),
            ),
        ),
        RewardRow(
            "latent-reward",
            "a small network's guess of how good the finished video will be",
            "after LatSearch, Zhao et al. 2026",
            "noisy latents and their estimates, of the newest window or of a clip",
            _latent_reward,
        ),
        RewardRow(
            "text",
            "what is shown is what the prompt says",
            "",
            "pictures of what came out, or of the newest window; with see=decode also motion",
            _text,
            (Word("encoder", str, "pocket-judge, or the folder of a CLIP model"), SEE),
        ),
        RewardRow(
            "motion",
            "how much changes from picture to picture",
            "",
            "pictures or latents of what came out, or of the newest window",
            _motion,
            (
                Parameter("floor", float, "candidates of any reward that move less lose", 0),
                Parameter("of", ("pictures", "latents"), "what is compared"),
                SEE,
            ),
        ),
    )
}


def parse_reward(text: str) -> tuple[tuple[str, float], ...]:
    """(name, weight) of each term of --reward. UsageError lists the known ones."""
    terms = parse_sum(text, "--reward")
    for name, _ in terms:
        choose("reward", name, REWARDS, "--reward")
    return terms


def parse_reward_sets(texts: Sequence[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """(parameters of rewards by name, the texts of `--set` that are none of theirs)."""
    values: dict[str, dict[str, Any]] = {}
    others = []
    for text in texts:
        key, _, value = text.partition("=")
        owner, dot, name = key.strip().partition(".")
        if not dot or owner not in REWARDS:
            others.append(text)
            continue
        known = {f"{owner}.{parameter.name}": parameter for parameter in REWARDS[owner].parameters}
        chosen = known[choose("name for --set", f"{owner}.{name}", known)]
        values.setdefault(owner, {})[name] = chosen.parse(f"{owner}.", value)
    return values, others


def make_reward(terms: Sequence[tuple[str, float]], supplies: Supplies, values: Mapping[str, Values]) -> Reward:
    """The reward of these terms, with the floor under motion if one is set. UsageError for what is not at hand."""
    heeded(terms, values)
    try:
        made = [(weight, REWARDS[name].make(supplies, values.get(name, {}))) for name, weight in terms]
        reward = made[0][1] if len(made) == 1 and made[0][0] == 1 else Weighted(made)
        floor = values.get("motion", {}).get("floor")
        return Floored(reward, _motion(supplies, values.get("motion", {})), floor) if floor else reward
    except ValueError as error:
        raise UsageError(str(error)) from error


def heeded(terms: Sequence[tuple[str, float]], values: Mapping[str, Values]) -> None:
    """UsageError for parameters that nothing would look at."""
    names, floored = [name for name, _ in terms], bool(values.get("motion", {}).get("floor"))
    for owner, given in values.items():
        if owner not in names and any(given.values()) and not (owner == "motion" and floored):
            said = "--set motion.floor=.01" if owner == "motion" else f"--reward {'+'.join([*names, owner])}"
            raise UsageError(
                f"{', '.join(f'{owner}.{name}' for name in given)} has no effect: the reward is {'+'.join(names)}; "
                f"leave it out, or add {said}"
            )
    given, of = values.get("consistency", {}), values.get("motion", {})
    if given.get("parts") == "local" and "anchor" in given:
        raise UsageError(
            f"consistency.anchor={given['anchor']} has no effect with parts=local, which looks at no anchor; leave one "
            f"of them out"
        )
    if of.get("of") == "latents" and "see" in of:
        raise UsageError(
            f"motion.see={of['see']} has no effect with of=latents, which looks at no picture; leave one of them out"
        )
    if "lag" in given and given.get("anchor") != "lag":
        raise UsageError(
            f"consistency.lag={given['lag']} has no effect; add --set consistency.anchor=lag, or leave it out"
        )


FLOORS = {"pictures": 0.01, "latents": 0.2}
"""Below all that ordinary clips of pocket show: finished ones change by .025 to .049 in pictures and .59 to .84 in
latents, the first estimates of the same clips, which are blurred, by .015 to .021 and .21 to .29."""


def usual_reward(supplies: Supplies, unfinished: bool = False) -> tuple[str, dict[str, dict[str, Any]]]:
    """(the best --reward that needs only what is at hand, its parameters), for a search that was given none.

    `unfinished`: the search judges latents halfway, for which a reward model is taken if it was measured to rank them
    better than what needs no training.
    """
    if unfinished and supplies.folder is not None and reward_model.wins(supplies.folder):
        return "latent-reward", {"motion": {"floor": FLOORS["latents"], "of": "latents"}}
    seen = "pictures" if supplies.has_preview and features.chosen("subject", "reward", supplies.world) else "latents"
    name = "consistency" if seen == "pictures" else "latent-cosine"
    return name, {"motion": {"floor": FLOORS[seen], "of": seen}}
