"""AgentBench's own files: they import, their reference solutions pass their own judges, and a broken file is named exactly."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlm_sdk.agentbench import import_db, import_os, mysql_to_sqlite
from agentlm_sdk.environments import ShellWorld
from agentlm_sdk.errors import UserError
from agentlm_sdk.judges import judge
from agentlm_sdk.record import Reward
from agentlm_sdk.tasks import (
    AnswerJudge,
    FingerprintJudge,
    ScriptJudge,
    ShellEnvironment,
    SqliteEnvironment,
    Task,
    read_tasks,
    write_tasks,
)
from sandboxes.base import Database, Sandbox, SandboxUnavailable, opened
from sandboxes.docker import DockerShell
from sandboxes.sqlite import SqliteDatabase

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "agentbench"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"AgentBench's files are not at {DATA}")
DB_FILE = DATA / "dbbench" / "dev.jsonl"


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The OS files as AgentBench's repository lays them out."""
    root = tmp_path_factory.mktemp("agentbench")
    source = DATA / "os_interaction"
    for name, text in json.loads((source / "scripts.json").read_text()).items():
        path = root / name if name.startswith("scripts/") else root / "scripts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    shutil.copy(source / "dev.json", root)
    shutil.copy(source / "train" / "training_sample_150.json", root)
    return root


async def replay(task: Task, place: Sandbox | Database) -> tuple[str | None, Reward]:
    """The reference solution, step by step, and what the judge says of it. The place is set up already."""
    answer, output = None, ""
    for step in task.reference:
        arguments = step.action.arguments
        match step.action.name:
            case "bash":
                assert isinstance(place, Sandbox)
                assert isinstance(task.environment, ShellEnvironment)
                done = await place.exec(arguments["script"], cwd=task.environment.cwd)
                output = done.stdout.text().strip()
            case "sql":
                assert isinstance(place, Database)
                result = await place.execute(arguments["query"])
                assert result.error is None, f"{task.id}: {result.error}"
            case "answer":
                answer = arguments["answer"].replace("{output}", output)
    return answer, await judge(task, answer=answer, place=place)


async def replay_db(tasks: Sequence[Task], *, untouched: bool = False) -> list[Task]:
    """The tasks that pass."""
    passed = []
    for task in tasks:
        assert isinstance(task.environment, SqliteEnvironment)
        async with opened(SqliteDatabase()) as database:
            await database.load(task.environment.script)
            reward = await judge(task, answer="done", place=database) if untouched else (await replay(task, database))[1]
        if reward.value == 1.0:
            passed.append(task)
    return passed


async def replay_os(tasks: Sequence[Task], concurrency: int = 4) -> dict[str, str]:
    """Id and reason of each task that does not pass."""
    gate, failed = asyncio.Semaphore(concurrency), dict[str, str]()

    async def one(task: Task) -> None:
        async with gate, opened(DockerShell("os")) as shell:
            await ShellWorld(shell).prepare(task)
            answer, reward = await replay(task, shell)
            if reward.value != 1.0:
                failed[task.id] = f"answer {answer!r}: {reward.detail}"

    await asyncio.gather(*map(one, tasks))
    return failed


# The published files


@needs_data
def test_the_published_files_import_and_survive_being_written(layout: Path, tmp_path: Path) -> None:
    files = [import_os(layout / "dev.json"), import_os(layout / "training_sample_150.json"), import_db(DB_FILE)]
    assert [len(tasks) for tasks in files] == [26, 150, 60]
    tasks = [task for part in files for task in part]
    assert len({task.id for task in tasks}) == 236
    assert all(task.reference and task.split == "test" and task.suite for task in tasks)
    write_tasks(tmp_path / "tasks.jsonl", tasks)
    assert read_tasks(tmp_path / "tasks.jsonl") == tasks


