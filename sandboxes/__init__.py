"""Places where commands and SQL that nobody trusts may run: the contract, a Docker shell, databases, and their images."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sandboxes.base import (
    Cell,
    Database,
    ExecResult,
    Output,
    QueryResult,
    Sandbox,
    SandboxError,
    SandboxLost,
    SandboxUnavailable,
    opened,
)

if TYPE_CHECKING:
    from sandboxes.docker import DockerShell
    from sandboxes.images import ensure_image, image_names
    from sandboxes.reaper import clean, list_sandboxes
    from sandboxes.sqlite import SqliteDatabase

__all__ = [
    "Cell",
    "Database",
    "DockerShell",
    "ExecResult",
    "Output",
    "QueryResult",
    "Sandbox",
    "SandboxError",
    "SandboxLost",
    "SandboxUnavailable",
    "SqliteDatabase",
    "clean",
    "ensure_image",
    "image_names",
    "list_sandboxes",
    "opened",
]

_HOMES = {
    "DockerShell": "sandboxes.docker",
    "SqliteDatabase": "sandboxes.sqlite",
    "clean": "sandboxes.reaper",
    "ensure_image": "sandboxes.images",
    "image_names": "sandboxes.images",
    "list_sandboxes": "sandboxes.reaper",
}


def __getattr__(name: str) -> Any:
    """Import what needs the docker SDK only when it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
