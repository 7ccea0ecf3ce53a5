"""From settings to what runs: the length in latents, the prompts over time, the method, and the search around it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from longtake.apps.beginning import begun
from longtake.apps.budget import Blank
from longtake.apps.building import Materials
from longtake.apps.looking import ENCODER, look_of
from longtake.apps.lookup import advise
from longtake.apps.rewarding import FLOORS, REWARDS, Supplies, make_reward, parse_reward, usual_reward
from longtake.apps.searches import make_search, search
from longtake.apps.settings import Settings
from longtake.apps.tables import method
from longtake.core.model import Capabilities
from longtake.core.timeline import Timeline
from longtake.errors import UsageError


def length_of(settings: Settings, can: Capabilities) -> int | None:
    """Latent frames that the run makes; None: endless."""
    if settings.frames is None:
        return None
    if settings.image:  # the picture is the first latent, also where latents are decoded in groups
        return can.num_latents(settings.frames) - 1
    return can.num_latents(settings.frames, after=bool(settings.video))


def latent_of(settings: Settings, can: Capabilities, frame: int) -> int:
    """The latent that shows a pixel frame of the run."""
    if settings.image:
        return max(can.latent_of(frame) - 1, 0)
    return can.latent_of(frame, after=bool(settings.video))


def timeline_of(settings: Settings, can: Capabilities) -> Timeline:
    """The prompts of the run by latent. UsageError if one lasts less than a latent."""
    entries: dict[int, str] = {}
    cuts = []
    for scene in settings.prompts or [{"frame": 0, "prompt": settings.prompt, "read_as": settings.read_as}]:
        start = latent_of(settings, can, scene["frame"])
        if start in entries:
            raise UsageError(
                f"the prompt {entries[start][:40]!r} lasts less than {can.temporal_compression} frames, the least that "
                f"this model can show; give it more time"
            )
        entries[start] = scene.get("read_as") or scene["prompt"]
        cuts += [start] if scene.get("cut") else []
    return Timeline(tuple(entries.items()), settings.fade, tuple(cuts), settings.prompt_rule)  # type: ignore[arg-type]


def in_own_words(settings: Settings) -> tuple[Settings, list[str]]:
    """Every prompt in the words that the embedded world knows, and a line for each word that it does not."""
    read_as, notes = advise(settings.prompts[0]["prompt"] if settings.prompts else settings.prompt)
    scenes = []
    for scene in settings.prompts:
        words, more = advise(scene["prompt"])
        scenes.append({**scene, "read_as": words})
        notes += [line for line in more if line not in notes]
    return replace(settings, read_as=read_as, prompts=scenes), notes


def method_of(settings: Settings, materials: Materials) -> Any:
    """The method of these settings. UsageError for parameters that cannot work."""
    try:
        return begun(method(settings.method).make(materials, settings.parameters), materials.begin)
    except ValueError as error:
        raise UsageError(str(error)) from error


def searched(settings: Settings, inner: Any, reward: Any, latents: int | None) -> Any:
    """The search of these settings around a method; the method itself without one."""
    if settings.search == "none":
        return inner
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in settings.search_parameters.items()}
    for name, value in values.items():
        if isinstance(value, tuple) and any(isinstance(item, list) for item in value):
            values[name] = tuple(tuple(item) for item in value)
    return make_search(search(settings.search), inner, reward, values, latents)


def reward_of(settings: Settings, model: Any) -> tuple[Any, str, list[str]]:
    """(the reward of a search, its text, lines to say). Without one given: the best that needs only what is at hand."""
    supplies = Supplies(model.codec, model.source, model.window, model.denoiser.schedule)
    text, values, notes = judged_by(settings, supplies)
    if text == "":
        return Blank(), "none", notes
    return make_reward(parse_reward(text), supplies, values), text, notes


def judged_by(settings: Settings, supplies: Supplies) -> tuple[str, dict[str, dict[str, Any]], list[str]]:
    """(the reward of a search, "" if it needs none, its parameters, lines to say); reads no weights."""
    row, text, values, notes = search(settings.search), settings.reward, settings.reward_parameters, []
    if text is None:
        text = row.reward
    if text is None:
        text, usual = usual_reward(supplies, row.unfinished)
        motion = {**usual["motion"], **values.get("motion", {})}
        if "floor" not in values.get("motion", {}):  # pictures and latents are different scales
            motion["floor"] = FLOORS[motion["of"]]
        values = {**values, "motion": motion if motion["floor"] else {}}
        notes = [f"reward {text} with motion.floor={motion['floor']:g} (the default; see: longtake rewards)"]
    return text, values, [*notes, *_looked_with(text, values, supplies)]


def _looked_with(text: str, values: dict[str, dict[str, Any]], supplies: Supplies) -> list[str]:
    """A line on each reward of pictures whose encoder nobody named."""
    names = [name for name, _ in parse_reward(text) if ENCODER in REWARDS[name].parameters] if text else []
    free = [name for name in names if "encoder" not in values.get(name, {})]
    return [f"{name} looks with {look_of({}, supplies.world)} (another: --set {name}.encoder=)" for name in free]
