"""The starter suite: seeded shell and SQL tasks of many families, some families kept out of training altogether."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Literal

from agentlm_sdk.errors import UserError, closest
from agentlm_sdk.record import canonical_hash
from agentlm_sdk.suites import Draft, Family
from agentlm_sdk.suites.shell_families import SHELL_FAMILIES
from agentlm_sdk.suites.sql_families import SQL_FAMILIES
from agentlm_sdk.tasks import Environment, Script, ShellEnvironment, Split, SqliteEnvironment, Task

FAMILIES: tuple[Family, ...] = (*SHELL_FAMILIES, *SQL_FAMILIES)

DEMO_FAMILIES: tuple[str, ...] = (
    "count_files",
    "count_lines",
    "find_word",
    "make_folder",
    "append_line",
    "copy_file",
    "count_rows",
    "look_up",
    "set_number",
    "delete_rows",
)
"""Ten training families a very small model can learn from about a hundred episodes: one command, copied answers."""

SALT = "starter/243"
"""The first number that holds out a quarter of both kinds and none of the demo's. Fixed for ever: another salt moves families
between train and heldout, and tasks between train and test."""

TEST_SHARE = 4
"""One in this many tasks of a training family is a test task."""

DRAWS = 50
"""Drafts tried for each task asked for, before a family counts as used up."""


def family_split(name: str) -> Literal["train", "heldout"]:
    """Whether a family may be trained on. Depends on nothing but the name."""
    return "heldout" if _hash("family", name) % 4 == 0 else "train"


def generate(
    seed: int,
    *,
    families: Sequence[str] | None = None,
    train_per_family: int,
    test_per_family: int,
    heldout_per_family: int,
) -> list[Task]:
    """Tasks of all families, or of those named, sorted by family as in FAMILIES, then in the order they were drawn.

    The same arguments give the same tasks on every machine and Python version. A larger number adds tasks and keeps the
    others. A task's split follows from its content, so no seed makes a test task of what another seed trains on.
    Raises UserError for an unknown family, and when a family has not that many different tasks.
    """
    wanted: dict[Split, int] = {"train": train_per_family, "test": test_per_family, "heldout": heldout_per_family}
    for split, count in wanted.items():
        if count < 0:
            raise UserError(f"{split}_per_family is {count}; give 0 or more")
    chosen = FAMILIES if families is None else _named(families)
    return [task for family in chosen for task in _draw(family, seed, wanted)]


def _named(names: Sequence[str]) -> list[Family]:
    known = {family.name: family for family in FAMILIES}
    for name in names:
        if name not in known:
            raise UserError(f"the starter suite has no family {name!r}{closest(name, known) or '; known: ' + ', '.join(known)}")
    return [family for family in FAMILIES if family.name in names]


def _draw(family: Family, seed: int, wanted: dict[Split, int]) -> list[Task]:
    splits: tuple[Split, ...] = ("heldout",) if family_split(family.name) == "heldout" else ("train", "test")
    left = {split: wanted[split] for split in splits}
    rng = random.Random(_hash("draw", f"{seed}/{family.name}"))
    tasks: dict[str, Task] = {}
    for _ in range(DRAWS * (sum(left.values()) + 1)):
        if not any(left.values()):
            return list(tasks.values())
        task = _task(family, family.make(rng))
        if task.id not in tasks and left[task.split]:
            tasks[task.id] = task
            left[task.split] -= 1
    raise UserError(f"family {family.name!r} has too few different tasks: {left} are missing; ask for fewer")


def _task(family: Family, draft: Draft) -> Task:
    environment: Environment
    if family.kind == "shell":
        environment = ShellEnvironment(setup=[Script(code=draft.setup)])
    else:
        environment = SqliteEnvironment(script=draft.setup)
    content = canonical_hash([family.name, draft.instruction, draft.setup])
    split: Split = family_split(family.name)
    if split == "train" and _hash("task", content) % TEST_SHARE == 0:
        split = "test"
    return Task(
        id=f"starter/{family.name}/{content[:8]}",
        family=family.name,
        split=split,
        instruction=draft.instruction,
        environment=environment,
        judge=draft.judge,
        reference=list(draft.reference),
        suite="starter",
    )


def _hash(purpose: str, value: str) -> int:
    return int(hashlib.sha256(f"{SALT}/{purpose}/{value}".encode()).hexdigest(), 16)


def choose_families(names: str, *, kind: str = "any") -> list[str]:
    """Families by what a command line says: `all`; `demo` (DEMO_FAMILIES and every held-out family); or names, comma-separated.
    `kind` (any, shell, sqlite) narrows them. Raises UserError for an unknown name, and when nothing is left."""
    match names:
        case "all":
            chosen = list(FAMILIES)
        case "demo":
            chosen = [family for family in FAMILIES if family.name in DEMO_FAMILIES or family_split(family.name) == "heldout"]
        case _:
            chosen = _named([name.strip() for name in names.split(",") if name.strip()])
    found = [family.name for family in chosen if kind in ("any", family.kind)]
    if not found:
        raise UserError(f"no family of kind {kind!r} among {names!r}")
    return found
