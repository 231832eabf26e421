"""Many episodes at once into one run directory; what is finished is on disk, what is not is rerun by `resume`."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from agentlm_sdk import __version__
from agentlm_sdk.agent import Agent
from agentlm_sdk.environments import ShellWorld, SqlWorld, World
from agentlm_sdk.errors import InfrastructureError, UserError
from agentlm_sdk.journal import JournalWriter, RunContents, latest_attempts, read_run, utc_now, write_atomic
from agentlm_sdk.policies import ORACLES, OpenPolicy, PolicySpec, opened_policy
from agentlm_sdk.record import MALFORMED, SCHEMA, EndCause, Record, Trajectory, canonical_hash
from agentlm_sdk.tasks import ShellEnvironment, Task, read_tasks, write_tasks

GIVE_UP = 5
"""Infrastructure failures in a row that stop a run: what is broken stays broken."""


class RolloutSettings(Record):
    """How a run is made; kept in its manifest."""

    attempts: int = 1
    concurrency: int = 4
    max_turns: int | None = None
    """Overrides the tasks' own."""
    malformed_budget: int = 3
    time_limit: float = 600.0
    command_seconds: float = 30.0
    observation_chars: int = 1_200
    reruns: int = 1
    """How often an episode that met an infrastructure failure is run again before the run ends."""


class RolloutSummary(BaseModel):
    """What a run came to, over all its episodes, resumed ones included."""

    run: str
    n: int
    """Task attempts that ended, unmeasured ones included."""
    wanted: int
    solved: int
    unmeasured: int
    """Infrastructure failures: in no rate."""
    rate: float | None
    """solved / (n - unmeasured)."""
    ended_by: dict[str, int]
    problems: dict[str, int]
    """Turns with a malformed action, a refusal, a repetition."""
    turns: int
    malformed_rate: float
    seconds: float = 0.0


def make_world(task: Task, settings: RolloutSettings, run: str) -> World:
    """The world of a task, on a fresh sandbox of its kind."""
    if isinstance(task.environment, ShellEnvironment):
        from sandboxes.docker import DockerShell

        shell = DockerShell(task.environment.image, labels={"agentlm.run": run})
        return ShellWorld(shell, command_seconds=settings.command_seconds, observation_chars=settings.observation_chars)
    from sandboxes.sqlite import SqliteDatabase

    return SqlWorld(SqliteDatabase(), statement_seconds=settings.command_seconds, observation_chars=settings.observation_chars)


def new_run(run_dir: Path, tasks: Sequence[Task], policy: PolicySpec, settings: RolloutSettings, argv: Sequence[str] = ()) -> None:
    """Write the manifest and the tasks of a run. Raises UserError when the directory already holds one."""
    if (run_dir / "manifest.json").exists():
        raise UserError(f"{run_dir} already holds a run; go on with it by `agentlm-sdk runs resume {run_dir}` or name another -o")
    run_dir.mkdir(parents=True, exist_ok=True)
    write_tasks(run_dir / "tasks.jsonl", tasks)
    manifest = {
        "schema": SCHEMA,
        "sdk": __version__,
        "python": sys.version.split()[0],
        "created": utc_now(),
        "argv": list(argv),
        "tasks": len(tasks),
        "tasks_hash": canonical_hash(sorted(task.content_hash for task in tasks)),
        "policy": policy.model_dump(mode="json"),
        "settings": settings.model_dump(mode="json"),
    }
    write_atomic(run_dir / "manifest.json", json.dumps(manifest, indent=2) + "\n")


async def rollout(
    run_dir: Path,
    *,
    on_end: Callable[[Trajectory, int, int], None] = lambda trajectory, done, wanted: None,
    tell: Callable[[str], None] = lambda _: None,
    worlds: Callable[[Task, RolloutSettings, str], World] = make_world,
) -> RolloutSummary:
    """Run every task attempt of a run directory that has no measured end yet: all of them the first time, the rest after a crash.
    Containers whose owner is dead are removed first: one that was made but not yet started does not vanish by itself.

    Raises UserError while another process runs the same directory, and
    InfrastructureError after `GIVE_UP` infrastructure failures in a row; everything finished stays on disk.
    """
    began = time.monotonic()
    with _locked(run_dir):
        await _rollout(run_dir, on_end, tell, worlds)
    return summarise(run_dir, seconds=time.monotonic() - began)


async def _rollout(
    run_dir: Path,
    on_end: Callable[[Trajectory, int, int], None],
    tell: Callable[[str], None],
    worlds: Callable[[Task, RolloutSettings, str], World],
) -> None:
    contents = read_run(run_dir)
    settings = RolloutSettings.model_validate(contents.manifest["settings"])
    spec = PolicySpec.model_validate(contents.manifest["policy"])
    tasks = read_tasks(run_dir / "tasks.jsonl")
    wanted = len(tasks) * settings.attempts
    todo = _todo(tasks, settings, contents)
    if spec.name in ORACLES and (silent := [task.id for task, _ in todo if not task.reference]):
        raise UserError(f"the oracle cannot play tasks without a reference solution: {', '.join(silent[:5])}")
    if any(isinstance(task.environment, ShellEnvironment) for task, _ in todo):
        from sandboxes.reaper import clean

        await asyncio.to_thread(clean)
    if todo:
        async with opened_policy(spec, log=run_dir / "logs" / "server.log", tell=tell) as policy:
            with JournalWriter(run_dir) as journal:
                for _ in range(1 + settings.reruns):
                    unfinished, done = contents.unfinished_attempts, wanted - len(todo)
                    await _Crew(run_dir, settings, policy, journal, worlds, on_end, unfinished, done, wanted).run(todo)
                    contents = read_run(run_dir)
                    todo = _todo(tasks, settings, contents)
                    if not todo:
                        break
                    tell(f"{len(todo)} episodes met an infrastructure failure")


