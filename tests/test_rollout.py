"""Rollout and resume: every episode in the journal, nothing twice, nothing lost after kill -9, no container left."""

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from engine import needs_docker
from test_agent import COUNT

from agentlm_sdk.cli import run as cli
from agentlm_sdk.journal import read_run
from agentlm_sdk.tasks import write_tasks

ROOT = Path(__file__).parents[1]


def tasks_file(tmp_path: Path, *words: str) -> Path:
    path = tmp_path / "tasks.jsonl"
    assert cli(["tasks", "generate", "-o", str(path), *words]) == 0
    return path


def test_the_oracle_solves_every_sql_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = tasks_file(tmp_path, "--kind", "sqlite", "--train", "1", "--test", "1", "--heldout", "1")
    capsys.readouterr()
    assert cli(["rollout", "--tasks", str(tasks), "--policy", "oracle", "-o", str(tmp_path / "run"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["n"] == summary["solved"] == summary["ended_by"]["completed"] > 16
    assert set(summary["ended_by"]) >= {"completed", "invalid_format", "turn_limit", "infrastructure"}


def test_a_slip_is_corrected_and_never_trained(tmp_path: Path) -> None:
    tasks = tasks_file(tmp_path, "--kind", "sqlite", "--train", "4", "--test", "0", "--heldout", "0")
    run = tmp_path / "run"
    assert cli(["rollout", "--tasks", str(tasks), "--policy", "oracle:slips", "-o", str(run)]) == 0
    assert cli(["curate", str(run), "-o", str(tmp_path / "curated")]) == 0
    slipped = 0
    for line in (tmp_path / "curated" / "curated.jsonl").read_text().splitlines():
        episode = json.loads(line)
        sampled = [message for message in episode["messages"] if message.get("sampled")]
        slips = [message for message in sampled if "Act:" not in message["content"]]
        slipped += len(slips)
        assert all(message["loss"] is False for message in slips)
        assert all(message["loss"] is True for message in sampled if message not in slips)
    assert 0 < slipped < 24


def test_k_attempts_and_a_second_run_in_the_same_place_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = tmp_path / "t.jsonl"
    write_tasks(tasks, [COUNT])
    words = ["rollout", "--tasks", str(tasks), "--policy", "oracle", "-o", str(tmp_path / "run"), "-k", "3"]
    assert cli(words) == 0
    assert [t.attempt for t in read_run(tmp_path / "run").trajectories] == [0, 1, 2]
    assert cli(words) == 1
    assert "already holds a run" in capsys.readouterr().err


def test_a_model_that_stays_away_ends_the_run_with_3_and_keeps_what_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "replies.jsonl"
    script.write_text("")
    tasks = tmp_path / "t.jsonl"
    write_tasks(tasks, [COUNT.model_copy(update={"id": f"t{n}"}) for n in range(30)])
    run = tmp_path / "run"
    assert cli(["rollout", "--tasks", str(tasks), "--policy", f"scripted:{script}", "-o", str(run), "-n", "1"]) == 3
    assert "5 episodes in a row failed at the model" in capsys.readouterr().err
    assert len(read_run(run).trajectories) == 5


def test_a_run_that_is_being_run_cannot_be_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = tmp_path / "t.jsonl"
    write_tasks(tasks, [COUNT])
    run = tmp_path / "run"
    assert cli(["rollout", "--tasks", str(tasks), "--policy", "oracle", "-o", str(run)]) == 0
    with open(run / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert cli(["runs", "resume", str(run)]) == 1
    assert "being run by another process" in capsys.readouterr().err
    assert cli(["runs", "resume", str(run)]) == 0
    assert cli(["runs", "verify", str(run)]) == 0


def test_a_killed_and_resumed_run_can_be_compared(tmp_path: Path) -> None:
    tasks = tasks_file(tmp_path, "--kind", "sqlite", "--test", "1", "--heldout", "1")
    run, other = tmp_path / "run", tmp_path / "other"
    for out in (run, other):
        assert cli(["eval", "--tasks", str(tasks), "-m", "oracle", "-o", str(out)]) == 0
    (path,) = (run / "events").glob("*.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    assert cli(["compare", str(other), str(run)]) == 1, "an unfinished run is refused"
    assert cli(["runs", "verify", str(run)]) == 2
    assert cli(["runs", "resume", str(run)]) == 0
    assert cli(["compare", str(other), str(run)]) in (1, 2)
    summaries = [json.loads((out / "eval.json").read_text())["splits"]["test"]["summary"] for out in (run, other)]
    assert summaries[0]["n"] == summaries[0]["solved"] == summaries[1]["n"]


@pytest.mark.docker
@needs_docker
def test_kill_9_and_resume(tmp_path: Path) -> None:
    tasks = tasks_file(tmp_path, "--families", "count_files,make_folder,count_rows", "--train", "12", "--test", "0")
    run = tmp_path / "run"
    words = ["rollout", "--tasks", str(tasks), "--policy", "oracle", "-o", str(run), "-n", "4"]
    process = subprocess.Popen([sys.executable, "-m", "agentlm_sdk", *words], cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (run.is_dir() and len(_ended(run)) >= 6):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {path: path.read_bytes() for path in (run / "events").glob("*.jsonl")}
    finished = _ended(run)
    assert 6 <= len(finished) < 36, "the process must be killed in the middle"

    assert cli(["runs", "resume", str(run)]) == 0
    after = {path: path.read_bytes() for path in (run / "events").glob("*.jsonl")}
    assert {path: hashlib.sha256(after[path]).hexdigest() for path in before} == {
        path: hashlib.sha256(text).hexdigest() for path, text in before.items()
    }
    contents = read_run(run)
    keys = [(t.task.id, t.attempt) for t in contents.trajectories]
    assert len(keys) == len(set(keys)) == 36, "every task once, none twice"
    assert all(t.solved for t in contents.trajectories)
    kept = {t.id for t in contents.trajectories}
    assert set(finished) <= kept
    rerun = {t.task.id: t.rerun for t in contents.trajectories if t.rerun}
    assert len(rerun) == len(contents.incomplete)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and _containers(run.name):
        time.sleep(0.1)
    assert _containers(run.name) == []


def _ended(run: Path) -> list[str]:
    if not (run / "manifest.json").exists():
        return []
    return [t.id for t in read_run(run).trajectories]


def _containers(run: str) -> list[str]:
    from sandboxes.engine import client

    return [str(c.id) for c in client().containers.list(all=True, filters={"label": f"agentlm.run={run}"})]
