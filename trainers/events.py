"""What a running training tells: one JSON line a step in a file, and a live bar on a terminal or plain lines elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


@dataclass(frozen=True, kw_only=True, slots=True)
class StepEvent:
    """One optimiser step."""

    step: int
    steps: int
    loss: float
    """Mean over the step's learned tokens."""
    agent_loss: float | None
    """The same over the agent data's tokens; None when the step held none."""
    general_loss: float | None
    lr: float
    grad_norm: float
    tokens: int
    """Tokens computed since the start."""
    trained_tokens: int
    tokens_per_second: float
    """Since the start."""

    def line(self) -> str:
        parts = [f"step {self.step}/{self.steps}", f"loss {self.loss:.3f}"]
        if self.agent_loss is not None:
            parts.append(f"agent {self.agent_loss:.3f}")
        if self.general_loss is not None:
            parts.append(f"general {self.general_loss:.3f}")
        return "  ".join([*parts, f"{self.tokens_per_second:.0f} tokens/s"])


class Reporter:
    """Takes step events; made by `reporting`."""

    def __init__(self, file: TextIO, console: Console | None, bar: Progress | None, task: TaskID | None) -> None:
        self._file, self._console, self._bar, self._task = file, console, bar, task

    def step(self, event: StepEvent) -> None:
        self._file.write(json.dumps({"kind": "step", **asdict(event)}) + "\n")
        self._file.flush()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=event.step, total=event.steps, description=event.line())
        elif self._console is not None:
            self._console.print(event.line(), markup=False, highlight=False)


@contextmanager
def reporting(path: Path, *, quiet: bool = False) -> Iterator[Reporter]:
    """Append events to `path` and, unless `quiet`, show them on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    with path.open("a", encoding="utf-8") as file:
        if quiet or not console.is_terminal:
            yield Reporter(file, None if quiet else console, None, None)
            return
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            yield Reporter(file, console, bar, bar.add_task("loading the model", total=None))