@contextmanager
def _locked(run_dir: Path) -> Iterator[None]:
    """One process runs a run directory at a time. Raises UserError while another one does; a dead one holds no lock."""
    with open(run_dir / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{run_dir} is being run by another process; wait for it, or end it first") from error
        yield


def _todo(tasks: Sequence[Task], settings: RolloutSettings, contents: RunContents) -> list[tuple[Task, int]]:
    """Task attempts without a measured end."""
    measured = {(t.task.id, t.attempt) for t in contents.trajectories if t.outcome.failure is None}
    return [(task, attempt) for attempt in range(settings.attempts) for task in tasks if (task.id, attempt) not in measured]


class _Crew:
    """The workers of one call of `rollout`."""

    def __init__(
        self,
        run_dir: Path,
        settings: RolloutSettings,
        policy: OpenPolicy,
        journal: JournalWriter,
        worlds: Callable[[Task, RolloutSettings, str], World],
        on_end: Callable[[Trajectory, int, int], None],
        unfinished: dict[tuple[str, int], int],
        done: int,
        wanted: int,
    ) -> None:
        self.run_dir, self.settings, self.policy, self.journal = run_dir, settings, policy, journal
        self.worlds, self.on_end, self.unfinished = worlds, on_end, unfinished
        self.done, self.wanted, self.failures_running = done, wanted, 0

    async def run(self, todo: Sequence[tuple[Task, int]]) -> None:
        queue = iter(todo)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.settings.concurrency, len(todo))):
                    group.create_task(self._worker(queue))
        except* (InfrastructureError, UserError) as errors:
            raise errors.exceptions[0] from None
        except* OSError as errors:
            raise InfrastructureError(
                f"the run stopped: {errors.exceptions[0]}; go on with `agentlm-sdk runs resume {self.run_dir}`"
            ) from errors

    async def _worker(self, queue: Any) -> None:
        for task, attempt in queue:
            agent = Agent(
                self.policy.for_attempt(task, attempt),
                self.worlds(task, self.settings, self.run_dir.name),
                max_turns=self.settings.max_turns,
                malformed_budget=self.settings.malformed_budget,
                time_limit=self.settings.time_limit,
                policy=self.policy.record,
            )
            rerun = self.unfinished.get((task.id, attempt), 0)
            trajectory = await agent.run(task, journal=self.journal, attempt=attempt, rerun=rerun)
            self.done += 1
            self.on_end(trajectory, self.done, self.wanted)
            failure = trajectory.outcome.failure
            self.failures_running = self.failures_running + 1 if failure else 0
            if failure and self.failures_running >= GIVE_UP:
                raise InfrastructureError(
                    f"{GIVE_UP} episodes in a row failed at the {failure.boundary}: {failure.error}\n"
                    f"finished episodes are kept; mend it and go on with `agentlm-sdk runs resume {self.run_dir}`"
                )


def summarise(run_dir: Path, *, seconds: float = 0.0) -> RolloutSummary:
    """The counts of a run directory."""
    contents = read_run(run_dir)
    settings = RolloutSettings.model_validate(contents.manifest["settings"])
    return summary_of(
        latest_attempts(contents.trajectories),
        run=os.fspath(run_dir),
        wanted=contents.manifest["tasks"] * settings.attempts,
        seconds=seconds,
    )


def summary_of(trajectories: Sequence[Trajectory], *, run: str, wanted: int, seconds: float = 0.0) -> RolloutSummary:
    """The counts of some episodes."""
    unmeasured = sum(trajectory.outcome.failure is not None for trajectory in trajectories)
    solved = sum(trajectory.solved for trajectory in trajectories)
    problems: Counter[str] = Counter(step.problem for trajectory in trajectories for step in trajectory.steps if step.problem)
    turns = sum(len(trajectory.steps) for trajectory in trajectories)
    measured = len(trajectories) - unmeasured
    ended = Counter(trajectory.outcome.ended_by for trajectory in trajectories)
    return RolloutSummary(
        run=run,
        n=len(trajectories),
        wanted=wanted,
        solved=solved,
        unmeasured=unmeasured,
        rate=solved / measured if measured else None,
        ended_by={cause.value: ended.get(cause, 0) for cause in EndCause},
        problems=dict(problems),
        turns=turns,
        malformed_rate=sum(problems[kind] for kind in MALFORMED) / turns if turns else 0.0,
        seconds=round(seconds, 2),
    )
