"""Sandbox images: find the one a name stands for, or build it, also where no registry can be reached."""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from sandboxes import engine
from sandboxes.base import SandboxUnavailable

SUITE = "bookworm"
PULLED_BASE = f"debian:{SUITE}-slim"
MADE_BASE = f"agentlm/base:{SUITE}"
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")

Progress = Callable[[str], None]

_building = threading.Lock()
_log = logging.getLogger(__name__)


def image_names() -> list[str]:
    """The images this package can build."""
    folder = importlib.resources.files("sandboxes") / "images"
    return sorted(entry.name for entry in folder.iterdir() if (entry / "Dockerfile").is_file())


def ensure_image(name: str = "os", *, progress: Progress = _log.info) -> str:
    """The id of the image a name stands for. One of ours is built when it is missing (minutes), any other is pulled.

    Raises SandboxUnavailable when there is no engine, or no way to get the image.
    """
    client = engine.client()
    tag = _tag(name) if name in image_names() else name
    with engine.engine_errors(f"looking for image {tag}"), _building:
        found = _find(client, tag)
        if found is None and tag == name:
            progress(f"pulling {name}")
            found = _pull(client, name)
            if found is None:
                raise SandboxUnavailable(
                    f"no image {name!r} here or in a registry; ours are: {', '.join(image_names())}. "
                    f"Load yours with 'docker load' or build it with 'docker build -t {name} .'"
                )
        elif found is None:
            found = _build(client, name, tag, base=_base(client, progress), progress=progress)
        return found


def _tag(name: str) -> str:
    return f"agentlm/{name}:{hashlib.sha256(_dockerfile(name)).hexdigest()[:12]}"


def _dockerfile(name: str) -> bytes:
    return (importlib.resources.files("sandboxes") / "images" / name / "Dockerfile").read_bytes()


def _find(client: Any, tag: str) -> str | None:
    try:
        return str(client.images.get(tag).id)
    except engine.NotFound:
        return None


def _pull(client: Any, tag: str) -> str | None:
    try:
        client.images.pull(tag) if ":" in tag else client.images.pull(tag, tag="latest")
    except engine.APIError as error:
        _log.info("cannot pull %s: %s", tag, error)
        return None
    return _find(client, tag)


def _base(client: Any, progress: Progress) -> str:
    for tag in (PULLED_BASE, MADE_BASE):
        if _find(client, tag):
            return tag
    progress(f"pulling {PULLED_BASE}")
    if _pull(client, PULLED_BASE):
        return PULLED_BASE
    if not shutil.which("debootstrap") or os.geteuid() != 0:
        raise SandboxUnavailable(
            f"cannot pull {PULLED_BASE}, and making a base here needs root and debootstrap: "
            f"run 'apt-get install debootstrap' and then 'python -m sandboxes.images' as root, "
            f"or bring the image with 'docker load'"
        )
    _debootstrap(client, progress)
    return MADE_BASE


def _debootstrap(client: Any, progress: Progress) -> None:
    mirror = _apt_mirror()
    progress(f"making {MADE_BASE} with debootstrap from {mirror or 'its default mirror'} (about a minute)")
    with tempfile.TemporaryDirectory(prefix="agentlm-base-") as folder:
        root = Path(folder) / "root"
        command = ["debootstrap", "--variant=minbase", SUITE, str(root), *([mirror] if mirror else [])]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        if done.returncode:
            raise SandboxUnavailable(f"{' '.join(command)} failed: {done.stdout[-500:]}")
        progress(f"importing {MADE_BASE}")
        skipped = [f"--exclude=./{path}" for path in ("var/cache/apt/archives/*.deb", "var/lib/apt/lists/*", "dev/*")]
        pack = ["tar", "--numeric-owner", "-C", str(root), *skipped, "-c", "."]
        with subprocess.Popen(pack, stdout=subprocess.PIPE) as tar:
            repository, _, tag = MADE_BASE.partition(":")
            client.api.import_image_from_stream(tar.stdout, repository=repository, tag=tag)
        if tar.returncode:
            raise SandboxUnavailable(f"packing the base failed: tar ended with {tar.returncode}")


def _apt_mirror() -> str | None:
    """The Debian mirror this host uses for the suite, or None when it uses none."""
    for line in _apt("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"):
        uri, _, release = line.partition(" ")
        if release == SUITE:
            return uri
    return None


def _apt_options() -> str:
    """How this host reaches its mirror (proxies, checks), as options for apt inside the build."""
    wanted = re.compile(r"Acquire::(Check-|Retries|ForceIPv4|https?::(Proxy|Timeout))")
    lines = _apt("apt-config", "dump", "--no-empty", "--format", "%F=%v%n")
    return " ".join(f"-o {line}" for line in lines if wanted.match(line) and " " not in line)


def _apt(*command: str) -> list[str]:
    if not shutil.which(command[0]):
        return []
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()


def _build(client: Any, name: str, tag: str, *, base: str, progress: Progress) -> str:
    progress(f"building {tag} from {base}")
    arguments = {"BASE": base, "APT_OPTIONS": _apt_options()}
    arguments |= {key: os.environ[key] for key in PROXIES if key in os.environ}
    lines: list[str] = []
    for message in client.api.build(
        fileobj=BytesIO(_dockerfile(name)),
        tag=tag,
        buildargs=arguments,
        network_mode="host",
        rm=True,
        forcerm=True,
        decode=True,
    ):
        if "error" in message:
            raise SandboxUnavailable(f"building {tag} failed: {message['error'].strip()}\n{''.join(lines[-15:])}")
        line = message.get("stream", "")
        lines.append(line)
        if line.startswith("Step "):
            progress(line.strip())
    found = _find(client, tag)
    if found is None:
        raise SandboxUnavailable(f"building {tag} ended without an image:\n{''.join(lines[-15:])}")
    return found


def main(names: list[str] | None = None) -> None:
    """Build the named images, or all of ours, with a line for each step."""
    say = functools.partial(print, flush=True)
    for name in names or image_names():
        say(f"{name}: {ensure_image(name, progress=say)}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except SandboxUnavailable as error:
        sys.exit(str(error))
