"""AgentBench's public OS and DBBench task files as our tasks; nothing that judges a task reaches its instruction."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agentlm_sdk.errors import UserError, closest
from agentlm_sdk.record import Action
from agentlm_sdk.tasks import (
    AnswerJudge,
    FingerprintJudge,
    Judge,
    ReferenceStep,
    Script,
    ScriptJudge,
    ShellEnvironment,
    SqliteEnvironment,
    Task,
)

OS_TURNS, DB_TURNS = 8, 15
"""AgentBench's limits."""

OS_IMAGES = ("default", "packages", "ubuntu")
"""The images its OS tasks name. The published harness runs all of them in `default`, and we in `os`."""

OS_FIELDS = ("description", "explanation", "create", "start", "evaluation", "labels", "example")
DB_FIELDS = (
    *("description", "add_description", "type", "table", "label", "answer_md5"),
    *("sql", "create", "evaluation", "example", "heads", "source"),
)
CHANGES = ("INSERT", "UPDATE", "DELETE")
"""The types that are judged by the table they leave; all others by their answer."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in a task file a value stands."""

    file: Path
    index: int
    field: str = ""

    def at(self, name: str) -> _Place:
        return replace(self, field=f"{self.field}.{name}" if self.field else name)

    def error(self, problem: str) -> UserError:
        field = f", field {self.field}" if self.field else ""
        return UserError(f"{self.file}, task {self.index}{field}: {problem}")


def import_os(file: Path, scripts: Path | None = None) -> list[Task]:
    """The tasks of an OS interaction file (a JSON list).

    Scripts that the file names are read from `scripts`, or else from the folder under a `scripts` beside or above the
    file that has all of them. As in the published harness, a set-up script that fails does not stop a task. Raises
    UserError naming task and field.
    """
    items = _json(file, _read(file))
    if not isinstance(items, list) or not items:
        raise UserError(f"{file}: not an AgentBench OS file: a JSON list of tasks is wanted")
    places = [_Place(file, index) for index in range(len(items))]
    named = [name for item, place in zip(items, places, strict=True) for name in _script_files(item, place)]
    folder = _script_folder(file, scripts, named)
    return [_os_task(item, place, folder) for item, place in zip(items, places, strict=True)]


def import_db(file: Path) -> list[Task]:
    """The tasks of a DBBench file (one JSON object a line), each with its table in SQLite, every column TEXT.

    Raises UserError naming task and field.
    """
    lines = [line for line in _read(file).split("\n") if line.strip()]
    if not lines:
        raise UserError(f"{file} holds no task")
    return [_db_task(_json(file, line, index), _Place(file, index)) for index, line in enumerate(lines)]


# OS interaction


def _os_task(item: Any, place: _Place, folder: Path) -> Task:
    fields = _mapping(item, place, OS_FIELDS)
    evaluation = _mapping(_need(fields, "evaluation", place), place.at("evaluation"), ("match", "check", "example"))
    judge, reference = _os_judge(evaluation, place.at("evaluation"), folder)
    create = _create(fields, place)
    setup = [_script(entry, at, folder) for entry, at in _entries(create.get("init"), place.at("create.init"))]
    return Task(
        id=f"agentbench-os/{place.file.stem}/{place.index}",
        family="agentbench-os",
        split="test",
        suite="agentbench-os",
        instruction=_text(_need(fields, "description", place), place.at("description")),
        environment=ShellEnvironment(setup=setup, setup_may_fail=True, start=_start(fields, place, folder)),
        judge=judge,
        reference=reference,
        max_turns=OS_TURNS,
        labels=_texts(fields.get("labels", []), place.at("labels")),
    )


def _create(fields: Mapping[str, Any], place: _Place) -> Mapping[str, Any]:
    """The `create` object; the published file has one that is a list by mistake, which counts as absent."""
    if not isinstance(fields.get("create"), dict):
        return {}
    create = _mapping(fields["create"], place.at("create"), ("local", "init"))
    image = create.get("local", "default")
    if image not in OS_IMAGES:
        raise place.at("create.local").error(f"unknown image {image!r}; AgentBench has {', '.join(OS_IMAGES)}")
    return create


def _start(fields: Mapping[str, Any], place: _Place, folder: Path) -> str | None:
    if fields.get("start") is None:
        return None
    script = _script(fields["start"], place.at("start"), folder)
    if script.language != "bash":
        raise place.at("start").error("the agent's shell runs it, so it must be bash")
    return script.code


def _os_judge(evaluation: Mapping[str, Any], place: _Place, folder: Path) -> tuple[Judge, list[ReferenceStep]]:
    if "match" in evaluation:
        return _match(evaluation["match"], place.at("match"))
    if "check" not in evaluation:
        raise place.error("neither 'match' nor 'check' is there, so nothing judges this task")
    example = None
    if evaluation.get("example") is not None:
        example = _script(evaluation["example"], place.at("example"), folder)
    checks = _entries([None] if evaluation["check"] is None else evaluation["check"], place.at("check"))
    if not checks:
        raise place.at("check").error("an empty list would pass everything")
    scripts = []
    for entry, at in checks:
        if entry is None and example is None:
            raise at.error("null stands for the example script, and 'example' is missing")
        scripts.append(example if entry is None and example else _script(entry, at, folder))
    compares = any(entry is None for entry, _ in checks)
    reference = [_bash(example), _answer("{output}")] if example else []
    return ScriptJudge(scripts=scripts, answer_required=compares), reference


