"""Was the task solved: four kinds of judge, each a pure comparison behind a few reads of the place the agent worked in.

The judge runs after the agent, in the agent's own sandbox or database. What it reads there is hostile: nothing is
evaluated, sizes are bounded, a database is settled first, so that no temporary table passes for a real one, and a place
the agent broke is a failed task. Only a place that is gone (`SandboxLost`) gives no verdict.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, assert_never

from agentlm_sdk.errors import UserError
from agentlm_sdk.record import Reward
from agentlm_sdk.tasks import AnswerJudge, FingerprintJudge, QueryJudge, Script, ScriptJudge, ShellEnvironment, Task
from sandboxes.base import Cell, Database, ExecResult, Sandbox

MAX_ANSWER = 100_000
"""Bytes of an answer that are judged; Linux allows 131,072 in one argument of a command."""

MAX_LITERAL = 20_000
"""Characters of an answer that are read as a list literal."""

MAX_ROWS = 10_000
"""Rows of a table that are fingerprinted."""

SCRIPT_TIMEOUT = 30.0
"""Seconds each script of a judge may run."""

CLEAN_ENVIRONMENT = (
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "USER=root",
    "LOGNAME=root",
    "LANG=C.UTF-8",
)
"""What a judge's script sees instead of the variables and start-up files an agent may have left."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What a comparison found, with one line that says why."""

    passed: bool
    detail: str


async def judge(task: Task, *, answer: str | None, place: Sandbox | Database) -> Reward:
    """1.0 or 0.0 for the answer and the state the agent left.

    Raises SandboxLost when the place is gone, and UserError when the task's judge cannot work in its environment.
    """
    rule = task.judge
    match rule:
        case AnswerJudge():
            try:
                finding = compare_answer(rule, answer)
            except re.error as error:
                raise UserError(f"task {task.id}, judge.expected: not a regular expression: {error}") from error
        case ScriptJudge():
            if not isinstance(place, Sandbox) or not isinstance(task.environment, ShellEnvironment):
                raise UserError(f"task {task.id}: a script judge needs a shell environment, not {task.environment.kind!r}")
            finding = await _run_scripts(rule, answer, place, cwd=task.environment.cwd)
        case QueryJudge() | FingerprintJudge():
            if not isinstance(place, Database):
                raise UserError(f"task {task.id}: a {rule.kind} judge needs a database, not {task.environment.kind!r}")
            await place.settle()
            finding = await (_run_query(rule, place) if isinstance(rule, QueryJudge) else _run_fingerprint(rule, place))
        case _:
            assert_never(rule)
    return Reward(name="success", value=float(finding.passed), scorer=f"{rule.kind}/1", detail=finding.detail)


def shown(text: str, limit: int = 80) -> str:
    """Quoted for a message: unprintable characters escaped, cut to about `limit` characters."""
    cut = text[:limit]
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)
    return f"'{safe}'" + (f" (+{len(text) - limit} characters)" if len(text) > limit else "")


# Answers


def compare_answer(rule: AnswerJudge, answer: str | None) -> Finding:
    """The answer against the expected values. No answer at all never passes, not even where nothing is expected."""
    if (problem := answer_problem(answer)) or answer is None:
        return Finding(passed=False, detail=problem)
    match rule.compare:
        case "text":
            passed = answer.strip() in {value.strip() for value in rule.expected}
        case "number":
            passed = any(numbers_equal(answer, value) for value in rule.expected)
        case "set":
            passed = listed_values([answer]) == listed_values(rule.expected)
        case "regex":
            passed = any(re.search(pattern, answer) for pattern in rule.expected)
        case "dbbench":
            passed = dbbench_equal(answer, rule.expected)
        case _:
            assert_never(rule.compare)
    expected = rule.expected[0] if len(rule.expected) == 1 else ", ".join(rule.expected)
    return Finding(passed=passed, detail=f"{rule.compare}: expected {shown(expected)}, got {shown(answer)}")


def answer_problem(answer: str | None) -> str:
    """Why an answer cannot be judged, or an empty string."""
    if answer is None:
        return "no answer was handed in"
    if "\0" in answer:
        return f"the answer holds a NUL character: {shown(answer)}"
    size = len(answer.encode("utf-8", "surrogatepass"))
    if size > MAX_ANSWER:
        return f"the answer has {size} bytes, more than {MAX_ANSWER}: {shown(answer)}"
    return ""


