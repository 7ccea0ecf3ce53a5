"""The house rules: imports run downward, budgets hold, nothing of a workplace stands in the tree."""

from __future__ import annotations

import ast
import json
import runpy
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "longtake"
FILES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = ("longtake", "tests", "benchmarks", "docs", "examples", "scripts")
EXCEPTIONS: dict[str, str] = json.loads((ROOT / "tests" / "budgets.json").read_text())

# what a room may import of longtake, besides itself and longtake.errors
ROOMS: dict[str, set[str]] = {
    "core": set(),
    "models": {"core"},
    "world": {"core"},
    "rollouts": {"core"},
    "rewards": {"core", "rollouts", "world", "metrics"},
    "search": {"core"},
    "output": {"core", "search", "rollouts"},
    "metrics": {"core", "world", "output", "models", "rewards", "rollouts", "search"},
    "scale": {"core", "search", "rollouts"},
    "testing": {"core", "search", "output", "models"},
    "training": {"core", "world", "models", "metrics", "rewards", "rollouts", "output"},
    "apps": {"core", "models", "world", "rollouts", "search", "rewards", "output", "metrics", "scale", "training",
             "testing"},
}  # fmt: skip
MACHINES = (["diagonal"], ["fixed"], ["wavefront"], ["leading"])
LAZY = {"ray", "gradio", "fastapi", "matplotlib", "scenedetect"}


def _imports(tree: ast.AST) -> list[tuple[str, bool]]:
    """(module, at the top level of the file) of every import."""
    top = {id(node) for node in getattr(tree, "body", [])}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.module, id(node) in top))
            if node.module in ("longtake", "longtake.rollouts", "longtake.models"):
                found += [(f"{node.module}.{alias.name}", id(node) in top) for alias in node.names]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downward(path: Path):
    parts = path.relative_to(PACKAGE).parts
    room = parts[0] if len(parts) > 1 else None
    for module, top in _imports(ast.parse(path.read_text())):
        name = module.split(".")
        assert not (name[0] in LAZY and top), f"{path}: import {module} inside the function that needs it"
        if name[0] == "diffusers":
            assert room in ("models", "training"), f"{path}: diffusers belongs in models/ and training/"
        if name[0] == "longtake" and room and len(name) > 1 and name[1] in ROOMS:
            assert name[1] == room or name[1] in ROOMS[room], f"{path}: {room} may not import {module}"
            if room == "rollouts" and name[1] == "rollouts":
                assert name[2:3] in ([], *MACHINES), f"{path}: rollouts share only their machines"


def _functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_budgets(path: Path):
    """File 300 lines, function 50, 7 arguments; an exception is a line in tests/budgets.json with its reason."""
    key = str(path.relative_to(ROOT))
    text = path.read_text()
    lines = len(text.splitlines())
    assert lines <= 300 or key in EXCEPTIONS, f"{key} has {lines} lines"
    for node in _functions(ast.parse(text)):
        name = f"{key}:{node.name}"
        long = (node.end_lineno or 0) - node.lineno + 1
        assert long <= 50 or name in EXCEPTIONS, f"{name} has {long} lines"
        count = len([a for a in [*node.args.args, *node.args.kwonlyargs] if a.arg not in ("self", "cls")])
        assert count <= 7 or name in EXCEPTIONS, f"{name} takes {count} arguments"


def test_exceptions_are_used():
    for key in EXCEPTIONS:
        path, _, function = key.partition(":")
        assert (ROOT / path).is_file(), f"{key} in tests/budgets.json names no file"
        assert not function or f"def {function}(" in (ROOT / path).read_text(), f"{key} names no function"


@pytest.mark.parametrize("room", ["core", "rollouts", "search"])
def test_the_generation_path_draws_only_keyed_noise(room: str):
    for path in sorted((PACKAGE / room).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in (
                "randn",
                "rand",
                "randint",
                "randn_like",
                "multinomial",
            ):
                raise AssertionError(f"{path}:{node.lineno} draws unkeyed noise")


def test_the_window_planner_needs_no_torch():
    assert all(
        not name.startswith("torch") for name, _ in _imports(ast.parse((PACKAGE / "core/window.py").read_text()))
    )


def test_few_public_names():
    import longtake

    assert sorted(longtake.__all__) == ["generate", "load", "stream"]


def _tracked() -> list[Path]:
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        paths = [ROOT / name for name in listed.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):  # no git, or an archive: the folders that hold what is tracked
        paths = [path for name in FOLDERS for path in (ROOT / name).rglob("*") if "__pycache__" not in path.parts]
    return [path for path in paths if path.is_file()]


def test_sizes_of_what_is_tracked():
    """What may be shipped, in MiB."""
    files = {path: path.stat().st_size / 2**20 for path in _tracked()}
    assert sum(files.values()) <= 60
    weights = {path: size for path, size in files.items() if "weights" in path.parts}
    assert sum(weights.values()) <= 48
    assert all(size <= 15 for size in files.values())
    home = PACKAGE / "models" / "weights"
    for name, most in (("pocket", 27), ("pocket-progressive", 15), ("pocket-judge", 3), ("pocket/reward", 2)):
        kept = [size for path, size in weights.items() if path.is_relative_to(home / name)]
        apart = [size for path, size in weights.items() if path.is_relative_to(home / "pocket" / "reward")]
        assert 0 < sum(kept) - (sum(apart) if name == "pocket" else 0) <= most, name
    assert sum(size for path, size in files.items() if path.suffix == ".webp" and "docs" in path.parts) <= 6
    assert files[PACKAGE / "world" / "atlas.webp"] <= 3


def test_only_safe_weights_are_shipped():
    assert not [path for path in _tracked() if path.suffix in (".pt", ".bin", ".ckpt", ".pkl", ".pth")]


def test_nothing_of_a_workplace_stands_in_the_tree():
    words = ["/" + "work/", "/" + "farm/", "farm" + "-bench", "farm" + "-studio"]
    for path in _tracked():
        if path.suffix in (".py", ".md", ".toml", ".json", ".txt", ".sh", "") and path.stat().st_size < 1 << 20:
            text = path.read_text(errors="ignore")
            assert not [word for word in words if word in text], path


def test_the_skeleton_rollout_passes_its_law_kit(capsys):
    runpy.run_path(str(ROOT / "examples" / "skeleton_rollout.py"), run_name="__main__")
    assert "every law holds" in capsys.readouterr().out