def _match(match: Any, place: _Place) -> tuple[Judge, list[ReferenceStep]]:
    if isinstance(match, str):
        return AnswerJudge(expected=[match]), [_answer(match)]
    fields = _mapping(match, place, ("answer", "regex", "strip"))
    if "answer" in fields:
        answer = _text(fields["answer"], place.at("answer"))
        if fields.get("strip", True):
            return AnswerJudge(expected=[answer]), [_answer(answer)]
        return AnswerJudge(expected=[rf"\A{re.escape(answer)}\Z"], compare="regex"), [_answer(answer)]
    pattern = _text(_need(fields, "regex", place), place.at("regex"))
    try:
        re.compile(pattern)
    except re.error as error:
        raise place.at("regex").error(f"not a regular expression: {error}") from error
    return AnswerJudge(expected=[pattern], compare="regex"), []


def _bash(script: Script) -> ReferenceStep:
    code = script.code if script.language == "bash" else f"python3 -c {shlex.quote(script.code)}"
    return ReferenceStep(action=Action(name="bash", arguments={"script": code}))


def _answer(text: str) -> ReferenceStep:
    return ReferenceStep(action=Action(name="answer", arguments={"answer": text}))


# Scripts


def _script(entry: Any, place: _Place, folder: Path) -> Script:
    if isinstance(entry, str):
        return Script(code=entry)
    fields = _mapping(entry, place, ("code", "file", "language"))
    language = fields.get("language", "bash")
    if language not in ("bash", "python"):
        raise place.at("language").error(f"{language!r} is not supported; a script is bash or python")
    if "file" in fields:
        path = _inside(folder, _text(fields["file"], place.at("file")), place.at("file"))
        return Script(code=_read(path, place.at("file")), language=language)
    return Script(code=_text(_need(fields, "code", place), place.at("code")), language=language)


def _entries(value: Any, place: _Place) -> list[tuple[Any, _Place]]:
    """A value that may be absent, one script, or a list of scripts."""
    if isinstance(value, list):
        return [(entry, replace(place, field=f"{place.field}[{i}]")) for i, entry in enumerate(value)]
    return [] if value is None else [(value, place)]


def _script_files(item: Any, place: _Place) -> list[str]:
    """The script files a task names, in every field that is used."""
    fields = _mapping(item, place, OS_FIELDS)
    evaluation = fields.get("evaluation")
    values = [_create(fields, place).get("init"), fields.get("start")]
    if isinstance(evaluation, dict):
        values += [evaluation.get("check"), evaluation.get("example")]
    entries = [entry for value in values for entry, _ in _entries(value, place)]
    return [entry["file"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("file"), str)]


def _script_folder(file: Path, scripts: Path | None, named: Iterable[str]) -> Path:
    """The folder that has every script named; where none has, the error names a script missing from the likeliest."""
    wanted = sorted(set(named))
    if scripts is not None:
        candidates = [scripts]
    else:
        roots = [parent / "scripts" for parent in file.resolve().parents[:3]]
        folders = [folder for root in roots if root.is_dir() for folder in (*sorted(root.iterdir()), root)]
        likely = (file.stem, file.resolve().parent.name)
        candidates = sorted(folders, key=lambda folder: not any(name.startswith(folder.name) for name in likely))
    for folder in candidates:
        if all((folder / name).is_file() for name in wanted):
            return folder
    if not wanted:
        return file.parent
    if not candidates:
        raise UserError(f"{file} names the script {wanted[0]!r}, and no folder 'scripts' is beside or above it; give --scripts")
    best = max(candidates, key=lambda folder: sum((folder / name).is_file() for name in wanted))
    missing = next(name for name in wanted if not (best / name).is_file())
    raise UserError(f"the script {best / missing}, named in {file}, does not exist; give the right folder with --scripts")


def _inside(folder: Path, name: str, place: _Place) -> Path:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise place.error(f"{name!r} leaves the script folder {folder}")
    return path


# DBBench


