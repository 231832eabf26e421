"""The mistakes a user can mend, and the exit codes of the command line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_OK, EXIT_USER, EXIT_UNDECIDED, EXIT_INFRASTRUCTURE, EXIT_INTERRUPTED = 0, 1, 2, 3, 130


class UserError(Exception):
    """Wrong input: the message names the value, the place and the next step. Exit code 1."""


class InfrastructureError(Exception):
    """Something we need is missing or broke: a server, Docker, a package. Exit code 3."""


class MissingExtra(InfrastructureError):
    """A package of an extra is not installed; the message names the extra."""


def closest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for a near miss, otherwise an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
