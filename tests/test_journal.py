"""The journal: what is written comes back, a crash costs at most the torn line, nothing is lost."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlm_sdk.errors import UserError
from agentlm_sdk.journal import JournalWriter, event_line, latest_attempts, parse_line, read_run, write_atomic
from agentlm_sdk.record import (
    SCHEMA,
    Action,
    EndCause,
    Failure,
    Message,
    Outcome,
    Policy,
    Reward,
    SandboxRef,
    Step,
    TaskRef,
    Usage,
    Verdict,
    pack_ids,
    unpack_ids,
)

TASK = TaskRef(id="t/1", content_hash="ab", family="f", split="train")
SANDBOX = SandboxRef(kind="fake", image="img")
SOLVED = Outcome(verdict=Verdict.SOLVED, ended_by=EndCause.COMPLETED, answer="7")
LOST = Outcome(verdict=Verdict.UNMEASURED, ended_by=EndCause.INFRASTRUCTURE, failure=Failure(boundary="sandbox", error="gone"))


def make_run(tmp_path: Path) -> Path:
    write_atomic(tmp_path / "manifest.json", json.dumps({"tasks": 1, "settings": {}}))
    return tmp_path


def write_episode(journal: JournalWriter, name: str, *, text: str = "hi", end: Outcome | None = SOLVED, attempt: int = 0) -> None:
    journal.start(name, task=TASK, attempt=attempt, rerun=0, policy=Policy(model="m"), sandbox=SANDBOX, started="now")
    journal.message(name, Message(role="assistant", content=text, sampled=True, token_ids=pack_ids([1, 2])))
    journal.step(name, Step(message=0, action=Action(name="bash", arguments={"script": text})))
    journal.reward(name, Reward(name="success", value=1.0, scorer="answer/1"))
    if end:
        journal.end(name, end, Usage(model_calls=1), sandbox=SANDBOX)


@given(st.dictionaries(st.text(), st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5)))
def test_any_event_survives_its_line(data: dict[str, object]) -> None:
    event = {"v": SCHEMA, "episode": "e", "kind": "message", "data": data}
    line = event_line(event)
    assert line.count("\n") == 1
    assert parse_line(line) == {"v": SCHEMA, "episode": "e", "kind": "message", "data": data}


@given(st.text(), st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_a_changed_byte_is_noticed(text: str, where: int, change: int) -> None:
    line = event_line({"v": 1, "episode": "e", "kind": "message", "data": text}).encode()
    place = where % (len(line) - 1)
    damaged = line[:place] + bytes([line[place] ^ change]) + line[place + 1 :]
    assert parse_line(damaged.decode("ascii", "replace")) is None


@given(st.lists(st.integers(min_value=0, max_value=2**32 - 1)))
def test_token_ids_round_trip(ids: list[int]) -> None:
    assert unpack_ids(pack_ids(ids)) == ids


def test_finished_episodes_come_back_whole(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    hostile = 'two\nlines "quoted" \x1b[31m \u202e 漢字 \ud800,"crc":"00000000"}'
    with JournalWriter(run) as journal:
        write_episode(journal, "a", text=hostile)
    contents = read_run(run)
    (trajectory,) = contents.trajectories
    assert trajectory.messages[0].content == hostile
    assert trajectory.steps[0].action == Action(name="bash", arguments={"script": hostile})
    assert trajectory.solved and trajectory.outcome.answer == "7"
    assert contents.problems == [] and contents.incomplete == []


def test_interleaved_episodes_and_two_writers(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with JournalWriter(run) as one, JournalWriter(run) as two:
        one.start("a", task=TASK, attempt=0, rerun=0, policy=Policy(model="m"), sandbox=SANDBOX, started="")
        write_episode(one, "b", attempt=1)
        write_episode(two, "c", attempt=2)
        one.end("a", SOLVED, Usage(), sandbox=SANDBOX)
    assert [t.id for t in read_run(run).trajectories] == ["a", "b", "c"]


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_torn_last_line_costs_that_line_only(tmp_path: Path, cut: int) -> None:
    run = make_run(tmp_path)
    with JournalWriter(run) as journal:
        write_episode(journal, "a")
        write_episode(journal, "b")
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-cut])
    contents = read_run(run)
    assert [t.id for t in contents.trajectories] == ["a"]
    assert contents.incomplete == ["b"]
    assert contents.unfinished_attempts == {("t/1", 0): 1}
    assert len(contents.problems) == 1 and "torn" in contents.problems[0]


def test_damage_in_the_middle_is_reported_not_swallowed(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with JournalWriter(run) as journal:
        write_episode(journal, "a")
        write_episode(journal, "b")
    lines = journal.path.read_text().splitlines(keepends=True)
    lines[1] = lines[1].replace("hi", "ho", 1)
    journal.path.write_text("".join(lines))
    contents = read_run(run)
    name = journal.path.name
    assert contents.problems == [
        f"{name}:2: damaged line dropped",
        f"{name}: episode a has a damaged line and counts as unfinished",
    ]
    assert [t.id for t in contents.trajectories] == ["b"]
    assert contents.incomplete == ["a"], "an episode with a message missing must not be trained on"


def test_an_infrastructure_failure_is_replaced_by_its_rerun(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with JournalWriter(run) as journal:
        write_episode(journal, "a", end=LOST)
        write_episode(journal, "b")
    contents = read_run(run)
    assert len(contents.trajectories) == 2
    assert [t.id for t in latest_attempts(contents.trajectories)] == ["b"]


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run / "events").mkdir()
    (run / "events" / "x.jsonl").write_text(event_line({"v": SCHEMA + 1, "episode": "e", "kind": "start", "data": {}}))
    with pytest.raises(UserError, match=f"schema {SCHEMA + 1} is newer"):
        read_run(run)


def test_what_is_not_a_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a run directory.*rollout"):
        read_run(tmp_path)


def test_ended_episodes_survive_kill_9(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    script = textwrap.dedent(f"""
        import sys, time
        sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
        from pathlib import Path
        from test_journal import JournalWriter, write_episode
        journal = JournalWriter(Path({str(run)!r}))
        write_episode(journal, "a")
        write_episode(journal, "b", end=None)
        print("ready", flush=True)
        time.sleep(60)
    """)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    contents = read_run(run)
    assert [t.id for t in contents.trajectories] == ["a"]
    assert contents.incomplete == ["b"]


def test_the_golden_file_of_schema_1_still_loads() -> None:
    contents = read_run(Path(__file__).parent / "data" / "run-schema-1")
    assert [(t.id, t.solved, t.outcome.ended_by) for t in contents.trajectories] == [
        ("golden-1", True, EndCause.COMPLETED),
        ("golden-2", False, EndCause.INFRASTRUCTURE),
    ]
    assert contents.trajectories[0].messages[0].token_ids == pack_ids([1, 2])
