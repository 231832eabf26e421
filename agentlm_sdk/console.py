"""What the command line shows while it works: a bar on a terminal, plain lines elsewhere, always on standard error."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EVERY = 5.0
"""Seconds between two plain lines."""

stderr = Console(stderr=True, highlight=False, soft_wrap=True)


class Bar:
    """Progress of one piece of work."""

    def __init__(self, title: str, progress: Progress | None) -> None:
        self._title, self._progress = title, progress
        self._task = progress.add_task(title, total=None, note="") if progress else None
        self._told = time.monotonic()

    def at(self, done: int, total: int, note: str = "") -> None:
        """`done` of `total` is reached."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=total, note=note)
        elif done == total or time.monotonic() - self._told > EVERY:
            self._told = time.monotonic()
            stderr.print(f"{self._title}: {done}/{total} {note}".rstrip(), markup=False)

    def tell(self, line: str) -> None:
        """A line above the bar."""
        (self._progress.console if self._progress else stderr).print(line, markup=False)


@contextmanager
def bar(title: str, *, quiet: bool = False) -> Iterator[Bar]:
    """A progress bar on a terminal, lines every few seconds elsewhere."""
    if quiet or not stderr.is_terminal:
        yield Bar(title, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=stderr, transient=False) as progress:
        yield Bar(title, progress)


def print_json(value: BaseModel | dict[str, Any]) -> None:
    """One JSON object on standard output."""
    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    print(json.dumps(data, ensure_ascii=True))
