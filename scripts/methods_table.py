"""Writes the table of docs/methods.md from the program: `python scripts/methods_table.py`."""

from __future__ import annotations

from pathlib import Path

from longtake.apps.listing import describe_method
from longtake.apps.tables import METHODS

DOC = Path(__file__).parent.parent / "docs" / "methods.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"


def table() -> str:
    """A row a method, at a window of 12 latents with its own defaults."""
    lines = ["| method | steps | NFE a latent | first latent after | rows held | levels in a call | reach | streams |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for row in METHODS.values():
        facts = describe_method(row)
        gap = facts["level_gap"]
        streams = "yes" if row.streams else "the whole video at once" if row.fixed else "one clip"
        lines.append(
            f"| `{row.name}` | {facts['steps']} | {facts['nfe_per_latent']:g} | {facts['first_latent_nfe']} NFE | "
            f"{facts['rows_held']} | {gap['mean']:g} apart, {gap['largest']} at most | {facts['reach']} | {streams} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    text = DOC.read_text()
    before, rest = text.split(BEGIN)
    DOC.write_text(before + BEGIN + table() + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
