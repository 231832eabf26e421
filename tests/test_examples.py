"""Every file in examples/ runs, and the README's embedding lines are run as they stand there."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest
from engine import needs_docker

ROOT = Path(__file__).parents[1]


def run_example(name: str) -> str:
    command = [sys.executable, str(ROOT / "examples" / name)]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_the_sql_bot() -> None:
    assert "solved" in run_example("sql_bot.py")


@pytest.mark.docker
@needs_docker
def test_the_shell_bot() -> None:
    assert "ls -d /etc/*.conf | wc -l" in run_example("shell_bot.py")


def test_every_example_is_tested() -> None:
    names = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert names == {"sql_bot.py", "shell_bot.py"}


@pytest.mark.docker
@needs_docker
def test_the_readme_lines(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "README.md").read_text()
    block = re.search(r"<!-- embed -->\n```python\n(.*?)```", text, re.DOTALL)
    assert block is not None
    lines = block[1].strip().splitlines()
    assert len(lines) <= 10
    from langchain_core.language_models.fake_chat_models import FakeListChatModel

    model = FakeListChatModel(responses=["Think: look\nAct: bash\n```bash\nuname\n```", "Think: so\nAct: answer(Linux)"])
    code = "\n".join(line for line in lines if "ChatOpenAI" not in line)
    exec(compile(code, "README.md", "exec"), {"model": model})  # the reader's own model takes the place of the named one
    shown = capsys.readouterr().out
    assert "answer(Linux)" in shown


def test_the_sql_bot_inside_a_running_loop() -> None:
    sys.path.insert(0, str(ROOT / "examples"))
    import sql_bot

    assert asyncio.run(sql_bot.main()).solved