def _db_task(item: Any, place: _Place) -> Task:
    fields = _mapping(item, place, DB_FIELDS)
    types = _texts(_need(fields, "type", place), place.at("type"))
    if len(types) != 1:
        raise place.at("type").error(f"a list of one type is wanted, not {types}")
    table, script = _table(_need(fields, "table", place), place.at("table"))
    instruction = _text(_need(fields, "description", place), place.at("description"))
    if added := _text(fields.get("add_description", ""), place.at("add_description")):
        instruction += f"\n{added}"
    label = _need(fields, "label", place)
    if not isinstance(label, list) or not label:
        raise place.at("label").error("a list of at least one value is wanted")
    values = [str(value) for value in label]
    judge: Judge
    if types[0] in CHANGES:
        judge = FingerprintJudge(table=table, md5=_md5(_need(fields, "answer_md5", place), place.at("answer_md5")))
        change = Action(name="sql", arguments={"query": mysql_to_sqlite(values[0])})
        reference = [ReferenceStep(action=change), ReferenceStep(action=Action(name="finish"))]
    else:
        judge = AnswerJudge(expected=values, compare="dbbench")
        reference = [_answer(json.dumps(values, ensure_ascii=False))]
    return Task(
        id=f"agentbench-db/{place.file.stem}/{place.index}",
        family=f"agentbench-db-{types[0]}",
        split="test",
        suite="agentbench-db",
        instruction=instruction,
        environment=SqliteEnvironment(script=script),
        judge=judge,
        reference=reference,
        max_turns=DB_TURNS,
        labels=types,
    )


def _table(value: Any, place: _Place) -> tuple[str, str]:
    """The name of a table and the statements that make and fill it."""
    if isinstance(value, list):
        raise place.error("tasks over several tables are not supported")
    fields = _mapping(value, place, ("table_name", "table_info"))
    name = _text(_need(fields, "table_name", place), place.at("table_name"))
    place = place.at("table_info")
    info = _mapping(_need(fields, "table_info", place), place, ("columns", "rows"))
    columns, rows = _need(info, "columns", place), _need(info, "rows", place)
    if not isinstance(columns, list) or not columns or not isinstance(rows, list):
        raise place.error("lists of columns (at least one) and rows are wanted")
    names = []
    for i, column in enumerate(columns):
        at = place.at(f"columns[{i}]")
        names.append(_text(_need(_mapping(column, at, ("name", "type")), "name", at), at.at("name")))
    for i, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(names):
            raise place.at(f"rows[{i}]").error(f"a list of {len(names)} values is wanted, one for each column")
    script = f"CREATE TABLE {_identifier(name)} ({', '.join(f'{_identifier(column)} TEXT' for column in names)});\n"
    if rows:
        filled = ",\n".join(f"({', '.join(map(_literal, row))})" for row in rows)
        script += f"INSERT INTO {_identifier(name)} VALUES\n{filled};\n"
    if "\0" in script:
        raise place.error("a NUL character cannot be loaded into SQLite")
    return name, script


def _md5(value: Any, place: _Place) -> str:
    """The digest inside a printed MySQL row, `[('<hex>',)]`."""
    found = re.findall(r"\b[0-9a-f]{32}\b", _text(value, place))
    if len(found) != 1:
        raise place.error(f"one MD5 digest is wanted, not {value!r}")
    return str(found[0])


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(value: Any) -> str:
    return "NULL" if value is None else "'" + str(value).replace("'", "''") + "'"


QUOTED = re.compile(r"""`(?:[^`]|``)*`|'(?:[^'\\]|''|\\.)*'|"(?:[^"\\]|""|\\.)*\"""", re.DOTALL)
MYSQL_ESCAPES = {"0": "\0", "b": "\b", "n": "\n", "r": "\r", "t": "\t", "Z": "\x1a", "%": "\\%", "_": "\\_"}


def mysql_to_sqlite(statement: str) -> str:
    """A MySQL statement with its text literals (either quote, backslash escapes) as SQLite writes them."""

    def literal(match: re.Match[str]) -> str:
        quoted = match.group()
        if quoted[0] == "`":
            return quoted
        text = quoted[1:-1].replace(quoted[0] * 2, quoted[0])
        return _literal(re.sub(r"\\(.)", lambda escape: MYSQL_ESCAPES.get(escape[1], escape[1]), text, flags=re.DOTALL))

    return QUOTED.sub(literal, statement)


# Values


def _read(file: Path, place: _Place | None = None) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        problem = f"cannot read {file}: {error.strerror}"
        raise (place.error(problem) if place else UserError(problem)) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text: {error}") from error


def _json(file: Path, text: str, index: int | None = None) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        where = f"{file}" if index is None else f"{file}, task {index}"
        raise UserError(f"{where}: not JSON: {error}") from error


def _mapping(value: Any, place: _Place, known: Iterable[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise place.error(f"an object is wanted, not {type(value).__name__}")
    for name in value:
        if name not in known:
            raise place.error(f"unknown field {name!r}{closest(name, known)}")
    return value


def _need(fields: Mapping[str, Any], name: str, place: _Place) -> Any:
    if name not in fields:
        raise place.error(f"field {name!r} is missing")
    return fields[name]


def _text(value: Any, place: _Place) -> str:
    if not isinstance(value, str):
        raise place.error(f"text is wanted, not {type(value).__name__}")
    return value


def _texts(value: Any, place: _Place) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise place.error("a list of texts is wanted")
    return value
