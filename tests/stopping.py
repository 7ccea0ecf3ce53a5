"""A process that stops itself at a stated moment, so that nobody has to catch the moment on a busy machine.

python -m tests.stopping SIGNAL LINES FOLDER COMMAND...
    longtake COMMAND... gets the signal when the trace in FOLDER has so many lines
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def arm(how: int, lines: int, folder: Path) -> None:
    """Let this process get the signal `how` once the trace in `folder` has `lines` lines."""
    from longtake.output import trace

    add = trace.Trace.add

    def counted(self: Any, line: dict[str, Any]) -> bool:
        done = add(self, line)
        if self.path.resolve().parent == folder.resolve() and self.path.read_bytes().count(b"\n") == lines:
            signal.raise_signal(how)
        return done

    trace.Trace.add = counted  # type: ignore[method-assign]


def stopped(
    how: int, lines: int, folder: Path, arguments: list[str], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command of longtake in a process of its own that gets a signal at the nth line of the trace in `folder`."""
    command = [sys.executable, "-m", "tests.stopping", str(int(how)), str(lines), str(folder), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


if __name__ == "__main__":
    from longtake.apps.cli import main

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started deaf to it
    arm(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    main(sys.argv[4:])
