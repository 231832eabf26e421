"""The journal: every episode as append-only, checksummed JSON lines; one file per writer process, fsync at episode end.

A run directory holds `manifest.json` (what was run), `tasks.jsonl` (the tasks as they were) and `events/*.jsonl`. The only damage
a crash can do is a torn last line, which readers drop and report. An episode without an end is incomplete, never deleted.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from pydantic import ValidationError

from agentlm_sdk.errors import UserError
from agentlm_sdk.record import SCHEMA, Message, Outcome, Policy, Reward, SandboxRef, Step, TaskRef, Trajectory, Usage

EventKind = Literal["start", "message", "step", "reward", "end"]


def new_episode_id() -> str:
    """A sortable id: milliseconds since 1970 in hex, then 10 random hex digits."""
    return f"{time.time_ns() // 1_000_000:012x}-{uuid.uuid4().hex[:10]}"


def utc_now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def write_atomic(path: Path, text: str) -> None:
    """Write a whole file or nothing: a temporary name, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8", errors="surrogatepass") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def event_line(event: dict[str, Any]) -> str:
    """One journal line: the event as JSON with the CRC-32 of all that stands before it."""
    body = json.dumps(event, ensure_ascii=True, separators=(",", ":"))[:-1]
    return f'{body},"crc":"{zlib.crc32(body.encode()):08x}"}}\n'


def parse_line(line: str) -> dict[str, Any] | None:
    """The event of a line, or None when the line is torn or damaged."""
    body, mark, rest = line.rstrip("\n").rpartition(',"crc":"')
    if not mark or len(rest) != 10 or rest[8:] != '"}' or f"{zlib.crc32(body.encode()):08x}" != rest[:8]:
        return None
    event: dict[str, Any] = json.loads(body + "}")
    return event


class JournalWriter:
    """Appends events of many episodes to one file of this process; safe to share between threads and tasks."""

    def __init__(self, run_dir: Path) -> None:
        self._dir = run_dir / "events"
        self._dir.mkdir(parents=True, exist_ok=True)
        self.path = self._dir / f"{new_episode_id()}-{socket.gethostname()}-{os.getpid()}.jsonl"
        self._file = self.path.open("x", encoding="ascii")
        self._lock = threading.Lock()

    def _write(self, episode: str, kind: EventKind, data: Any, *, sync: bool = False) -> None:
        line = event_line({"v": SCHEMA, "episode": episode, "kind": kind, "data": data})
        with self._lock:
            self._file.write(line)
            self._file.flush()
            if sync:
                os.fsync(self._file.fileno())

    def start(
        self,
        episode: str,
        *,
        task: TaskRef,
        attempt: int,
        rerun: int,
        policy: Policy,
        sandbox: SandboxRef,
        started: str,
    ) -> None:
        data = {
            "task": task.model_dump(mode="json"),
            "attempt": attempt,
            "rerun": rerun,
            "policy": policy.model_dump(mode="json"),
            "sandbox": sandbox.model_dump(mode="json"),
            "started": started,
        }
        self._write(episode, "start", data)

    def message(self, episode: str, message: Message) -> None:
        self._write(episode, "message", message.model_dump(mode="json", exclude_defaults=True))

    def step(self, episode: str, step: Step) -> None:
        self._write(episode, "step", step.model_dump(mode="json", exclude_defaults=True))

    def reward(self, episode: str, reward: Reward) -> None:
        self._write(episode, "reward", reward.model_dump(mode="json"))

    def end(self, episode: str, outcome: Outcome, usage: Usage, *, sandbox: SandboxRef) -> None:
        """The episode is over and, when this returns, on disk."""
        data = {
            "outcome": outcome.model_dump(mode="json"),
            "usage": usage.model_dump(mode="json"),
            "sandbox": sandbox.model_dump(mode="json"),
        }
        self._write(episode, "end", data, sync=True)

    def close(self) -> None:
        with self._lock:
            if not self._file.closed:
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()

    def __enter__(self) -> JournalWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@dataclass(kw_only=True, slots=True)
