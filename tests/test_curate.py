"""Which episodes and turns are learned from: every episode is kept or dropped by a named rule, and no test episode gets in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentlm_sdk.errors import UserError
from agentlm_sdk.journal import JournalWriter
from agentlm_sdk.record import (
    Action,
    EndCause,
    Failure,
    Message,
    Outcome,
    Policy,
    SandboxRef,
    Step,
    TaskRef,
    Trajectory,
    Usage,
    Verdict,
)
from trainers.curate import curate, flagged, read_curated, select

SOLVED = Outcome(verdict=Verdict.SOLVED, ended_by=EndCause.COMPLETED)
MESSAGES = [
    Message(role="system", content="rules"),
    Message(role="user", content="example"),
    Message(role="assistant", content="worked example"),
    Message(role="user", content="count"),
    Message(role="assistant", content="oops", sampled=True),
    Message(role="user", content="malformed"),
    Message(role="assistant", content="Act: finish", sampled=True),
]


def episode(id: str, *, answer: str = "1", task: str = "t1", split: str = "train", **changes: Any) -> Trajectory:
    fields: dict[str, Any] = {
        "id": id,
        "task": TaskRef(id=task, content_hash=f"hash of {task}", family="files", split=split, suite="demo"),
        "policy": Policy(model="oracle"),
        "sandbox": SandboxRef(kind="shell"),
        "messages": MESSAGES,
        "steps": [
            Step(message=4, problem="invalid_format"),
            Step(message=6, action=Action(name="answer", arguments={"answer": answer})),
        ],
        "outcome": SOLVED,
    }
    return Trajectory.model_validate(fields | changes)


def write_run(run: Path, *episodes: Trajectory, unfinished: bool = False) -> Path:
    run.mkdir(parents=True)
    (run / "manifest.json").write_text("{}")
    with JournalWriter(run) as journal:
        for e in episodes:
            about: dict[str, Any] = {
                "task": e.task,
                "attempt": 0,
                "rerun": 0,
                "policy": e.policy,
                "sandbox": e.sandbox,
                "started": "",
            }
            journal.start(e.id, **about)
            for message in e.messages:
                journal.message(e.id, message)
            for step in e.steps:
                journal.step(e.id, step)
            journal.end(e.id, e.outcome, Usage(), sandbox=e.sandbox)
        if unfinished:
            journal.start("torn", **about)
    return run


FAILED = Outcome(verdict=Verdict.FAILED, ended_by=EndCause.TURN_LIMIT)
UNMEASURED = Outcome(verdict=Verdict.UNMEASURED, ended_by=EndCause.TIME_LIMIT)
BROKEN = Outcome(verdict=Verdict.SOLVED, ended_by=EndCause.INFRASTRUCTURE, failure=Failure(boundary="sandbox", error="gone"))


def test_every_episode_is_kept_or_dropped_by_a_named_rule(tmp_path: Path) -> None:
    only_problems = [Step(message=4, problem="refusal"), Step(message=6, problem="repetition")]
    run = write_run(
        tmp_path / "run",
        episode("e1"),
        episode("e2", answer="2"),
        episode("e3", outcome=FAILED),
        episode("e4", outcome=UNMEASURED),
        episode("e5", outcome=BROKEN),
        episode("e6"),
        episode("e7", task="t2"),
        episode("e8", task="t3", steps=only_problems),
        episode("e9", task="t4", messages=[*MESSAGES[:6], Message(role="assistant", content="half \ud800", sampled=True)]),
        unfinished=True,
    )
    report = curate([run], tmp_path / "out")
    assert report.dropped == {
        "incomplete": ["torn"],
        "infrastructure": ["e5"],
        "not_solved": ["e3", "e4"],
        "lone_surrogate": ["e9"],
        "nothing_to_learn": ["e8"],
        "duplicate": ["e6"],
    }
    assert report.kept == 3
    assert report.taken_in == 10 == report.kept + sum(map(len, report.dropped.values()))
    assert (report.trained_turns, report.context_turns) == (3, 3)
    assert (report.families, report.policies) == ({"files": 3}, {"oracle": 3})
    kept, digest = read_curated(tmp_path / "out")
    assert [e.id for e in kept] == ["e1", "e2", "e7"]
    assert digest == report.sha256 == json.loads((tmp_path / "out" / "manifest.json").read_text())["sha256"]


def test_only_sound_replies_of_the_policy_are_learned() -> None:
    assert [m.loss for m in flagged(episode("e")).messages] == [None, None, False, None, False, None, True]


def test_a_reply_flagged_as_context_stays_context() -> None:
    messages = [*MESSAGES[:6], MESSAGES[6].model_copy(update={"loss": False})]
    assert select([episode("e", messages=messages)]).dropped["nothing_to_learn"] == ["e"]


def test_the_same_actions_in_another_task_are_no_duplicate() -> None:
    assert len(select([episode("a"), episode("b", task="t2")]).kept) == 2


@pytest.mark.parametrize("split", ["test", "heldout"])
def test_an_episode_of_another_split_stops_everything(tmp_path: Path, split: str) -> None:
    run = write_run(tmp_path / "run", episode("good"), episode("leak", split=split, outcome=FAILED))
    with pytest.raises(UserError, match=f"episode leak .*'{split}'"):
        curate([run], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_unicode_cannot_hold_is_written_and_read_back(tmp_path: Path) -> None:
    odd = episode("e\ud800", answer="half \ud800, whole \U0001f600")
    report = curate([write_run(tmp_path / "run", odd)], tmp_path / "out")
    kept, digest = read_curated(tmp_path / "out")
    assert kept == [flagged(odd)]
    assert digest == report.sha256
    assert (tmp_path / "out" / "curated.jsonl").read_bytes().isascii()


def test_damaged_lines_are_reported(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", episode("e1"))
    with next((run / "events").iterdir()).open("a") as file:
        file.write('{"torn')
    assert len(curate([run], tmp_path / "out").damaged_lines) == 1


def test_two_runs_are_one_set(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, episode(name)) for name in ("a", "b")]
    report = curate(runs, tmp_path / "out")
    assert (report.kept, report.dropped["duplicate"], report.runs) == (1, ["b"], ["a", "b"])


def test_a_curated_file_that_was_changed_is_refused(tmp_path: Path) -> None:
    curate([write_run(tmp_path / "run", episode("e1"))], tmp_path / "out")
    with (tmp_path / "out" / "curated.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match="has changed since it was curated"):
        read_curated(tmp_path / "out")


def test_what_is_no_run_or_no_curated_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run given"):
        curate([], tmp_path / "out")
    with pytest.raises(UserError, match="is not a curated folder"):
        read_curated(tmp_path)
