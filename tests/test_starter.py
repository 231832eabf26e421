"""The starter suite: the same tasks everywhere, splits that never mix, references that solve and judges that can say no."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections import Counter
from contextlib import closing
from random import Random

import pytest
from engine import needs_docker
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlm_sdk.errors import UserError
from agentlm_sdk.judges import compare_answer, compare_rows, judge
from agentlm_sdk.protocols import parse, render
from agentlm_sdk.record import canonical_hash
from agentlm_sdk.suites import NAMES, WORDS, Draft, Family
from agentlm_sdk.suites.shell_families import SHELL_FAMILIES
from agentlm_sdk.suites.sql_families import SQL_FAMILIES
from agentlm_sdk.suites.starter import DEMO_FAMILIES, FAMILIES, family_split, generate
from agentlm_sdk.tasks import AnswerJudge, QueryJudge, ScriptJudge, ShellEnvironment, SqliteEnvironment, Task
from sandboxes.base import Sandbox, opened
from sandboxes.docker import DockerShell

SEEDS = st.integers(0, 2**32)
PLACES = "/srv /opt /home /mnt"
"""Where shell tasks put their folders."""

each_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def some_tasks(seed: int, count: int = 2) -> list[Task]:
    return generate(seed, train_per_family=count, test_per_family=count, heldout_per_family=2 * count)


def drafts(family: Family, count: int = 60) -> list[Draft]:
    rng = Random(11)
    return [family.make(rng) for _ in range(count)]


def content(task: Task) -> str:
    return canonical_hash([task.instruction, task.environment.model_dump()])


# Which tasks there are


def test_a_seed_gives_the_same_tasks_in_every_process_and_python_version() -> None:
    """Each id holds a hash of instruction and set-up. Another number here: runs made before today name tasks that are gone."""
    tasks = generate(1, train_per_family=3, test_per_family=2, heldout_per_family=2)
    assert canonical_hash([[task.id, task.split] for task in tasks])[:16] == "e0b100ca169bd78a"
    assert some_tasks(1) != some_tasks(2)


def test_an_id_names_the_family_and_the_content() -> None:
    for task in some_tasks(3):
        assert re.fullmatch(rf"starter/{task.family}/[0-9a-f]{{8}}", task.id)
        assert task.suite == "starter"


def test_each_family_gives_as_many_tasks_as_asked() -> None:
    counts = Counter((task.family, task.split) for task in generate(5, train_per_family=4, test_per_family=2, heldout_per_family=3))
    for family in FAMILIES:
        if family_split(family.name) == "heldout":
            assert counts.pop((family.name, "heldout")) == 3
        else:
            assert counts.pop((family.name, "train")) == 4
            assert counts.pop((family.name, "test")) == 2
    assert not counts


@settings(max_examples=10, deadline=None)
@given(SEEDS, SEEDS)
def test_no_seed_trains_on_what_another_tests(one: int, other: int) -> None:
    tasks = some_tasks(one) + some_tasks(other)
    by_split: dict[str, set[str]] = {"train": set(), "test": set(), "heldout": set()}
    for task in tasks:
        by_split[task.split].add(content(task))
        assert (task.split == "heldout") == (family_split(task.family) == "heldout")
    assert not by_split["train"] & by_split["test"]


@settings(max_examples=5, deadline=None)
@given(SEEDS)
def test_more_tasks_keep_the_earlier_ones_and_none_comes_twice(seed: int) -> None:
    few, many = some_tasks(seed, 1), some_tasks(seed, 6)
    assert {task.id for task in few} <= {task.id for task in many}
    assert len({content(task) for task in many}) == len({task.id for task in many}) == len(many)


def test_a_quarter_of_the_families_of_both_kinds_is_held_out() -> None:
    held = Counter(family.kind for family in FAMILIES if family_split(family.name) == "heldout")
    assert held["shell"] >= 3
    assert held["sqlite"] >= 2
    assert 0.2 <= held.total() / len(FAMILIES) <= 0.3
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


def test_the_demo_trains_on_shell_and_sql_on_answers_and_changes() -> None:
    tasks = generate(0, families=DEMO_FAMILIES, train_per_family=1, test_per_family=0, heldout_per_family=0)
    assert len(tasks) == len(DEMO_FAMILIES) == 10
    kinds = Counter((task.environment.kind, task.reference[-1].action.name) for task in tasks)
    assert kinds == {("shell", "answer"): 3, ("shell", "finish"): 3, ("sqlite", "answer"): 2, ("sqlite", "finish"): 2}


def test_an_unknown_family_and_an_impossible_number_are_the_users_mistake() -> None:
    with pytest.raises(UserError, match=r"no family 'count_file'; did you mean 'count_files'\?"):
        generate(0, families=["count_file"], train_per_family=1, test_per_family=0, heldout_per_family=0)
    with pytest.raises(UserError, match="test_per_family is -1"):
        generate(0, train_per_family=1, test_per_family=-1, heldout_per_family=0)


# How the tasks read


def test_no_word_is_part_of_another() -> None:
    words = [*WORDS, *NAMES]
    assert len(WORDS) >= 100
    assert [(a, b) for a in words for b in words if a != b and a in b] == []
    assert len(set(words)) == len(words)


@each_family
def test_the_same_job_is_asked_for_in_several_ways(family: Family) -> None:
    patterns = set()
    for draft in drafts(family):
        commands = " ".join(str(step.action.arguments) for step in draft.reference)
        names = set(re.findall(r"[a-z]+|\d+", f"{draft.setup} {commands}"))
        patterns.add(" ".join(word for word in re.findall(r"[A-Za-z]+|\d+", draft.instruction) if word not in names))
    assert len(patterns) >= 4


@each_family
def test_a_reference_is_short_and_can_be_written_as_replies(family: Family) -> None:
    for draft in drafts(family, 20):
        assert len(draft.instruction) <= 160
        assert 2 <= len(draft.reference) <= 4
        assert draft.reference[-1].action.name == ("answer" if isinstance(draft.judge, AnswerJudge) else "finish")
        for step in draft.reference:
            assert 4 <= len(step.thought.split()) <= 10
            assert getattr(parse(render(step.thought, step.action)), "action", None) == step.action


QUESTIONS = [family for family in FAMILIES if isinstance(family.make(Random(0)).judge, AnswerJudge)]


@pytest.mark.parametrize("family", QUESTIONS, ids=lambda family: family.name)
def test_an_answer_is_not_in_the_question_and_not_always_the_same(family: Family) -> None:
    asked = [draft.instruction for draft in drafts(family)]
    answers = [draft.judge.expected[0] for draft in drafts(family) if isinstance(draft.judge, AnswerJudge)]
    assert all(re.search(r"Answer with the [a-z ]+ only\.$", text) for text in asked)
    assert Counter(answers).most_common(1)[0][1] <= len(answers) / 4
    told = sum(answer in re.findall(r"[\w./]*\w", text) for answer, text in zip(answers, asked, strict=True))
    assert told <= len(answers) / 10


# Do the references solve the tasks, in a real place


def sql_passes(task: Task, database: sqlite3.Connection, answer: str | None) -> bool:
    if isinstance(task.judge, AnswerJudge):
        return compare_answer(task.judge, answer).passed
    assert isinstance(task.judge, QueryJudge)
    return compare_rows(task.judge.rows, database.execute(task.judge.query).fetchall()).passed


@pytest.mark.parametrize("family", SQL_FAMILIES, ids=lambda family: family.name)
def test_sql_references_solve_their_tasks_and_harm_is_seen(family: Family) -> None:
    for task in generate(21, families=[family.name], train_per_family=3, test_per_family=2, heldout_per_family=5):
        assert isinstance(task.environment, SqliteEnvironment)
        with closing(sqlite3.connect(":memory:")) as database:
            database.executescript(task.environment.script)
            assert not sql_passes(task, database, None)
            output, answer = "", None
            for step in task.reference:
                match step.action.name:
                    case "sql":
                        rows = database.execute(step.action.arguments["query"]).fetchall()
                        output = "\n".join("|".join(map(str, row)) for row in rows)
                    case "answer":
                        answer = step.action.arguments["answer"].replace("{output}", output)
            assert sql_passes(task, database, answer)
            if isinstance(task.judge, QueryJudge):
                table = task.judge.query.split()[-1]
                database.execute(f"DELETE FROM {table} WHERE rowid = (SELECT MAX(rowid) FROM {table})")
                assert not sql_passes(task, database, answer)


@pytest.mark.docker
@needs_docker
def test_shell_references_solve_their_tasks_and_harm_is_seen() -> None:
    names = [family.name for family in SHELL_FAMILIES]
    shell_tasks = generate(22, families=names, train_per_family=1, test_per_family=1, heldout_per_family=2)

    async def replay_all() -> None:
        async with opened(DockerShell("os")) as shell:
            for task in shell_tasks:
                await replay(task, shell)

    asyncio.run(replay_all())


async def replay(task: Task, shell: Sandbox) -> None:
    assert isinstance(task.environment, ShellEnvironment)
    await shell.exec(f"find {PLACES} -mindepth 1 -delete")
    for script in task.environment.setup:
        assert (await shell.exec(script.code)).exit_code == 0, task.id
    before = await files(shell)
    assert (await judge(task, answer=None, place=shell)).value == 0.0, task.id
    output, answer = "", None
    for step in task.reference:
        match step.action.name:
            case "bash":
                result = await shell.exec(step.action.arguments["script"], cwd=task.environment.cwd)
                assert (result.exit_code, result.stderr.text()) == (0, ""), task.id
                output = result.stdout.text().strip()
            case "answer":
                answer = step.action.arguments["answer"].replace("{output}", output)
    reward = await judge(task, answer=answer, place=shell)
    assert reward.value == 1.0, f"{task.id}: {reward.detail}"
    if isinstance(task.judge, ScriptJudge):
        kept = min(before & await files(shell))
        await shell.exec(f"rm -f {kept}")
        assert (await judge(task, answer=answer, place=shell)).value == 0.0, f"{task.id} does not miss {kept}"


async def files(shell: Sandbox) -> set[str]:
    return set((await shell.exec(f"find {PLACES} -type f")).stdout.text().split())
