"""How `--help` is laid out: options and commands in groups, whole sentences, lines as wide as a screen allows.

typer draws groups by rich alone; here they are plain text, so that help reads the same in a pipe and on a terminal.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

WIDTH = 110
COMMANDS = {
    "to make videos": ("generate", "resume", "batch"),
    "to direct them": ("extend", "reroll", "takes", "show"),
    "to look names up": ("models", "methods", "searches", "rewards"),
    "to measure": ("eval", "export-vbench", "vote", "bench"),
    "for weights": ("convert", "train"),
}
"""Commands by what they are for; one that is not named here comes last."""

OPTIONS = {
    "What is shown": ("prompt_file", "negative_prompt", "image", "last_image", "video", "audio"),
    "Length and size": ("frames", "seconds", "size", "fps"),
    "How it is made": ("model", "method", "preset", "steps", "guidance", "solver", "seed", "set_",
                       "lora", "guide_model"),
    "Search": ("search", "reward", "search_budget"),
    "The run": ("out", "from_", "dry_run", "no_embed"),
    "The machine": ("device", "dtype", "offload", "compile_", "attention"),
    "What is said": ("format_", "verbose", "quiet", "help"),
}  # fmt: skip
"""Options of a command with many, by what they are about."""

MANY = 12
"""Options beyond which help is grouped."""


class Command(TyperCommand):
    """A command whose help shows its options in groups if there are many."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, then options; one that no group names comes last."""
        arguments, options = {}, {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                (arguments if parameter.param_type_name == "argument" else options)[parameter.name] = record
        _section(formatter, "Arguments", arguments.values())
        if len(options) > MANY:
            for title, names in OPTIONS.items():
                _section(formatter, title, [options.pop(name) for name in names if name in options])
        _section(formatter, "Options", options.values())


class Group(TyperGroup):
    """The list of commands, grouped, each with the whole first sentence of its help."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """A section a group; a command that no group names comes last."""
        left = {name: (name, command.get_short_help_str(200)) for name, command in self.commands.items()}
        for title, names in COMMANDS.items():
            _section(formatter, f"Commands {title}", [left.pop(name) for name in names if name in left])
        _section(formatter, "Commands", left.values())


def _section(formatter: Any, title: str, rows: Iterable[tuple[str, str]]) -> None:
    if rows := list(rows):
        with formatter.section(title):
            formatter.write_dl(rows)


class App(typer.Typer):
    """A typer application whose commands all have this help."""

    def command(self, *arguments: Any, **options: Any) -> Any:
        """As typer's, with this module's layout."""
        return super().command(*arguments, **{"cls": Command, **options})


def new_app() -> App:
    """The application, without commands yet."""
    width = max(min(shutil.get_terminal_size((80, 24)).columns, WIDTH), 60)
    return App(
        cls=Group,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"max_content_width": width},
    )