@needs_data
def test_dev_tasks_are_read_as_their_authors_meant(layout: Path) -> None:
    tasks = import_os(layout / "dev.json")
    assert tasks[7].id == "agentbench-os/dev/7"
    assert tasks[0].judge == AnswerJudge(expected=["1"])
    environment = tasks[0].environment
    assert isinstance(environment, ShellEnvironment)
    assert environment.start is not None
    assert environment.start.startswith("python3 -c")
    calc, count = tasks[3].judge, tasks[6].judge
    assert isinstance(calc, ScriptJudge)
    assert isinstance(count, ScriptJudge)
    assert ("15 + (27 * 4)" in calc.scripts[0].code, calc.answer_required) == (True, False)
    assert [script.language for script in count.scripts] == ["bash", "python"]
    assert count.scripts[0].code == 'ls -a /home | grep "^\\." | wc -l'
    assert count.answer_required
    assert tasks[10].environment == ShellEnvironment(setup_may_fail=True)


@needs_data
def test_no_task_shows_its_agent_the_solution(layout: Path) -> None:
    raw = json.loads((layout / "training_sample_150.json").read_text())
    for item, task in zip(raw, import_os(layout / "training_sample_150.json"), strict=True):
        assert task.instruction == item["description"]
    for line, task in zip(DB_FILE.read_text().strip().split("\n"), import_db(DB_FILE), strict=True):
        item = json.loads(line)
        assert task.instruction == f"{item['description']}\n{item['add_description']}"


@needs_data
def test_the_40_reference_changes_of_dbbench_leave_the_published_fingerprint() -> None:
    changes = [task for task in import_db(DB_FILE) if isinstance(task.judge, FingerprintJudge)]
    assert len(changes) == 40
    assert asyncio.run(replay_db(changes)) == changes


@needs_data
def test_the_20_labels_of_dbbench_are_right_answers() -> None:
    questions = [task for task in import_db(DB_FILE) if isinstance(task.judge, AnswerJudge)]
    assert len(questions) == 20
    assert asyncio.run(replay_db(questions)) == questions


@needs_data
def test_doing_nothing_solves_no_dbbench_task() -> None:
    assert asyncio.run(replay_db(import_db(DB_FILE), untouched=True)) == []


@pytest.fixture(scope="module")
def engine() -> None:
    async def probe() -> None:
        async with opened(DockerShell("os")):
            pass

    try:
        asyncio.run(probe())
    except SandboxUnavailable as error:
        pytest.skip(f"no Docker shell can start: {error}")


@needs_data
@pytest.mark.docker
@pytest.mark.usefixtures("engine")
def test_the_reference_solutions_of_the_dev_split_pass(layout: Path) -> None:
    # On most file systems du prints 8.0K, and the published size comparer reads integers only: no answer can pass task 8.
    failed = asyncio.run(replay_os(import_os(layout / "dev.json")))
    assert failed.keys() <= {"agentbench-os/dev/8"}, failed


@needs_data
@pytest.mark.docker
@pytest.mark.usefixtures("engine")
def test_a_program_that_a_task_starts_still_runs_when_the_agent_looks(layout: Path) -> None:
    async def grows() -> bool:
        async with opened(DockerShell("os")) as shell:
            await ShellWorld(shell).prepare(import_os(layout / "dev.json")[0])
            twice = "for i in $(seq 80); do [ $(wc -c < log) -gt 7 ] && exit 0; sleep 0.1; done; exit 1"
            return (await shell.exec(twice, cwd="/root")).exit_code == 0

    assert asyncio.run(grows())


@needs_data
@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.usefixtures("engine")
def test_the_reference_solutions_of_the_training_sample_pass(layout: Path) -> None:
    assert asyncio.run(replay_os(import_os(layout / "training_sample_150.json"))) == {}


# Wrong files

OS_ITEM: dict[str, Any] = {
    "description": "count",
    "create": {"local": "default", "init": ["true", {"code": "print(1)", "language": "python"}]},
    "evaluation": {"check": [None, {"file": "check/same.py", "language": "python"}], "example": "echo 1"},
}


def os_file(folder: Path, *items: object, scripts: str | None = "check/same.py") -> Path:
    file = folder / "mine.json"
    file.write_text(json.dumps(items))
    if scripts:
        path = folder / "scripts" / "mine" / scripts
        path.parent.mkdir(parents=True)
        path.write_text("pass")
    return file


