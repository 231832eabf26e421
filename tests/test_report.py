"""The report is one safe page: it says the verdict, shows the numbers, and nothing an agent wrote becomes HTML."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from episodes import episode
from pydantic import TypeAdapter

from agentlm_sdk.compare import Comparison, GeneralLoss, Pair, compare, summarise
from agentlm_sdk.errors import UserError
from agentlm_sdk.record import EndCause, Trajectory
from agentlm_sdk.report import read_events, worked_examples, write_report

HOSTILE = "<script>document.title='owned'</script></pre></div><img src=x onerror=alert(1)>\x1b]0;x\x07\u202egnp.exe {{ 7*7 }} $x^2$"
SHOWN = "\\x1b]0;x\\x07\\u202egnp.exe {{ 7*7 }} $x^2$"

CHROMIUM = shutil.which("chromium")


def runs(*, heldout: bool = True) -> tuple[list[Trajectory], list[Trajectory]]:
    base, tuned = [], []
    for index in range(20):
        kind = "sqlite" if index % 2 else "docker"
        task = {"task": f"task-{index}", "family": f"family-{index % 4}{HOSTILE}", "kind": kind, "instruction": HOSTILE}
        problem = {"problem": "invalid_format", "ended_by": EndCause.INVALID_FORMAT}
        base.append(episode(solved=False, script=HOSTILE, **task, **problem))  # type: ignore[arg-type]
        tuned.append(episode(solved=index > 4, model="tuned", observation=HOSTILE, thought=HOSTILE, **task))  # type: ignore[arg-type]
    if heldout:
        base += [episode(f"held-{index}", solved=False, split="heldout") for index in range(5)]
        tuned += [episode(f"held-{index}", solved=False, split="heldout", model="tuned") for index in range(5)]
    return base, tuned


def written(folder: Path, *, full: bool = True) -> tuple[Path, Comparison]:
    base, tuned = runs(heldout=full)
    comparison = compare(base, tuned, general_loss=GeneralLoss(base=2.31, tuned=2.35) if full else None)
    summary: dict[str, Any] = summarise(comparison)
    events = None
    if full:
        summary |= {
            "seed": 7,
            "eta": {"samples": 0.2, "trained_tokens": 0.31},
            "ledger": {"in": 10400, "dropped": {"too_long": 500}},
            "commands": ["agentlm-sdk compare base tuned", HOSTILE],
            "training": {"plan": {"packs": 31337}},
            "versions": {"torch": "2.13.0"},
            "seconds": {"rollout": 61.2},
        }
        events = folder / "events.jsonl"
        lines = [json.dumps({"step": step, "loss": 2.0 / (step + 1), "agent_loss": None}) for step in range(9)]
        events.write_text("\n".join(lines) + '\n{"step": 9, "lo')
    path = folder / "report.html"
    write_report(path, comparison=comparison, base=base, tuned=tuned, summary=summary, training_events=events)
    return path, comparison


class Elements(HTMLParser):
    """Names and attributes of all elements, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def assert_safe(found: Elements) -> None:
    assert found.names.isdisjoint({"script", "img", "iframe", "object", "embed", "link", "base", "form"})
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    outside = [value for name, value in found.attributes if name.endswith(("href", "src")) and not (value or "").startswith("#")]
    assert outside == []


def test_the_page_says_the_verdict_and_shows_every_part(tmp_path: Path) -> None:
    path, comparison = written(tmp_path)
    page = path.read_text(encoding="utf-8")
    found = Elements(page)
    assert_safe(found)
    assert "The tuned model is better than the base model." in found.text
    assert "It solves 15 of 25 tasks, where the other solves 0 (p < 0.0001, exact McNemar)." in found.text
    parts = ["Tasks solved", "By family", "What went wrong", "Training", "Training data", "Episodes to read", "How it was made"]
    assert re.findall(r"<h2>(.*?)</h2>", page) == parts
    words = ["Held-out families", "2.31 → 2.35", "10,400", "dropped, too long", "0.31", "agentlm-sdk compare base tuned"]
    for word in [*words, comparison.task_set_hash, "61.2", "31,337", "exit 0", "invalid format", "Failed before, solved now"]:
        assert word in found.text, word
    assert page.count("<svg") == 3
    assert "default-src 'none'" in page


