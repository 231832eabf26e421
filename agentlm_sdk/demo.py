"""The whole loop on a small real model. The demo runs the verbs of the command line, each printed before it runs."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from agentlm_sdk.console import stderr
from agentlm_sdk.errors import InfrastructureError, UserError
from agentlm_sdk.journal import write_atomic
from agentlm_sdk.server import die_with_owner, free_port


class DemoPlan(BaseModel):
    """What `agentlm-sdk demo` was asked for."""

    base: Path
    out: Path | None
    seed: int
    families: str
    db_only: bool
    train: int
    test: int
    heldout: int
    eta: float
    epochs: int
    general: Path | None


def shipped_chat() -> Path:
    """The general chat set that comes with the SDK."""
    return Path(str(files("agentlm_sdk") / "data" / "general_chat.jsonl"))


def run_demo(plan: DemoPlan) -> dict[str, Any]:
    """Run every stage and return the summary, also in `OUT/summary.json`. Raises InfrastructureError naming the stage."""
    if not (plan.base / "config.json").is_file():
        raise UserError(f"no base model in {plan.base}; run scripts/setup, or name a chat model's folder with --base")
    out = plan.out or Path("runs") / f"demo-{plan.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    if out.exists():
        raise UserError(f"{out} is there already; name another -o")
    out.mkdir(parents=True)
    general = plan.general or shipped_chat()
    stages = Stages(out)
    tasks, model, base, tuned = out / "tasks.jsonl", out / "model", out / "base", out / "tuned"
    kind = ["--kind", "sqlite"] if plan.db_only else []
    heldout = _per_heldout_family(plan)

    stages.run(
        "tasks", "tasks", "generate", "starter", "--families", plan.families, *kind, "--train", plan.train, "--test", plan.test,
        "--heldout", heldout, "--seed", plan.seed, "-o", tasks,
    )  # fmt: skip
    stages.run(
        "rollout", "rollout", "--tasks", tasks, "--split", "train", "--policy", "oracle:slips", "-n", 4, "-o", out / "expert",
        fine=(0, 2),
    )  # fmt: skip
    stages.run("curate", "curate", out / "expert", "-o", out / "curated")
    settings = {
        "base": plan.base,
        "agent": out / "curated",
        "general": json.dumps([str(general)]),
        "out": model,
        "eta": plan.eta,
        "epochs": plan.epochs,
        "seed": plan.seed,
    }
    stages.run("finetune", "finetune", *(word for name, value in settings.items() for word in ("--set", f"{name}={value}")))
    for name, folder, weights in (("base", base, plan.base), ("tuned", tuned, model)):
        with stages.served(name, weights, log=out / f"serve-{name}.log") as url:
            stages.run(
                f"eval {name}", "eval", "--tasks", tasks, "--split", "test,heldout", "--model", url, "--weights", weights,
                "--general", model / "general_held_back.jsonl", "-n", 16, "-o", folder,
                fine=(0, 2),
            )  # fmt: skip
    summary_path, report, made = out / "summary.json", out / "report.html", out / "made.json"
    words = ("compare", base, tuned, "-o", summary_path, "--report", report, "--training", model, "--provenance", made)
    commands = [*stages.commands, spoken(words)]
    write_atomic(made, json.dumps({"seed": plan.seed, "commands": commands, "seconds": stages.seconds}, indent=2) + "\n")
    stages.run("compare", *words, fine=(0, 1, 2))
    if not report.is_file():
        raise InfrastructureError(f"compare wrote no report; what the demo made is in {out}")
    summary: dict[str, Any] = json.loads(summary_path.read_text(encoding="utf-8"))
    _point_latest(out)
    for path in (tasks, out / "expert", out / "curated", model, base, tuned, summary_path, report):
        stderr.print(str(path), markup=False)
    stderr.print(f"done in {sum(stages.seconds.values()):.0f} s; open {report}", markup=False)
    return summary


class Stages:
    """Runs verbs as a user would, and keeps the command and the seconds of each."""

    def __init__(self, out: Path) -> None:
        self.commands: list[str] = []
        self.seconds: dict[str, float] = {}
        self._out = out

    def run(self, stage: str, *words: object, fine: Sequence[int] = (0,)) -> None:
        """Run one verb, its output on standard error. Raises InfrastructureError when it ends with a code that is not `fine`."""
        argv = self._announce(words)
        began = time.monotonic()
        code = subprocess.run(argv, stdout=sys.stderr).returncode
        self.seconds[stage] = round(time.monotonic() - began, 1)
        if code not in fine:
            raise InfrastructureError(f"stage {stage!r} ended with {code}; what it made is in {self._out}: {self.commands[-1]}")

    @contextmanager
    def served(self, name: str, model: Path, *, log: Path) -> Iterator[str]:
        """The URL of `agentlm-sdk serve MODEL`, which lives as long as the context."""
        port = free_port()
        argv = self._announce(("serve", model, "--name", name, "--port", port, "--log", log, "--json"))
        began = time.monotonic()
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_owner)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise InfrastructureError(f"`agentlm-sdk serve {model}` ended with {process.wait()}; its log is {log}")
            self.seconds[f"serve {name}"] = round(time.monotonic() - began, 1)
            yield str(json.loads(line)["url"])
        finally:
            process.terminate()
            process.wait()

    def _announce(self, words: Sequence[object]) -> list[str]:
        self.commands.append(spoken(words))
        stderr.print(f"\n$ {self.commands[-1]}", style="bold", markup=False)
        return [sys.executable, "-m", "agentlm_sdk", *map(str, words)]


def spoken(words: Sequence[object]) -> str:
    """A command as a user could type it."""
    return shlex.join(["agentlm-sdk", *map(str, words)])


def _per_heldout_family(plan: DemoPlan) -> int:
    """Tasks of each held-out family, so that all together make at least `plan.heldout`."""
    from agentlm_sdk.suites.starter import choose_families, family_split

    names = choose_families(plan.families, kind="sqlite" if plan.db_only else "any")
    count = sum(family_split(name) == "heldout" for name in names)
    return -(-plan.heldout // count) if count else 0


def _point_latest(out: Path) -> None:
    """`runs/latest` names the newest demo; replaced in one step."""
    latest = out.parent / "latest"
    partial = latest.with_name(f"latest.{os.getpid()}")
    partial.symlink_to(out.name)
    partial.replace(latest)
