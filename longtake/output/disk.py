"""A disk that is full: told apart from other failures, with how much is missing, and never half a file left behind."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

# out of space, out of quota, over a limit on the size of files
FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG}


class DiskFullError(OSError):
    """There was no room for a file. What was there before it is whole; the message is one line."""

    def __init__(self, path: Path, need: int) -> None:
        """`need` in bytes is the size of what was to be written."""
        self.path, self.need = path, need
        try:
            free = shutil.disk_usage(path.parent).free
        except OSError:
            free = 0
        self.missing = need - free if free < need else need
        lack = f"{size(free)} free" if free < need else "a quota or a limit on the size of files stands in the way"
        super().__init__(
            f"no room for {path.name}: it needs {size(need)}, {lack}; make room for {size(self.missing)} or more"
        )


@contextmanager
def room(path: Path, need: int) -> Iterator[None]:
    """Turn the failures of a full disk while writing `path` (`need` bytes) into DiskFullError; others pass."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, DiskFullError) or not _is_full(error):
            raise
        raise DiskFullError(path, need) from error


def size(count: int) -> str:
    """Bytes in the unit that reads best: 812 B, 3.4 kB, 120 MB."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def _is_full(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in FULL
    # safetensors tells the number of the error only in its words
    found = re.search(r"os error (\d+)", str(error))
    return found is not None and int(found.group(1)) in FULL
