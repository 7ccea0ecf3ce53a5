"""Write which method runs on which family: docs/models/matrix.json, and its table in docs/models.md.

A cell is "yes", or the reason why not. A test holds both files to what is written here, and runs the cells.
"""

from __future__ import annotations

import json
from pathlib import Path

from longtake.apps.listing import describe_family
from longtake.apps.tables import METHODS
from longtake.models.families import FAMILIES

DOCS = Path(__file__).parent.parent / "docs"
FILE, PAGE = DOCS / "models" / "matrix.json", DOCS / "models.md"


def matrix() -> dict[str, dict[str, str]]:
    """The cells by family and method."""
    able = {name: describe_family(name)["methods"] for name in FAMILIES}
    return {
        name: {method: "yes" if method in able[name] else f"no: {row.alone}" for method in METHODS}
        for name, row in FAMILIES.items()
    }


def table(cells: dict[str, dict[str, str]]) -> list[str]:
    """The lines of the table in docs/models.md."""
    lines = [f"| | {' | '.join(METHODS)} |", "|---" * (len(METHODS) + 1) + "|"]
    return [*lines, *(f"| {name} | {' | '.join(cell[:3].strip(':') for cell in row.values())} |"
                      for name, row in cells.items())]  # fmt: skip


def written(page: str, lines: list[str]) -> str:
    """The page with these lines in the place of its table."""
    old = page.splitlines()
    start = next(place for place, line in enumerate(old) if line.startswith("| | plain"))
    stop = next(place for place in range(start, len(old)) if not old[place].startswith("|"))
    return "\n".join([*old[:start], *lines, *old[stop:]]) + "\n"


if __name__ == "__main__":
    made = matrix()
    FILE.write_text(json.dumps(made, indent=1) + "\n")
    PAGE.write_text(written(PAGE.read_text(), table(made)))
