"""The one door to the Docker engine: a shared client, and foreign errors turned into ours."""

from __future__ import annotations

import functools
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import docker.errors

from sandboxes.base import SandboxUnavailable

POOL_SIZE = 64
"""Connections to the engine that are kept; each running sandbox holds one of its own besides."""

ENGINE_TIMEOUT = 120
"""Seconds one call to the engine may take; a busy engine needs many to start a container."""

RUN = "agentlm.run"
OWNER = "agentlm.owner"
CREATED = "agentlm.created"
"""The labels of every container we start."""

NotFound = docker.errors.NotFound
APIError = docker.errors.APIError


@functools.cache
def _client(pid: int) -> Any:
    try:
        client = docker.from_env(max_pool_size=POOL_SIZE, timeout=ENGINE_TIMEOUT)
        client.ping()
    except (docker.errors.DockerException, OSError) as error:
        raise SandboxUnavailable(_why(error)) from error
    return client


def client() -> Any:
    """The docker client of this process. Raises SandboxUnavailable, which says what to install or to start."""
    return _client(os.getpid())


@contextmanager
def engine_errors(doing: str) -> Iterator[None]:
    """Turn an engine that refuses or does not answer into SandboxUnavailable."""
    try:
        yield
    except (docker.errors.DockerException, OSError) as error:
        raise SandboxUnavailable(f"{doing} failed: {error}") from error


def _why(error: BaseException) -> str:
    where = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    text = str(error)
    if "Permission denied" in text or "PermissionError" in text:
        return f"no permission for the Docker engine at {where}: add your user to the group 'docker' and log in again"
    return (
        f"no Docker engine answers at {where}: install it (Debian: apt-get install docker.io iptables) and start it "
        f"(systemctl start docker, or run dockerd as root). The error was: {text}"
    )


@functools.cache
def _this_host() -> str:
    """What makes process numbers comparable: the boot of the kernel and the process namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{os.readlink('/proc/self/ns/pid')}"


def _start_time(pid: int) -> str | None:
    """When a process of this host started, in clock ticks since boot; None when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else fields[19].decode()


def owner() -> str:
    """This process, so that anyone on the same host can tell later whether it still runs."""
    return f"{_this_host()}/{os.getpid()}/{_start_time(os.getpid())}"


def is_dead(label: str) -> bool:
    """Whether the owner a label names provably ended: it ran on this host and no such process is left."""
    host, _, process = label.rpartition("/")
    host, _, pid = host.rpartition("/")
    return host == _this_host() and pid.isdigit() and _start_time(int(pid)) != process


def ownership() -> dict[str, str]:
    """The labels of a container that this process starts now."""
    return {OWNER: owner(), CREATED: str(int(time.time()))}


def attach(container: str) -> socket.socket:
    """A socket of our own to the streams of a container that has not started yet."""
    attached = client().api.attach_socket(container, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
    inner = getattr(attached, "_sock", attached)
    if type(inner) is not socket.socket:
        attached.close()
        raise SandboxUnavailable("shell sandboxes need an engine reached over a Unix socket or plain TCP, not TLS or SSH")
    return inner.dup()


def remove(container: str) -> None:
    """Remove a container whatever its state, and return when it is gone."""
    api = client().api
    with engine_errors(f"removing container {container[:12]}"):
        try:
            api.remove_container(container, force=True, v=True)
        except NotFound:
            return
        except APIError as error:
            if error.status_code != 409:
                raise
        for _ in range(200):
            if not api.containers(all=True, quiet=True, filters={"id": container}):
                return
            time.sleep(0.05)
    raise SandboxUnavailable(f"the engine has not removed container {container[:12]} within ten seconds")
