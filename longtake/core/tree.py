"""Walks over states: frozen dataclasses, NamedTuples and plain containers, with tensors as leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")
_BARE = frozenset((int, float, bool, str, type(None)))


def children(value: Any) -> Iterator[Any]:
    """The parts that a state value is made of, in a fixed order."""
    names = _names(type(value))
    if names is not None:
        yield from [getattr(value, name) for name in names]
    elif isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, (tuple, list)):
        yield from value


@cache
def _names(kind: type) -> tuple[str, ...] | None:
    # plans walk states at every tick, so what a class is made of is asked once
    return tuple(field.name for field in fields(kind) if field.init) if is_dataclass(kind) else None


def walk(value: Any) -> Iterator[Any]:
    """Every distinct object of a state but bare numbers and words, the root first; what branches share comes once."""
    seen: set[int] = set()
    stack = [value]
    while stack:
        item = stack.pop()
        if id(item) not in seen:
            seen.add(id(item))
            yield item
            stack.extend([part for part in children(item) if type(part) not in _BARE])


def map_tensors(function: Callable[[Tensor], Tensor], value: T) -> T:
    """The same state with `function` applied to each tensor; objects that were shared stay shared."""
    return _map(function, value, {})


def _map(function: Callable[[Tensor], Tensor], value: Any, memo: dict[int, Any]) -> Any:
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, Tensor):
        result = function(value)
    elif is_dataclass(value) and not isinstance(value, type):
        changes = {f.name: _map(function, getattr(value, f.name), memo) for f in fields(value) if f.init}
        result = replace(value, **changes)
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        result = type(value)(*(_map(function, item, memo) for item in value))
    elif isinstance(value, (tuple, list)):
        result = type(value)(_map(function, item, memo) for item in value)
    elif isinstance(value, Mapping):
        result = {key: _map(function, item, memo) for key, item in value.items()}
    else:
        result = value
    memo[id(value)] = result
    return result


def substituted(value: T, memo: dict[int, Any]) -> T:
    """The same state with objects replaced by id; what `memo` names is not looked into."""
    return _map(lambda tensor: tensor, value, dict(memo))
