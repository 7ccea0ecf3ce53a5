"""The wheel alone does the main job: new environment, empty folder, no network, no file outside --out and the cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROMPT = "a dog walks right across green hills at noon"
NO_SOCKETS = """
import socket
def refuse(*args, **kwargs):
    raise RuntimeError("a socket was opened")
socket.socket.connect = socket.socket.connect_ex = socket.create_connection = refuse
socket.getaddrinfo = refuse
"""


def _run(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment that holds the wheel; what longtake depends on is borrowed from this one."""
    folder = tmp_path_factory.mktemp("wheel")
    _run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, ROOT)
    (wheel,) = folder.glob("longtake-*.whl")
    environment = folder / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    site = Path(_run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").stdout.strip())
    _run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", site, wheel)
    # a path file, not a site folder: this environment's own editable install of longtake stays out
    borrowed = dict.fromkeys(sysconfig.get_paths()[kind] for kind in ("purelib", "platlib"))
    (site / "no_sockets.py").write_text(NO_SOCKETS)  # a system may have a sitecustomize of its own, so not by that
    (site / "borrowed.pth").write_text("\n".join([*borrowed, "import no_sockets", ""]))
    tried = [python, "-c", "import socket; socket.create_connection(('localhost', 1))"]
    assert "a socket was opened" in subprocess.run(tried, capture_output=True, text=True).stderr
    return python


@pytest.mark.slow
def test_the_wheel_alone_generates_and_resumes(python: Path, tmp_path: Path):
    home, empty, out = tmp_path / "home", tmp_path / "empty", tmp_path / "out" / "take"
    for folder in (home, empty, out.parent):
        folder.mkdir(parents=True)
    variables = {"PATH": os.environ["PATH"], "HOME": str(home), "OMP_WAIT_POLICY": "passive"}
    where = _run(python, "-c", "import longtake; print(longtake.__file__)", cwd=empty, env=variables).stdout
    assert str(python.parent.parent) in where
    package = Path(where.strip()).parent
    before = _files(package)
    flags = ["--frames", 9, "--method", "plain", "--steps", 4, "--seed", 1, "--format", "json", "--out", out]
    done = _run(python, "-m", "longtake", "generate", PROMPT, *flags, cwd=empty, env=variables)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["frames"] == 9 and Path(result["video"]).is_file()
    again = _run(python, "-m", "longtake", "resume", out, "--format", "json", cwd=empty, env=variables)
    assert json.loads(again.stdout.splitlines()[-1])["frames"] == 9
    assert not _files(empty)
    assert all(".cache" in path.parts for path in _files(home))
    assert {path for path in _files(package) - before if path.suffix != ".pyc"} == set()
