"""The last speed measured for a model on a device, so that a dry run can say how long a run will take."""

from __future__ import annotations

import json

from longtake.apps.settings import Settings
from longtake.output.checkpoint import write_atomic
from longtake.rewards.features import cache_folder


def key(settings: Settings, device: str) -> str:
    """What a speed is measured for."""
    return f"{settings.model} {settings.width}x{settings.height} {device}"


def recall(name: str) -> float | None:
    """NFE a second, as last measured; None if never."""
    return _read().get(name)


def remember(name: str, nfe_per_second: float) -> None:
    """Keep a speed. A cache that cannot be written is no error."""
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        write_atomic(cache_folder() / "speed.json", json.dumps({**_read(), name: round(nfe_per_second, 4)}, indent=1))
    except OSError:
        pass


def _read() -> dict[str, float]:
    try:
        content = json.loads((cache_folder() / "speed.json").read_text(encoding="utf-8"))
        return {str(name): float(speed) for name, speed in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
