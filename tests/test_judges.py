"""What counts as solved: answers, rows, fingerprints and check scripts, also when the agent plays foul."""

from __future__ import annotations

import asyncio
import hashlib
import json

import pytest
from engine import needs_docker
from hypothesis import given
from hypothesis import strategies as st

from agentlm_sdk.errors import UserError
from agentlm_sdk.judges import (
    MAX_ANSWER,
    compare_answer,
    compare_rows,
    dbbench_equal,
    fingerprint,
    judge,
    number,
    numbers_equal,
    shown,
)
from agentlm_sdk.record import Reward
from agentlm_sdk.tasks import (
    AnswerJudge,
    FingerprintJudge,
    Judge,
    QueryJudge,
    Script,
    ScriptJudge,
    ShellEnvironment,
    SqliteEnvironment,
    Task,
)
from sandboxes.base import opened
from sandboxes.docker import DockerShell
from sandboxes.sqlite import SqliteDatabase

TABLE = 'CREATE TABLE "Pop ""Idols""" (name TEXT, votes TEXT); INSERT INTO "Pop ""Idols""" VALUES (\'Ann\', \'1\'), (\'Bo\', NULL);'


def task(rule: Judge, *, database: str | None = None) -> Task:
    environment = ShellEnvironment() if database is None else SqliteEnvironment(script=database)
    return Task(id="t", family="f", split="test", instruction="do it", environment=environment, judge=rule)


# Numbers and texts


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        ("20,800", "20800", True),
        ("7.0", "7", True),
        (" 7.\n", "7", True),
        ("+7", "7", True),
        (".5", "0.50", True),
        ("-0", "0", True),
        ("1e3", "1000", True),
        ("0.30000000000000004", "0.3", True),
        ("1,234,567.89", "1234567.89", True),
        ("800", "20800", False),
        ("12345678901", "12345678902", False),
        ("3.33", "3.3333333333", False),
        ("7 files", "7", False),
        ("$7", "7", False),
        ("7%", "7", False),
        ("7..", "7", False),
        ("1,2", "12", False),
        ("1_0", "10", False),
        ("٧", "7", False),
        ("", "0", False),
        (".", "0", False),
        ("e5", "0", False),
        ("nan", "nan", False),
        ("inf", "inf", False),
        ("None", "0", False),
        ("1e9999999", "1e9999999", False),
        ("__import__('os').getpid()", "7", False),
    ],
)
def test_numbers_are_equal_as_numbers_and_nothing_else_is_a_number(left: str, right: str, equal: bool) -> None:
    assert numbers_equal(left, right) is equal
    assert numbers_equal(right, left) is equal


@given(st.integers())
def test_an_integer_equals_itself_with_commas_and_no_other(value: int) -> None:
    assert numbers_equal(f"{value:,}", str(value))
    assert not numbers_equal(str(value + 1), str(value))


@given(st.text())
def test_reading_a_number_never_fails(text: str) -> None:
    value = number(text)
    assert value is None or value == number(str(value)) or "e" in text.lower()


@pytest.mark.parametrize(
    ("compare", "expected", "answer", "passed"),
    [
        ("text", ["/etc/hosts"], " /etc/hosts\n", True),
        ("text", ["7"], "7.0", False),
        ("text", ["a"], "A", False),
        ("text", [""], "", True),
        ("number", ["20800"], "20,800", True),
        ("number", ["0"], "", False),
        ("set", ["a", "b"], "b, a", True),
        ("set", ["a,b"], "b\na\n", True),
        ("set", ["a", "b"], "a", False),
        ("set", ["a"], "a, b", False),
        ("regex", [r"^\d+ files$"], "12 files", True),
        ("regex", [r"^\d+ files$"], "files", False),
        ("dbbench", ["7"], "7.0", True),
    ],
)
def test_answers(compare: str, expected: list[str], answer: str, passed: bool) -> None:
    rule = AnswerJudge.model_validate({"expected": expected, "compare": compare})
    assert compare_answer(rule, answer).passed is passed


@pytest.mark.parametrize("compare", ["text", "number", "set", "regex", "dbbench"])
def test_no_answer_never_passes(compare: str) -> None:
    for expected in ("", "0", "none", "None", ".*"):
        rule = AnswerJudge.model_validate({"expected": [expected], "compare": compare})
        assert not compare_answer(rule, None).passed


