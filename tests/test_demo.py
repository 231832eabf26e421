"""The whole loop on real parts, small: containers, the 135M model served by vLLM, TRL, comparison, report."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from engine import needs_docker

from agentlm_sdk.journal import read_run
from agentlm_sdk.record import unpack_ids

ROOT = Path(__file__).parents[1]
BASE = ROOT / ".cache" / "models" / "SmolLM2-135M-Instruct"

needs_model = pytest.mark.skipif(not (BASE / "config.json").is_file(), reason="no base model: run scripts/setup")
needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: run scripts/setup")


@pytest.mark.docker
@pytest.mark.serve
@pytest.mark.slow
@needs_docker
@needs_model
@needs_vllm
def test_the_whole_loop(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "demo"
    words = ["demo", "--base", str(BASE), "-o", str(out), "--families", "make_folder,look_up,write_file", "--train", "4"]
    words += ["--test", "2", "--heldout", "2", "--epochs", "1", "--json"]
    done = subprocess.run([sys.executable, "-m", "agentlm_sdk", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    summary = json.loads(done.stdout)
    assert summary == json.loads((out / "summary.json").read_text())
    for verb in ("tasks", "rollout", "curate", "finetune", "serve", "eval", "compare"):
        assert any(command.startswith(f"agentlm-sdk {verb} ") for command in summary["commands"])
    assert f"$ {summary['commands'][0]}" in done.stderr
    assert summary["test"]["base"]["n"] == summary["test"]["tuned"]["n"] == 4
    assert summary["heldout"]["tuned"]["n"] == 2
    assert 0 < summary["general_loss"]["tuned"] < 2 * summary["general_loss"]["base"]
    assert set(summary["eta"]["shares"]) == {"samples", "tokens", "trained_tokens", "loss"}

    expert = read_run(out / "expert")
    assert len(expert.trajectories) == 8 and all(episode.solved for episode in expert.trajectories)
    for name in ("base", "tuned"):
        for episode in read_run(out / name).trajectories:
            sampled = [message for message in episode.messages if message.sampled]
            assert sampled and all(message.token_ids and message.prompt_token_ids for message in sampled)
            assert episode.policy.template_hash and episode.policy.revision
            first = unpack_ids(sampled[0].prompt_token_ids or "")
            assert sampled[0].prompt_shared == 0 and len(first) == episode.steps[0].prompt_tokens

    from trainers.audit import compare_logged
    from trainers.rendering import load_renderer

    for name, model in (("base", BASE), ("tuned", out / "model")):
        agreement = compare_logged(read_run(out / name).trajectories, load_renderer(model))
        assert agreement.prompts_equal > 0
        assert agreement.prompts_different == 0, "what is trained must be what the server sees"

    assert (out / "report.html").read_text().startswith("<!doctype html>")
    assert os.readlink(out.parent / "latest") == "demo"
    card = (out / "model" / "README.md").read_text()
    assert "SmolLM2-135M-Instruct" in card and "eta" in card


@needs_model
def test_db_only_needs_no_docker() -> None:
    from agentlm_sdk.suites.starter import FAMILIES, choose_families

    kinds = {family.name: family.kind for family in FAMILIES}
    assert {kinds[name] for name in choose_families("demo", kind="sqlite")} == {"sqlite"}
    assert len(choose_families("demo")) > len(choose_families("demo", kind="sqlite")) > 4