def with_field(item: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A deep copy with one field changed."""
    changed: dict[str, Any] = json.loads(json.dumps(item))
    *parents, last = path.split(".")
    inner = changed
    for name in parents:
        inner = inner[name]
    inner[last] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("descripton", "x", ["task 1", "'descripton'", "did you mean 'description'"]),
        ("description", 3, ["field description", "text is wanted"]),
        ("create.local", "defualt", ["field create.local", "'defualt'"]),
        ("create.inti", "x", ["'inti'", "did you mean 'init'"]),
        ("create.init", [{"cod": "x"}], ["create.init[0]", "did you mean 'code'"]),
        ("create.init", {"code": "x", "language": "c++"}, ["create.init.language", "'c++'", "bash or python"]),
        ("create.init", 3, ["field create.init", "an object is wanted, not int"]),
        ("start", {"code": "x", "language": "python"}, ["field start", "must be bash"]),
        ("evaluation", {}, ["field evaluation", "neither 'match' nor 'check'"]),
        ("evaluation", {"check": []}, ["evaluation.check", "would pass everything"]),
        ("evaluation", {"check": [None]}, ["evaluation.check[0]", "'example' is missing"]),
        ("evaluation", {"match": {"regex": "("}}, ["evaluation.match.regex", "not a regular expression"]),
        ("evaluation", {"match": {}}, ["evaluation.match", "'regex' is missing"]),
        ("labels", "file", ["field labels", "list of texts"]),
    ],
)
def test_a_wrong_os_task_is_named_with_its_field(tmp_path: Path, path: str, value: object, words: list[str]) -> None:
    file = os_file(tmp_path, OS_ITEM, with_field(OS_ITEM, path, value))
    with pytest.raises(UserError) as raised:
        import_os(file)
    for word in [str(file), "task 1", *words]:
        assert word in str(raised.value)


def test_scripts_are_found_beside_the_file_above_it_or_where_told(tmp_path: Path) -> None:
    file = os_file(tmp_path, OS_ITEM)
    deep = tmp_path / "data" / "more"
    deep.mkdir(parents=True)
    shutil.copy(file, deep)
    elsewhere = tmp_path / "elsewhere" / "check"
    elsewhere.mkdir(parents=True)
    (elsewhere / "same.py").write_text("raise SystemExit(0)")
    judges = [import_os(file)[0].judge, import_os(deep / "mine.json")[0].judge, import_os(file, elsewhere.parent)[0].judge]
    codes = [rule.scripts[1].code for rule in judges if isinstance(rule, ScriptJudge)]
    assert codes == ["pass", "pass", "raise SystemExit(0)"]


def test_of_two_folders_with_every_script_the_one_named_like_the_file_is_taken(tmp_path: Path) -> None:
    file = os_file(tmp_path, OS_ITEM)
    other = tmp_path / "scripts" / "dev" / "check" / "same.py"
    other.parent.mkdir(parents=True)
    other.write_text("raise SystemExit(0)")
    rule = import_os(file.rename(tmp_path / "mine_150.json"))[0].judge
    assert isinstance(rule, ScriptJudge)
    assert rule.scripts[1].code == "pass"


def test_a_missing_script_is_named_with_its_path(tmp_path: Path) -> None:
    file = os_file(tmp_path, OS_ITEM, scripts=None)
    with pytest.raises(UserError, match=r"'check/same.py'.*--scripts"):
        import_os(file)
    (tmp_path / "scripts" / "dev").mkdir(parents=True)
    with pytest.raises(UserError, match=r"scripts/dev/check/same\.py.*does not exist"):
        import_os(file)


def test_a_script_outside_its_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "scripts").mkdir()
    item = with_field(OS_ITEM, "evaluation.check", {"file": "../secret"})
    with pytest.raises(UserError, match=r"evaluation\.check\.file.*leaves the script folder"):
        import_os(os_file(tmp_path, item, scripts=None), tmp_path / "scripts")


def test_match_objects(tmp_path: Path) -> None:
    matches = [{"answer": "a.b", "strip": True}, {"answer": "a.b", "strip": False}, {"regex": r"^\d$", "strip": True}]
    items = [with_field(OS_ITEM, "evaluation", {"match": match}) for match in matches]
    judges = [task.judge for task in import_os(os_file(tmp_path, *items, scripts=None))]
    assert judges == [
        AnswerJudge(expected=["a.b"]),
        AnswerJudge(expected=[r"\Aa\.b\Z"], compare="regex"),
        AnswerJudge(expected=[r"^\d$"], compare="regex"),
    ]


@pytest.mark.parametrize("text", ["", "{}", "[]", "[1]", '{"a"'])
def test_a_file_that_is_no_list_of_tasks_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(UserError, match=str(file)):
        import_os(file)


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    for read in (import_os, import_db):
        with pytest.raises(UserError, match=r"cannot read .*nothing"):
            read(tmp_path / "nothing")


DB_ITEM: dict[str, Any] = {
    "description": "change",
    "add_description": "The table is T.",
    "type": ["UPDATE"],
    "label": ["UPDATE `T` SET `a``b` = 'x'"],
    "answer_md5": "[('09aa8fbf72f39362970f95a1276b957c',)]",
    "table": {"table_name": "T", "table_info": {"columns": [{"name": "a`b", "type": "INT"}], "rows": [["1"], [None]]}},
}


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("tabel", {}, ["'tabel'", "did you mean 'table'"]),
        ("type", "UPDATE", ["field type", "list of texts"]),
        ("type", ["INSERT", "UPDATE"], ["field type", "one type"]),
        ("label", [], ["field label"]),
        ("answer_md5", "none", ["field answer_md5", "one MD5"]),
        ("table", [], ["field table", "several tables"]),
        ("table.table_info.rows", [["1", "2"]], ["table.table_info.rows[0]", "1 values"]),
        ("table.table_info.rows", [["\0"]], ["table.table_info", "NUL"]),
        ("table.table_info.columns", [{"nmae": "a"}], ["columns[0]", "did you mean 'name'"]),
    ],
)
def test_a_wrong_db_task_is_named_with_its_field(tmp_path: Path, path: str, value: object, words: list[str]) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text("\n".join(json.dumps(item) for item in (DB_ITEM, with_field(DB_ITEM, path, value))))
    with pytest.raises(UserError) as raised:
        import_db(file)
    for word in [str(file), "task 1", *words]:
        assert word in str(raised.value)


NAME = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8)


@given(NAME.filter(lambda name: not name.lower().startswith("sqlite_")), NAME, st.lists(st.none() | NAME, max_size=4))
def test_a_table_arrives_in_sqlite_as_it_was_written(name: str, column: str, values: list[str | None]) -> None:
    item = with_field(DB_ITEM, "table.table_name", name)
    item["table"]["table_info"] = {"columns": [{"name": column}], "rows": [[value] for value in values]}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.jsonl"
        file.write_text(json.dumps(item, ensure_ascii=False), encoding="utf-8")
        environment = import_db(file)[0].environment
    assert isinstance(environment, SqliteEnvironment)
    database = sqlite3.connect(":memory:")
    database.executescript(environment.script)
    quoted = '"' + name.replace('"', '""') + '"'
    cursor = database.execute(f"SELECT * FROM {quoted}")
    assert [cell for (cell,) in cursor.fetchall()] == values
    assert cursor.description[0][0] == column
    database.close()


@pytest.mark.parametrize(
    ("mysql", "sqlite"),
    [
        ("INSERT INTO `a'b` VALUES ('x')", "INSERT INTO `a'b` VALUES ('x')"),
        (r"SELECT 'it\'s'", "SELECT 'it''s'"),
        ("SELECT 'it''s'", "SELECT 'it''s'"),
        ('SELECT "it\'s ""so"""', "SELECT 'it''s \"so\"'"),
        (r"SELECT 'a\nb\\c\%'", "SELECT 'a\nb\\c\\%'"),
        ("""SELECT '"quoted"', `x"y`""", """SELECT '"quoted"', `x"y`"""),
        ("SELECT 'open", "SELECT 'open"),
    ],
)
def test_mysql_literals_become_sqlite_literals(mysql: str, sqlite: str) -> None:
    assert mysql_to_sqlite(mysql) == sqlite