def test_missing_parts_leave_their_sections_out(tmp_path: Path) -> None:
    path, _ = written(tmp_path, full=False)
    page = path.read_text(encoding="utf-8")
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings == ["Tasks solved", "By family", "What went wrong", "Episodes to read", "How it was made"]
    assert "general chat" not in page
    assert "Held-out" not in page


def test_agent_text_stays_text(tmp_path: Path) -> None:
    page = written(tmp_path)[0].read_text(encoding="utf-8")
    assert not set("\x1b\x07\u202e") & set(page)
    assert "<script" not in page
    assert Elements(page).text.count(SHOWN) > 6


def test_the_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    page = written(tmp_path)[0].read_text(encoding="utf-8")
    addresses = set(re.findall(r"https?://[^\s\"'<]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names of XML vocabularies
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_ids_of_the_figures_do_not_collide(tmp_path: Path) -> None:
    ids = re.findall(r'\bid="([^"]+)"', written(tmp_path)[0].read_text(encoding="utf-8"))
    assert len(ids) == len(set(ids))


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH to open the page with")
def test_a_browser_shows_the_page_and_runs_nothing(tmp_path: Path) -> None:
    path, _ = written(tmp_path)
    quiet = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", *quiet, f"--user-data-dir={tmp_path / 'profile'}"]
    picture = tmp_path / "page.png"
    shot = [*command, "--window-size=420,900", f"--screenshot={picture}", path.as_uri()]
    subprocess.run(shot, check=True, capture_output=True, timeout=120)
    assert picture.stat().st_size > 10_000
    dumped = subprocess.run([*command, "--dump-dom", path.as_uri()], check=True, capture_output=True, timeout=120)
    found = Elements(dumped.stdout.decode())
    assert_safe(found)
    assert "The tuned model is better than the base model." in found.text
    assert found.text.count("<script>document.title='owned'</script>") > 6
    assert "owned</title>" not in dumped.stdout.decode()


def test_examples_show_what_changed_of_each_kind_and_what_still_fails() -> None:
    base, tuned = runs()
    chosen = worked_examples([Pair(a=a, b=b) for a, b in zip(base, tuned, strict=True)])
    assert [(why, pair.a.task.id) for why, pair in chosen] == [
        ("Failed before, solved now", "task-5"),
        ("Failed before, solved now", "task-6"),
        ("Still fails", "task-0"),
    ]
    assert {pair.a.sandbox.kind for _, pair in chosen[:2]} == {"docker", "sqlite"}
    assert worked_examples([]) == []
    assert [why for why, _ in worked_examples([Pair(a=episode(), b=episode(solved=False))])] == ["Solved before, fails now"]


def test_a_damaged_training_log_is_named(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    log.write_text('{"step": 1, "loss": 2.0}\noops\n{"step": 2, "loss": 1.0}\n')
    with pytest.raises(UserError, match="line 2: not JSON"):
        read_events(log)
    log.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_events(log) == [{"step": 1, "loss": 2.0}]
    with pytest.raises(UserError, match="cannot read the training log"):
        read_events(tmp_path / "none.jsonl")


def test_a_report_of_nothing_measured_can_be_written(tmp_path: Path) -> None:
    base, tuned = [episode(unmeasured=True)], [episode(model="tuned")]
    comparison = compare(base, tuned)
    path = tmp_path / "report.html"
    write_report(path, comparison=comparison, base=base, tuned=tuned, summary=summarise(comparison))
    text = Elements(path.read_text(encoding="utf-8")).text
    assert "There is not enough evidence" in text
    assert "1 pairs could not be measured" in text


def test_the_missing_extra_is_named() -> None:
    code = "import sys; sys.modules['jinja2'] = None\nimport agentlm_sdk.report"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "MissingExtra: a report needs the report extra: pip install 'agentlm-sdk[report]'" in ended.stderr


def test_comparisons_travel_as_json(tmp_path: Path) -> None:
    _, comparison = written(tmp_path)
    adapter = TypeAdapter(Comparison)
    assert adapter.validate_json(adapter.dump_json(comparison)) == comparison
