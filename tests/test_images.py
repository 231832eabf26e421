"""Images are found, named by their content, and an engine that does not answer is explained."""

import os
import subprocess
import sys
from importlib.resources import files

import pytest

from sandboxes import SandboxUnavailable, ensure_image, image_names


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment})


def test_every_image_of_ours_is_package_data_with_a_base() -> None:
    assert "os" in image_names()
    for name in image_names():
        assert "ARG BASE\nFROM ${BASE}" in (files("sandboxes") / "images" / name / "Dockerfile").read_text()


def test_importing_the_package_brings_no_docker() -> None:
    done = run_python("import sandboxes, sys; print([m for m in sys.modules if m.split('.')[0] in ('docker', 'requests')])")
    assert done.stdout == "[]\n", done


def test_without_an_engine_the_message_says_what_to_do() -> None:
    code = "import sandboxes\ntry: sandboxes.ensure_image()\nexcept sandboxes.SandboxUnavailable as error: print(error)"
    done = run_python(code, DOCKER_HOST="unix:///nowhere/docker.sock")
    assert "unix:///nowhere/docker.sock" in done.stdout and "apt-get install docker.io iptables" in done.stdout, done


@pytest.mark.docker
def test_an_image_is_built_once_and_known_by_its_id() -> None:
    said: list[str] = []
    try:
        first = ensure_image("os")
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    assert first.startswith("sha256:") and ensure_image("os", progress=said.append) == first
    assert ensure_image(first) == first and said == []
