"""The package as a user installs it: without extras, away from the checkout, from the command it brings."""

import json
import os
import shutil
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHIPPED = ("agentlm_sdk", "sandboxes", "trainers", "pyproject.toml", "README.md", "LICENSE")

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of a fresh environment that holds the package and its dependencies, no extra."""
    place = tmp_path_factory.mktemp("install")
    source = place / "source"
    source.mkdir()
    for name in SHIPPED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    venv.create(place / "venv", with_pip=True)
    pip = [str(place / "venv" / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "-q", str(source)]
    done = subprocess.run(pip, capture_output=True, text=True, cwd=place)
    assert done.returncode == 0, done.stderr
    return place / "venv" / "bin"


@pytest.fixture
def sdk(bin_folder: Path, tmp_path: Path) -> Command:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment["PATH"] = f"{bin_folder}:/usr/bin:/bin"

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(bin_folder / "agentlm-sdk"), *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)

    return run


@pytest.mark.slow
def test_the_loop_runs_without_extras_and_each_missing_one_is_named(bin_folder: Path, sdk: Command, tmp_path: Path) -> None:
    listed = subprocess.run([bin_folder / "python", "-m", "pip", "list", "--format=json"], capture_output=True, check=True).stdout
    installed = {row["name"].lower() for row in json.loads(listed)}
    assert "agentlm-sdk" in installed
    assert installed.isdisjoint({"torch", "transformers", "trl", "peft", "vllm", "matplotlib"})

    (tmp_path / "replies.jsonl").write_text("\n".join(json.dumps(reply) for reply in ["no", "never", "nothing"]))
    few = ("--train", "1", "--test", "2", "--heldout", "2")
    for code, words in (
        (0, ["--help"]),
        (0, ["tasks", "generate", "--kind", "sqlite", "-o", "tasks.jsonl", *few]),
        (0, ["rollout", "--tasks", "tasks.jsonl", "--policy", "oracle", "--split", "train", "-o", "run"]),
        (0, ["eval", "--tasks", "tasks.jsonl", "--policy", "scripted:replies.jsonl", "-o", "a"]),
        (0, ["eval", "--tasks", "tasks.jsonl", "--policy", "oracle", "-o", "b"]),
        (0, ["compare", "a", "b", "-o", "summary.json"]),
        (1, ["compare", "b", "a"]),
        (0, ["curate", "run", "-o", "agent.jsonl"]),
    ):
        done = sdk(*words)
        assert done.returncode == code, f"{words}: {done.stdout}{done.stderr}"
    assert json.loads((tmp_path / "summary.json").read_text())["test"]["tuned"]["rate"] == 1.0

    settings = [word for setting in ("agent=agent.jsonl", "base=model", "out=tuned", "eta=1") for word in ("--set", setting)]
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    for extra, words in (
        ("train", ["finetune", *settings]),
        ("serve", ["serve", "model"]),
        ("report", ["compare", "a", "b", "--report", "report.html"]),
    ):
        done = sdk(*words)
        assert done.returncode == 3, f"{words}: {done.returncode} {done.stdout}{done.stderr}"
        assert f"pip install 'agentlm-sdk[{extra}]'" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_everything_the_package_needs_at_run_time_is_in_it(bin_folder: Path) -> None:
    """Also the files that are no modules: templates, image recipes, the programs that run in a sandbox."""
    code = "import agentlm_sdk, json, pathlib, sandboxes, trainers; " + (
        "print(json.dumps([str(pathlib.Path(p.__file__).parent) for p in (agentlm_sdk, sandboxes, trainers)]))"
    )
    shown = subprocess.run([bin_folder / "python", "-I", "-c", code], capture_output=True, check=True, cwd=bin_folder).stdout
    for place in map(Path, json.loads(shown)):
        assert ROOT not in place.parents
        shipped = {path.relative_to(ROOT / place.name) for path in (ROOT / place.name).rglob("*") if path.is_file()}
        missing = {path for path in shipped if "__pycache__" not in path.parts and not (place / path).exists()}
        assert missing == set()