class Open:
    """An episode while its events are read."""

    start: dict[str, Any]
    messages: list[Message] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    rewards: list[Reward] = field(default_factory=list)
    broken: bool = False
    """A line that may have been its own is damaged: it counts as unfinished, whatever follows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunContents:
    """What a run directory holds."""

    trajectories: list[Trajectory]
    """Finished episodes, in the order they began."""
    incomplete: list[str]
    """Ids of episodes that have no end."""
    unfinished_attempts: dict[tuple[str, int], int]
    """(task id, attempt) -> how often it was started and did not finish, or finished by an infrastructure failure."""
    problems: list[str]
    """Torn or damaged lines, as `FILE:LINE: what`."""
    manifest: dict[str, Any]


def read_events(path: Path, problems: list[str]) -> Iterator[dict[str, Any] | None]:
    """The events of one file, None for a line that is not sound, which is added to `problems`. Raises UserError for a newer
    schema."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            whole = raw.endswith(b"\n")
            event = parse_line(raw.decode("ascii", "replace")) if whole else None
            if event is None:
                problems.append(f"{path.name}:{number}: {'damaged' if whole else 'torn'} line dropped")
                yield None
                continue
            if event["v"] > SCHEMA:
                raise UserError(
                    f"{path}, line {number}: schema {event['v']} is newer than this SDK's {SCHEMA}; upgrade agentlm-sdk"
                )
            yield event


def read_run(run_dir: Path) -> RunContents:
    """Everything a run holds. Raises UserError when `run_dir` is not a run directory."""
    try:
        manifest = json.loads((run_dir / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{run_dir} is not a run directory (no manifest.json); make one with `agentlm-sdk rollout -o {run_dir}`"
        ) from error
    except ValueError as error:
        raise UserError(f"{run_dir / 'manifest.json'} is damaged: {error}") from error
    problems: list[str] = []
    done: list[Trajectory] = []
    incomplete: list[str] = []
    unfinished: dict[tuple[str, int], int] = {}
    for path in sorted((run_dir / "events").glob("*.jsonl")):
        episodes: dict[str, Open] = {}
        for event in read_events(path, problems):
            if event is None:
                for opened in episodes.values():
                    opened.broken = True
            else:
                _fold(event, episodes, done, problems, path)
        incomplete += list(episodes)
        for opened in episodes.values():
            key = (opened.start["task"]["id"], opened.start["attempt"])
            unfinished[key] = unfinished.get(key, 0) + 1
    for trajectory in done:
        if trajectory.outcome.failure is not None:
            key = (trajectory.task.id, trajectory.attempt)
            unfinished[key] = unfinished.get(key, 0) + 1
    done.sort(key=lambda trajectory: trajectory.id)
    return RunContents(
        trajectories=done,
        incomplete=sorted(incomplete),
        unfinished_attempts=unfinished,
        problems=problems,
        manifest=manifest,
    )


def latest_attempts(trajectories: list[Trajectory]) -> list[Trajectory]:
    """One trajectory per task and attempt: a rerun replaces the infrastructure failure it was made for."""
    chosen: dict[tuple[str, int], Trajectory] = {}
    for trajectory in trajectories:
        key = (trajectory.task.id, trajectory.attempt)
        if key not in chosen or chosen[key].outcome.failure is not None:
            chosen[key] = trajectory
    return list(chosen.values())


def _fold(event: dict[str, Any], episodes: dict[str, Open], done: list[Trajectory], problems: list[str], path: Path) -> None:
    episode, kind, data = event["episode"], event["kind"], event["data"]
    if kind == "start":
        episodes[episode] = Open(start=data)
        return
    opened = episodes.get(episode)
    if opened is None:
        problems.append(f"{path.name}: event {kind!r} of episode {episode} without its start")
        return
    try:
        match kind:
            case "message":
                opened.messages.append(Message.model_validate(data))
            case "step":
                opened.steps.append(Step.model_validate(data))
            case "reward":
                opened.rewards.append(Reward.model_validate(data))
            case "end" if not opened.broken:
                start = {name: value for name, value in opened.start.items() if name != "sandbox"}
                done.append(
                    Trajectory.model_validate(
                        {
                            "id": episode,
                            **start,
                            **data,
                            "messages": opened.messages,
                            "steps": opened.steps,
                            "rewards": opened.rewards,
                        }
                    )
                )
                del episodes[episode]
            case "end":
                problems.append(f"{path.name}: episode {episode} has a damaged line and counts as unfinished")
            case _:
                problems.append(f"{path.name}: unknown event {kind!r} of episode {episode}")
    except ValidationError as error:
        opened.broken = True
        problems.append(f"{path.name}: episode {episode}: {error.errors()[0]['msg']} at {error.errors()[0]['loc']}")
