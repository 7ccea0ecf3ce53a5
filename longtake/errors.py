"""Errors that a user can act on: one line that says what was given, what is allowed and what to do."""

from __future__ import annotations


class UsageError(ValueError):
    """Bad input or settings. The message is a single line, fit to be printed as it is."""

    def __init__(self, message: object) -> None:
        super().__init__(" ".join(str(message).split()))
