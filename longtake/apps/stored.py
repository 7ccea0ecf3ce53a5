"""Settings read back from a file that anybody may have written: each of its kind and within bounds, or refused."""

from __future__ import annotations

import types
from dataclasses import MISSING, fields
from decimal import Decimal
from fractions import Fraction
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from longtake.apps.parameters import choose
from longtake.errors import UsageError

T = TypeVar("T")

BOUNDS: dict[str, tuple[float, float]] = {
    "width": (1, 1 << 14), "height": (1, 1 << 14), "steps": (1, 1000), "guidance": (0, 100), "frames": (1, 1 << 32),
    "seed": (0, 2**63 - 1), "batch": (1, 1 << 12), "threads": (1, 1 << 12), "latent": (0, 1 << 32),
    "key": (0, 2**63 - 1), "frame": (0, 1 << 32), "from_frame": (0, 1 << 32),
    "offset": (0, 1 << 32), "nfe": (0, 2**53), "take": (0, 1 << 20),
}  # fmt: skip
PARTS: dict[str, dict[str, Any]] = {
    "turns": {"latent": int, "key": int, "seed": int | None, "prompt": str | None, "read_as": str | None},
    "prompts": {"frame": int, "prompt": str, "cut": bool | None, "read_as": str | None},
    "branch": {"latent": int, "from_frame": int, "seed": int | None},
}
"""What the objects inside some settings hold; what may be None may be missing."""

LONGEST = 20_000
"""Characters of any text."""


def checked(cls: type[T], content: dict[str, Any]) -> T:
    """A dataclass of settings from the JSON object of a run.json. UsageError, one line, for anything amiss."""
    kinds, values = get_type_hints(cls), {}
    for item in fields(cls):  # type: ignore[arg-type]
        if item.name in content:
            values[item.name] = content[item.name]
        elif item.default is MISSING and item.default_factory is MISSING:
            raise UsageError(f"run.json lacks {item.name!r}; it was cut off or changed")
    for name, value in values.items():
        if not fits(value, kinds[name]):
            raise UsageError(f"run.json has a {name!r} that cannot be: {shown(value)}; it was changed")
        within(name, value)
        _inner(name, value)
        if get_origin(kinds[name]) is tuple:
            values[name] = tuple(value)
    made = cls(**values)
    named(made)
    return made


def _inner(name: str, value: Any) -> None:
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, dict):
            for key, kind in PARTS.get(name, {}).items():
                if not fits(one.get(key), kind):
                    raise UsageError(f"run.json has {name} with {key} = {shown(one.get(key))}; it was changed")
    starts = [one["frame"] for one in value] if name == "prompts" else []
    if starts and (starts[0] != 0 or any(after <= start for start, after in zip(starts, starts[1:], strict=False))):
        raise UsageError(f"run.json has prompts that begin at frames {shown(starts)}; it was changed")


def named(settings: Any) -> None:
    """UsageError unless method, search and solver are known, and their parameters are what could have been typed."""
    from longtake.apps.rewarding import parse_reward_sets
    from longtake.apps.screening import search_parameters
    from longtake.apps.tables import method, parse_sets
    from longtake.core.solvers import RULES

    if any(isinstance(value, (list, dict)) for value in settings.parameters.values()):
        raise UsageError("run.json has parameters of a method that are lists; it was changed")
    try:
        row = method(settings.method)
        if settings.solver is not None:
            choose("solver", settings.solver, RULES)
        parse_sets(sets_of(settings), row, search_parameters(settings.search))
        parse_reward_sets(reward_sets(settings))
        Fraction(settings.fps)
    except (UsageError, ValueError, ZeroDivisionError) as error:
        raise UsageError(f"run.json is of another longtake, or was changed: {str(error)[:300]}") from error
    if not 0 < Fraction(settings.fps) <= 240:
        raise UsageError(f"run.json has fps {shown(settings.fps)}, which cannot be; it was changed")


def sets_of(settings: Any) -> list[str]:
    """What `--set` would have to be given for the same method and search."""
    found = {f"{settings.method}.{name}": value for name, value in settings.parameters.items()}
    found |= {f"{settings.search}.{name}": value for name, value in settings.search_parameters.items()}
    found |= {"fade": settings.fade, "prompt_rule": settings.prompt_rule, "ending": settings.ending}
    found |= settings.options
    return [f"{name}={_word(value)}" for name, value in found.items()]


def reward_sets(settings: Any) -> list[str]:
    """What `--set` would have to be given for the same rewards."""
    rewards = settings.reward_parameters.items()
    return [f"{name}.{key}={_word(value)}" for name, values in rewards for key, value in values.items()]


def _word(value: Any) -> str:
    """A value as it is typed behind `--set`: numbers with commas between, (name, weight) pairs as a sum."""
    if isinstance(value, (list, tuple)):
        terms = [one for one in value if isinstance(one, (list, tuple)) and len(one) == 2]
        if terms and len(terms) == len(value):
            return "+".join(f"{_plain(weight)}*{name}" for name, weight in terms)
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _plain(weight: Any) -> str:
    # without an exponent, whose sign would part the sum
    return f"{Decimal(repr(weight)):f}" if isinstance(weight, float) else str(weight)


def within(name: str, value: Any) -> None:
    """UsageError for a number out of bounds or an endless text, also inside lists and objects."""
    if isinstance(value, dict):
        for key, item in value.items():
            within(str(key), item)
    elif isinstance(value, list):
        for item in value:
            within(name, item)
    elif isinstance(value, str):
        if len(value) > LONGEST or "\x00" in value:
            raise UsageError(f"run.json has a {name!r} of {len(value)} characters that cannot be; it was changed")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        low, high = BOUNDS.get(name, (-(2.0**63), 2.0**63))
        if not low <= value <= high:  # nor for what is no number
            raise UsageError(f"run.json has {name!r} = {shown(value)}, allowed are {low:g} to {high:g}; it was changed")


def fits(value: Any, kind: Any) -> bool:
    """Whether a value out of JSON is of the kind that an annotation names."""
    if kind is Any:
        return True
    origin, parts = get_origin(kind), get_args(kind)
    if origin is types.UnionType or str(origin) == "typing.Union":
        return any(fits(value, part) for part in parts)
    if origin is dict:
        return isinstance(value, dict) and all(fits(item, parts[1]) for item in value.values())
    if origin in (list, tuple):
        inner = [part for part in parts if part is not Ellipsis]
        return isinstance(value, list) and (len(inner) != 1 or all(fits(item, inner[0]) for item in value))
    if kind is types.NoneType:
        return value is None
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**1000
    if kind is int:
        return type(value) is int
    return isinstance(value, kind) if isinstance(kind, type) else True


def shown(value: Any) -> str:
    """The value, cut to a line's length."""
    try:
        text = repr(value)
    except ValueError:  # an integer with thousands of digits
        text = "a huge number"
    return text if len(text) <= 60 else text[:57] + "..."