def test_an_answer_that_cannot_be_passed_on_fails_and_says_why() -> None:
    rule = AnswerJudge(expected=["a"])
    assert "NUL" in compare_answer(rule, "a\0").detail
    assert str(MAX_ANSWER) in compare_answer(rule, "a" * (MAX_ANSWER + 1)).detail


def test_a_detail_cannot_act_on_a_terminal() -> None:
    detail = compare_answer(AnswerJudge(expected=["a"]), "\x1b[2J\r\u202e\ud800" + "x" * 500).detail
    assert detail.isprintable()
    assert len(detail) < 300
    assert "\\x1b" in detail


@given(st.text())
def test_what_is_shown_is_printable(text: str) -> None:
    assert shown(text).isprintable()


# DBBench's rule


@pytest.mark.parametrize(
    ("answer", "expected", "equal"),
    [
        ('["March 19, 1998"]', ["March 19, 1998"], True),
        ("March 19, 1998", ["March 19, 1998"], True),
        ("['7']", ["7"], True),
        ("7.0", ["7"], True),
        ("[7]", ["7"], True),
        ("7.009", ["7"], True),
        ("7.02", ["7"], False),
        ("99.8%", ["99.8"], True),
        ("518,384", ["518384"], True),
        ("[(293.0,)]", ["293"], True),
        ("[('a',), ('b',)]", ["b", "a"], True),
        ('["a", "b", "a"]', ["a", "b"], True),
        ('["1", "2"]', ["2.0", "1.0"], True),
        ('["1", "1", "2"]', ["1", "2"], False),
        ('["1", "1"]', ["1", "2"], False),
        ("[Harris, Boonah]", ["Boonah", "Harris"], True),
        ('"Giza"', ["Giza"], True),
        ("giza", ["Giza"], False),
        # NULL is not 0, and nothing is neither
        ("none", ["none"], True),
        ("NULL", ["none"], True),
        ("[null]", ["none"], True),
        ("[(None,)]", ["none"], True),
        ("0", ["none"], False),
        ("none", ["0"], False),
        ("null", ["0"], False),
        ("", ["0"], False),
        ("", ["none"], False),
        ("[]", ["none"], False),
        ("[]", ["0"], False),
        ("nan", ["0"], False),
        ("inf", ["0"], False),
        ("1_0", ["10"], False),
    ],
)
def test_dbbench_compares_as_published_but_keeps_null_apart(answer: str, expected: list[str], equal: bool) -> None:
    assert dbbench_equal(answer, expected) is equal


@pytest.mark.parametrize(
    "answer",
    [
        "[__import__('os').system('touch /tmp/pwned')]",
        "[" * 9_000 + "]" * 9_000,
        "[" + "-" * 19_000 + "1]",
        "[" + "1+" * 9_000 + "1j]",
        "[" + "9" * 19_000 + "]",
        "[0x" + "f" * 19_000 + "]",
        "[" + "a," * 30_000 + "]",
        "['\\N{no such}', '\\x']",
        "[1e999, -Infinity, NaN]",
        "[{'a': [1, 2]}, {1, 2}, b'x', ...]",
        "[\ud800]",
    ],
)
def test_a_hostile_list_is_only_a_wrong_answer(answer: str) -> None:
    assert not dbbench_equal(answer, ["7"])


@given(st.lists(st.text(), min_size=1))
def test_a_list_handed_in_as_json_is_right(values: list[str]) -> None:
    for ascii_only in (True, False):
        assert dbbench_equal(json.dumps(values, ensure_ascii=ascii_only), values)


# Rows and fingerprints


@pytest.mark.parametrize(
    ("expected", "got", "passed"),
    [
        ([[1, "a"], [2, None]], [(2, None), (1, "a")], True),
        ([[1]], [(1.0,)], True),
        ([[0.1 + 0.2]], [(0.3,)], True),
        ([], [], True),
        ([[0]], [(None,)], False),
        ([[None]], [("",)], False),
        ([[1]], [("1",)], False),
        ([[1], [1]], [(1,)], False),
        ([[1]], [(1,), (1,)], False),
        ([["a"]], [(b"a",)], False),
        ([[1, 2]], [(1,)], False),
    ],
)
def test_rows_are_compared_without_order_and_null_is_not_zero(
    expected: list[list[int | float | str | None]], got: list[tuple[int | float | str | bytes | None, ...]], passed: bool
) -> None:
    assert compare_rows(expected, got).passed is passed