NUMBER = re.compile(r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?", re.ASCII)


def number(text: str) -> Decimal | None:
    """The number that a text is, thousands commas and one trailing period allowed; None when it holds anything else."""
    text = text.strip().removesuffix(".")
    if not NUMBER.fullmatch(text) or not re.match(r"[+-]?\.?[0-9]", text):
        return None
    return Decimal(text.replace(",", ""))


def numbers_equal(left: str, right: str) -> bool:
    """Both are numbers and equal: integers exactly, others within one part in 10^9."""
    a, b = number(left), number(right)
    if a is None or b is None:
        return False
    return a == b or (not (_integral(a) and _integral(b)) and math.isclose(a, b, rel_tol=1e-9))


def _integral(value: Decimal) -> bool:
    return value == value.to_integral_value()


def listed_values(texts: Sequence[str]) -> set[str]:
    """The values of texts that separate theirs by commas or line ends."""
    return {part.strip() for text in texts for part in re.split(r"[,\n]", text) if part.strip()}


# DBBench's rule for SELECT answers

NULL = "NULL"
NULL_WORDS = frozenset({"none", "null", "undefined", "nan"})


def dbbench_equal(answer: str, expected: Sequence[str]) -> bool:
    """AgentBench's rule (main branch, 2025): numbers one to one within 0.01, anything else as sets of texts.

    Two departures: a NULL is a NULL and never 0, and an empty text is neither.
    """
    got, want = dbbench_values(answer), [dbbench_value(value) for value in expected]
    got_numbers, want_numbers = _floats(got), _floats(want)
    if got_numbers is None or want_numbers is None:
        return set(got) == set(want)
    if len(got_numbers) != len(want_numbers):
        return False
    return all(abs(a - b) <= 0.01 for a, b in zip(sorted(got_numbers), sorted(want_numbers), strict=True))


def dbbench_values(answer: str) -> list[str]:
    """The values of an answer: one plain value, or a JSON or Python list, also of rows with one column each."""
    answer = answer.strip()
    if not (answer.startswith("[") and answer.endswith("]")):
        return [dbbench_value(answer)]
    items = parse_list(answer)
    if items is None:
        items = [part for part in answer[1:-1].split(",") if part.strip()]
    return [dbbench_value(item) for item in items]


def dbbench_value(value: str) -> str:
    """One value as text that can be compared: without quotes, percent sign and commas; NULL words as one of them."""
    text = value.strip().strip("'\"").strip()
    text = text.removesuffix("%").strip().replace(",", "")
    return NULL if text.lower() in NULL_WORDS else text


def parse_list(text: str) -> list[str] | None:
    """The values of a JSON list or a Python list of literals as texts, or None when it is neither. Nothing is evaluated."""
    if len(text) > MAX_LITERAL:
        return None
    for read in (json.loads, _literal):
        try:
            value = read(text)
            return [_text_of(item) for item in value] if isinstance(value, list) else None
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return None


def _literal(text: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes Python does not know
        return ast.literal_eval(text)


def _text_of(item: Any) -> str:
    return str(item[0] if isinstance(item, tuple | list) and len(item) == 1 else item)


FLOAT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)


def _floats(values: Sequence[str]) -> list[float] | None:
    if not all(FLOAT.fullmatch(value) and math.isfinite(float(value)) for value in values):
        return None
    return [float(value) for value in values]


# Scripts in the agent's container


async def _run_scripts(rule: ScriptJudge, answer: str | None, place: Sandbox, *, cwd: str) -> Finding:
    if (rule.answer_required or answer is not None) and (problem := answer_problem(answer)):
        return Finding(passed=False, detail=problem)
    arguments = [answer or ""]
    for number, script in enumerate(rule.scripts, 1):
        name = f"script {number} of {len(rule.scripts)}"
        result = await place.exec(script_command(script, arguments), cwd=cwd, timeout=SCRIPT_TIMEOUT, max_output=MAX_ANSWER)
        if problem := script_problem(result):
            seen = "; ".join(f"{'answer' if i == 0 else f'script {i} printed'} {shown(text)}" for i, text in enumerate(arguments))
            return Finding(passed=False, detail=f"{name} {problem}; {seen}")
        output = result.stdout.text()
        if number < len(rule.scripts) and (problem := answer_problem(output)):
            return Finding(passed=False, detail=f"{name} printed what cannot be passed on: {problem}")
        arguments.append(output)
    return Finding(passed=True, detail=f"{len(rule.scripts)} scripts passed; answer {shown(arguments[0])}")


def script_command(script: Script, arguments: Sequence[str]) -> list[str]:
    """The argument list that runs a script with no variables and no start-up files of the agent's making.

    An agent that is root can still replace the programs themselves: what must not be forged is judged outside.
    """
    # A surrogate cannot be an argument: it stands for a byte that was no UTF-8.
    passed = [argument.encode("utf-8", "backslashreplace").decode("utf-8") for argument in arguments]
    clean = ["/usr/bin/env", "-i", *CLEAN_ENVIRONMENT]
    if script.language == "python":
        return [*clean, "python3", "-I", "-c", script.code, *passed]
    return [*clean, "/bin/bash", "--noprofile", "--norc", "-c", script.code, "--", *passed]


def script_problem(result: ExecResult) -> str:
    """Why a script's run is not a pass, or an empty string."""
    if result.damaged:
        return "could not run: the sandbox was damaged during the episode"
    if result.timed_out:
        return f"ran longer than {SCRIPT_TIMEOUT:.0f} s"
    if result.exit_code is None:
        return f"was ended by signal {result.signal}"
    if result.exit_code != 0:
        lines = result.stderr.text().strip().splitlines()
        return f"exited with {result.exit_code}" + (f" ({shown(lines[-1])})" if lines else "")
    return ""


# The state of a database


async def _run_query(rule: QueryJudge, place: Database) -> Finding:
    result = await place.execute(rule.query, max_rows=len(rule.rows) + 1)
    if result.timed_out or result.error is not None:
        return Finding(passed=False, detail=f"the judge's query failed: {shown(result.error or 'it ran too long')}")
    return compare_rows(rule.rows, result.rows)


def compare_rows(expected: Sequence[Sequence[Cell]], got: Sequence[Sequence[Cell]]) -> Finding:
    """Equal as multisets of rows: 1 equals 1.0, floats count to 9 digits; NULL, 0 and '' differ, so do 1 and '1'."""
    want, have = Counter(map(_row_key, expected)), Counter(map(_row_key, got))
    if want == have:
        return Finding(passed=True, detail=f"{len(expected)} rows as expected")
    parts = [f"expected {len(expected)} rows, got {len(got)}" + (" or more" if len(got) > len(expected) else "")]
    for word, rows in (("missing", want - have), ("not expected", have - want)):
        if rows:
            parts.append(f"{word} {shown(str(next(iter(rows))))}")
    return Finding(passed=False, detail="; ".join(parts))


def _row_key(row: Sequence[Cell]) -> tuple[Cell, ...]:
    return tuple(float(f"{cell:.9g}") if isinstance(cell, float) else cell for cell in row)


async def _run_fingerprint(rule: FingerprintJudge, place: Database) -> Finding:
    quoted = '"' + rule.table.replace('"', '""') + '"'
    result = await place.execute(f"SELECT * FROM {quoted}", max_rows=MAX_ROWS)
    if result.timed_out or result.error is not None:
        reason = shown(result.error or "it ran too long")
        return Finding(passed=False, detail=f"table {shown(rule.table)} cannot be read: {reason}")
    if result.more_rows:
        return Finding(passed=False, detail=f"table {shown(rule.table)} has more than {MAX_ROWS} rows")
    got = fingerprint(result.rows)
    return Finding(
        passed=got == rule.md5.lower(),
        detail=f"table {shown(rule.table)} with {len(result.rows)} rows: expected {shown(rule.md5)}, got {got}",
    )


def fingerprint(rows: Sequence[Sequence[Cell]]) -> str:
    """AgentBench's digest of a table: the order of rows does not count, and a NULL is left out of its row."""
    digests = sorted(
        _md5(
            b",".join(
                cell if isinstance(cell, bytes) else str(cell).encode("utf-8", "backslashreplace")
                for cell in row
                if cell is not None
            )
        )[:5]
        for row in rows
    )
    return _md5(",".join(digests).encode())


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
