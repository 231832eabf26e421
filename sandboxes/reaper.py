"""The second line of cleaning up: remove the containers of ours whose owner has ended, and no others."""

from __future__ import annotations

from dataclasses import dataclass

from sandboxes import engine


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A container of ours that the engine has."""

    id: str
    run: str
    owner: str
    created: int
    """Seconds since the epoch."""
    state: str
    """The engine's word: created, running, exited, ..."""
    orphaned: bool
    """The owner ran on this host and provably ended."""


def list_sandboxes() -> list[Found]:
    """Every container that carries our labels, oldest first; also those of other processes and other hosts."""
    with engine.engine_errors("listing sandboxes"):
        rows = engine.client().api.containers(all=True, filters={"label": engine.OWNER})
    found = [
        Found(
            id=row["Id"],
            run=row["Labels"].get(engine.RUN, ""),
            owner=row["Labels"][engine.OWNER],
            created=int(row["Created"]),
            state=row["State"],
            orphaned=engine.is_dead(row["Labels"][engine.OWNER]),
        )
        for row in rows
    ]
    return sorted(found, key=lambda one: (one.created, one.id))


def clean() -> list[str]:
    """Remove the sandboxes whose owner provably ended on this host; the ids of what was removed."""
    orphans = [one.id for one in list_sandboxes() if one.orphaned]
    for container in orphans:
        engine.remove(container)
    return orphans