ROWS = st.lists(st.lists(st.none() | st.text(max_size=5), min_size=2, max_size=2), max_size=5)


@given(ROWS, st.randoms())
def test_a_fingerprint_ignores_the_order_of_rows(rows: list[list[str | None]], random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert fingerprint(rows) == fingerprint(shuffled)


def test_a_fingerprint_is_the_published_recipe() -> None:
    def md5(text: str) -> str:
        return hashlib.md5(text.encode()).hexdigest()

    digests = sorted([md5("Ann,1")[:5], md5("Bo")[:5]])
    assert fingerprint([["Ann", "1"], ["Bo", None]]) == md5(",".join(digests))


def judged_in_sqlite(rule: Judge, *statements: str, answer: str | None = None) -> Reward:
    async def run() -> Reward:
        async with opened(SqliteDatabase()) as database:
            await database.load(TABLE)
            for statement in statements:
                assert (await database.execute(statement)).error is None
            return await judge(task(rule, database=TABLE), answer=answer, place=database)

    return asyncio.run(run())


PRINTED = FingerprintJudge(table='Pop "Idols"', md5=fingerprint([["Ann", "1"], ["Bo", "2"]]))


def test_a_table_is_judged_by_what_it_holds() -> None:
    change = """UPDATE "Pop ""Idols\""" SET votes = 2 WHERE name = 'Bo'"""
    assert judged_in_sqlite(PRINTED, change).value == 1.0
    assert judged_in_sqlite(PRINTED).value == 0.0
    assert judged_in_sqlite(PRINTED, change).scorer == "fingerprint/1"


def test_a_dropped_table_is_a_failed_task() -> None:
    reward = judged_in_sqlite(PRINTED, 'DROP TABLE "Pop ""Idols"""')
    assert reward.value == 0.0
    assert "no such table" in reward.detail


def test_a_query_judge_reads_the_final_state() -> None:
    rule = QueryJudge(query='SELECT name, votes FROM "Pop ""Idols"""', rows=[["Bo", None], ["Ann", "1"]])
    assert judged_in_sqlite(rule).value == 1.0
    failed = judged_in_sqlite(rule, 'INSERT INTO "Pop ""Idols""" VALUES (\'Cy\', \'3\')')
    assert (failed.value, failed.scorer) == (0.0, "query/1")
    assert judged_in_sqlite(rule, 'DROP TABLE "Pop ""Idols"""').value == 0.0


IDOLS = '"Pop ""Idols"""'
RIGHT = "SELECT 'Ann' AS name, '1' AS votes UNION ALL SELECT 'Bo', '2'"
FORGED = {
    "temporary table": [f"CREATE TEMP TABLE {IDOLS} AS {RIGHT}"],
    "temporary view": [f"CREATE TEMP VIEW {IDOLS} AS {RIGHT}"],
    "view with a trigger": [
        f"CREATE TEMP VIEW {IDOLS} AS {RIGHT}",
        f"CREATE TEMP TRIGGER keep INSTEAD OF DELETE ON {IDOLS} BEGIN SELECT 1; END",
    ],
    "search index": [
        f"CREATE VIRTUAL TABLE temp.{IDOLS} USING fts5(name, votes)",
        f"INSERT INTO {IDOLS} {RIGHT}",
    ],
    "inside a transaction": ["BEGIN", f"CREATE TEMP TABLE {IDOLS} AS {RIGHT}"],
}


@pytest.mark.parametrize("name", FORGED)
def test_what_a_connection_lays_over_a_table_is_not_judged(name: str) -> None:
    rows = QueryJudge(query=f"SELECT name, votes FROM {IDOLS}", rows=[["Ann", "1"], ["Bo", "2"]])
    for rule in (PRINTED, rows):
        assert judged_in_sqlite(rule, *FORGED[name]).value == 0.0
        solved = judged_in_sqlite(rule, f"UPDATE {IDOLS} SET votes = 2 WHERE name = 'Bo'", *FORGED[name])
        assert solved.value == 1.0, solved.detail


def test_a_setting_of_the_connection_does_not_change_the_judges_query() -> None:
    rule = QueryJudge(query=f"SELECT name FROM {IDOLS} WHERE name LIKE 'ANN'", rows=[])
    assert judged_in_sqlite(rule, "PRAGMA case_sensitive_like = ON").value == 0.0


def test_an_open_transaction_counts() -> None:
    assert judged_in_sqlite(PRINTED, "BEGIN", f"UPDATE {IDOLS} SET votes = 2 WHERE name = 'Bo'").value == 1.0


def test_a_transaction_that_cannot_be_committed_does_not() -> None:
    broken = [
        "CREATE TABLE child (a REFERENCES parent DEFERRABLE INITIALLY DEFERRED)",
        "CREATE TABLE parent (a INTEGER PRIMARY KEY)",
    ]
    change = f"UPDATE {IDOLS} SET votes = 2 WHERE name = 'Bo'"
    foul = [*broken, "PRAGMA foreign_keys = ON", "BEGIN", "INSERT INTO child VALUES (7)", change]
    reward = judged_in_sqlite(PRINTED, *foul)
    assert reward.value == 0.0 and "with 2 rows" in reward.detail


def test_a_judge_that_cannot_work_in_its_environment_is_the_authors_mistake() -> None:
    with pytest.raises(UserError, match="needs a shell"):
        judged_in_sqlite(ScriptJudge(scripts=[Script(code="exit 0")]))
    with pytest.raises(UserError, match="not a regular expression"):
        judged_in_sqlite(AnswerJudge(expected=["("], compare="regex"), answer="x")


# Scripts, in a real container


def judged_in_docker(rule: ScriptJudge, before: str = "true", answer: str | None = None) -> Reward:
    async def run() -> Reward:
        async with opened(DockerShell("os")) as shell:
            await shell.exec(before, cwd="/root")
            return await judge(task(rule), answer=answer, place=shell)

    return asyncio.run(run())


INTEGER_MATCH = Script(code="import sys\nsys.exit(int(sys.argv[1]) != int(sys.argv[2]))", language="python")
COUNT = Script(code="ls ~/box | wc -l")


@pytest.mark.docker
@needs_docker
def test_scripts_get_the_answer_and_what_the_scripts_before_printed() -> None:
    rule = ScriptJudge(scripts=[COUNT, INTEGER_MATCH], answer_required=True)
    make = "mkdir box; touch box/a box/b"
    assert judged_in_docker(rule, make, " 2 ").value == 1.0
    wrong = judged_in_docker(rule, make, "3")
    assert wrong.value == 0.0
    assert "'3'" in wrong.detail
    assert r"'2\n'" in wrong.detail
    assert judged_in_docker(rule, make, None).detail == "no answer was handed in"


@pytest.mark.docker
@needs_docker
def test_a_script_that_inspects_the_state_needs_no_answer() -> None:
    rule = ScriptJudge(scripts=[Script(code="echo judging; [ -f ~/done ] && [ $# = 1 ]")])
    assert judged_in_docker(rule, "touch done").value == 1.0
    assert judged_in_docker(rule).value == 0.0


@pytest.mark.docker
@needs_docker
def test_what_an_agent_leaves_in_start_up_files_does_not_reach_the_judge() -> None:
    rules = [
        ScriptJudge(scripts=[Script(code="false")]),
        ScriptJudge(scripts=[Script(code="import json; raise SystemExit(1)", language="python")]),
    ]
    foul = (
        "for f in .bashrc .profile .bash_profile .bash_login; do echo 'exit 0' > ~/$f; done; "
        "echo BASH_ENV=$HOME/.bashrc >> /etc/environment; echo 'exit 0' > /etc/profile; echo 'exit 0' > /etc/bash.bashrc; "
        "export BASH_ENV=~/.bashrc; echo 'raise SystemExit(0)' > ~/json.py"
    )
    for rule in rules:
        assert judged_in_docker(rule, foul).value == 0.0


@pytest.mark.docker
@needs_docker
def test_a_wrecked_machine_is_a_failed_task() -> None:
    rule = ScriptJudge(scripts=[Script(code="exit 0")])
    for foul in ("rm -f /bin/bash /usr/bin/bash", "rm -rf --no-preserve-root / 2>/dev/null"):
        reward = judged_in_docker(rule, foul)
        assert reward.value == 0.0
        assert reward.detail


@pytest.mark.docker
@needs_docker
@pytest.mark.parametrize("answer", ["\ud800", "$(touch ~/done)", "'; touch ~/done; '", "x" * MAX_ANSWER])
def test_an_answer_is_only_ever_an_argument(answer: str) -> None:
    rule = ScriptJudge(scripts=[Script(code='[ ! -e ~/done ] && [ -n "$1" ]')])
    assert judged_in_docker(rule, answer=answer).value == 1.0
