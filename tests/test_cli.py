"""The command line: light at the door, clear about mistakes, JSON where asked."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_agent import COUNT

from agentlm_sdk.cli import run as cli
from agentlm_sdk.tasks import read_tasks, write_tasks

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "transformers", "trl", "peft", "docker", "langchain_core", "matplotlib", "httpx", "vllm"}


def test_help_loads_nothing_heavy() -> None:
    code = "import sys\ntry:\n    from agentlm_sdk.cli import main; main(['--help'])\nexcept SystemExit: pass\nprint(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "rollout" in shown
    assert HEAVY.isdisjoint(shown.splitlines()[-1].split())


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.jsonl"
    write_tasks(path, [COUNT])
    return path


def test_an_unknown_verb_and_option_get_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["rolout"]) == 1
    assert "rollout" in capsys.readouterr().err
    assert cli(["rollout", "--taks", "x"]) == 1
    assert "--tasks" in capsys.readouterr().err


def test_a_model_url_that_does_not_answer(tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = "http://127.0.0.1:9/v1"
    assert cli(["rollout", "--tasks", str(tasks), "-m", url, "-o", str(tmp_path / "run")]) == 1
    said = capsys.readouterr().err
    assert url in said and "agentlm-sdk serve" in said


def test_an_unknown_model(tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["rollout", "--tasks", str(tasks), "-m", "gpt", "-o", str(tmp_path / "run")]) == 1
    assert "unknown model 'gpt'; use oracle" in capsys.readouterr().err


def test_an_unknown_task_field_names_line_and_neighbour(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.jsonl"
    fields = COUNT.model_dump(mode="json")
    path.write_text(json.dumps(fields) + "\n" + json.dumps({**fields, "id": "b", "instrction": "x"}) + "\n")
    assert cli(["tasks", "list", str(path)]) == 1
    assert capsys.readouterr().err.strip() == f"error: {path}, line 2: unknown field 'instrction'; did you mean 'instruction'?"


def test_a_broken_task_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"id": \n')
    assert cli(["tasks", "list", str(path)]) == 1
    assert f"{path}, line 1: not JSON" in capsys.readouterr().err


def test_an_unknown_split(tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["rollout", "--tasks", str(tasks), "-m", "oracle", "--split", "tset", "-o", str(tmp_path / "r")]) == 1
    assert "did you mean 'test'?" in capsys.readouterr().err


def test_a_broken_line_of_general_data_names_its_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "chat.jsonl"
    good = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    path.write_text(json.dumps(good) + "\n{oops\n")
    model = ROOT / ".cache" / "models" / "SmolLM2-135M-Instruct"
    words = ["--set", f"base={model}", "--set", f'general=["{path}"]', "--set", f"out={tmp_path / 'm'}", "--set", "eta=0"]
    assert cli(["finetune", "--check", *words]) == 1
    said = capsys.readouterr().err
    assert str(path) in said and "line 2" in said


def test_an_unknown_setting_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["finetune", "--set", "ebochs=2"]) == 1
    assert "epochs" in capsys.readouterr().err


def test_json_is_one_object_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "t.jsonl"
    command = [sys.executable, "-m", "agentlm_sdk", "tasks", "generate", "-o", str(out), "--kind", "sqlite", "--json"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout)["n"] == len(read_tasks(out))


def test_evaluation_and_comparison_of_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = tmp_path / "tasks.jsonl"
    assert cli(["tasks", "generate", "-o", str(tasks), "--kind", "sqlite", "--test", "2", "--heldout", "2"]) == 0
    bad = tmp_path / "replies.jsonl"
    bad.write_text("\n".join(json.dumps(reply) for reply in ["no", "never", "nothing"]))
    a, b = tmp_path / "a", tmp_path / "b"
    assert cli(["eval", "--tasks", str(tasks), "-m", f"scripted:{bad}", "-o", str(a)]) == 0
    capsys.readouterr()
    assert cli(["eval", "--tasks", str(tasks), "-m", "oracle", "-o", str(b), "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated["splits"]["test"]["summary"]["rate"] == 1.0
    report = tmp_path / "report.html"
    assert cli(["compare", str(a), str(b), "-o", str(tmp_path / "s.json"), "--report", str(report), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary == json.loads((tmp_path / "s.json").read_text())
    assert summary["test"]["base"]["solved"] == 0 and summary["test"]["tuned"]["solved"] == summary["test"]["tuned"]["n"]
    assert summary["test"]["mcnemar_p"] < 0.001
    assert "<html" in report.read_text()
    assert cli(["compare", str(b), str(a)]) == 1
    assert cli(["compare", str(a), str(a)]) in (1, 2)
