"""The shell sandbox: a hardened Docker container of its own, whose PID 1 is our program and ends with its owner."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.resources
import json
import os
import socket
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from sandboxes import engine
from sandboxes.base import (
    DEFAULT_MAX_OUTPUT,
    DEFAULT_TIMEOUT,
    ExecResult,
    Output,
    SandboxLost,
    SandboxUnavailable,
)
from sandboxes.images import ensure_image
from sandboxes.pid1 import LENGTHS

CAPABILITIES = (
    *("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"),
    *("NET_BIND_SERVICE", "SYS_CHROOT", "AUDIT_WRITE"),
)
"""What root keeps inside: enough for users, owners, services and ports, nothing that reaches the host."""

MEGABYTE = 1 << 20
PROFILES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "os": {
            "cap_drop": ["ALL"],
            "cap_add": list(CAPABILITIES),
            "security_opt": ["no-new-privileges:true"],
            "network_mode": "none",
            "mem_limit": 512 * MEGABYTE,
            "memswap_limit": 512 * MEGABYTE,
            "pids_limit": 256,
            "nano_cpus": 1_000_000_000,
            "shm_size": 16 * MEGABYTE,
            "log_config": {"Type": "none", "Config": {}},
            "auto_remove": True,
            "ulimits": [
                {"Name": "nofile", "Soft": 1024, "Hard": 1024},
                {"Name": "fsize", "Soft": 256 * MEGABYTE, "Hard": 256 * MEGABYTE},
                {"Name": "core", "Soft": 0, "Hard": 0},
            ],
        }
    }
)
"""Engine settings by profile name. Files in the container have no total limit: the engine has none on most disks."""

START_TIMEOUT = 30.0
"""Seconds a started container may take to answer; about 0.1 on an idle host."""
GRACE = 10.0
"""Seconds beyond its own timeout that a command may take to report before the container is given up."""
ANSWER_TIMEOUT = 30.0
"""Seconds a file transfer or a ping may take."""
PUT_LIMIT = 64 * MEGABYTE
"""Bytes one `put` may write."""


class DockerShell:
    """A machine of its own in a container: root inside, no network, bounded memory, processes, CPU and file size.

    The container is removed when it is closed, and within two seconds when this process ends in any way. A command
    that is cancelled ends the whole sandbox. Background processes live on between commands, but a command that leaves
    more than a hundred of them has them killed. Needs python3 and bash in the image.
    """

    def __init__(self, image: str = "os", *, profile: str = "os", labels: Mapping[str, str] | None = None) -> None:
        if profile not in PROFILES:
            raise ValueError(f"no sandbox profile {profile!r}; there are: {', '.join(PROFILES)}")
        self._name = image
        self._profile = profile
        self._labels = dict(labels or {})
        self._image = ""
        self._container: str | None = None
        self._opening: asyncio.Future[socket.socket] | None = None
        self._wire: _Wire | None = None
        self._lost = "it was not started"
        self._lock = asyncio.Lock()

    @property
    def image(self) -> str:
        """The id of the image that runs. Empty before `start`."""
        return self._image

    @property
    def container(self) -> str | None:
        """The id of the container, for `docker exec` by a person; None when there is none."""
        return self._container

    async def start(self) -> None:
        """Start the container; about half a second, minutes when the image must be built first."""
        if self._container is not None or self._opening is not None:
            raise RuntimeError("this sandbox has started already; close it first, or use reset()")
        try:
            self._opening = asyncio.ensure_future(asyncio.to_thread(self._open))
            self._wire = await _Wire.over(await asyncio.shield(self._opening))
            try:
                async with asyncio.timeout(START_TIMEOUT):
                    await self._wire.write(_program())
                    hello, _ = await self._wire.receive(limit=0)
            except (OSError, EOFError, ValueError) as error:
                raise SandboxUnavailable(f"no answer from image {self._name!r}: {self._wire.said(error)}") from error
            if not hello["shell"]:
                raise SandboxUnavailable(f"image {self._name!r} has no working /bin/bash")
        except BaseException:
            await self.close()
            raise

    def _open(self) -> socket.socket:
        """Create, attach and start; in a thread. What exists is noted at once so that `close` finds it."""
        self._image = ensure_image(self._name)
        api = engine.client().api
        with engine.engine_errors(f"starting a container of {self._name!r}"):
            created = api.create_container(
                self._image,
                entrypoint=["python3", "-I", "-S", "-c", f"exec(open(0,'rb',closefd=False).read({len(_program())}))"],
                command=[],
                user="0",
                hostname="sandbox",
                stdin_open=True,
                labels=engine.ownership() | self._labels,
                host_config=api.create_host_config(**PROFILES[self._profile]),
            )
            self._container = str(created["Id"])
            stream = engine.attach(self._container)
            try:
                api.start(self._container)
            except BaseException:
                stream.close()
                raise
        return stream

    async def exec(
        self,
        command: str | Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        stdin: bytes | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        max_output: int = DEFAULT_MAX_OUTPUT,
    ) -> ExecResult:
        """Run a script by a fresh bash, or an argument list. Nothing is kept between commands but files and processes.

        It runs as root in the image's working directory, or as `user` at that user's home.
        At the timeout every process the command started is killed. The result comes when the command itself ends,
        also when it leaves processes behind. Raises SandboxLost, and ValueError for a NUL or an unknown user.
        """
        argv = [] if isinstance(command, str) else list(command)
        script = command.encode("utf-8", "surrogateescape") if isinstance(command, str) else b""
        if not isinstance(command, str) and not argv:
            raise ValueError("an empty argument list is no command")
        for text in (
            script.decode("latin-1"),
            *argv,
            cwd or "",
            user or "",
            *(f"{k}{v}" for k, v in (env or {}).items()),
        ):
            if "\0" in text:
                raise ValueError("a command cannot contain a NUL character")
        header = {
            "op": "exec",
            "script": len(script),
            "argv": argv,
            "cwd": cwd,
            "env": dict(env or {}),
            "user": user,
            "stdin": stdin is not None,
            "timeout": timeout,
            "max_output": max_output,
        }
        answer, body = await self._ask(header, script + (stdin or b""), patience=timeout + GRACE, limit=2 * max_output)
        if "errno" in answer:
            raise await self._lose(f"it cannot start a process (errno {answer['errno']})")
        return _result(answer, body)

    async def put(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Write a regular file of at most 64 MB as root, making its folders. Raises OSError as a local write would."""
        if len(data) > PUT_LIMIT:
            raise ValueError(f"{path}: {len(data)} bytes is more than the {PUT_LIMIT} that one put may write")
        answer, _ = await self._ask({"op": "put", "path": _path(path), "mode": mode}, data)
        _raise_os_error(answer, path)

    async def get(self, path: str, *, max_bytes: int = 1_000_000) -> bytes:
        """Read a regular file as root; a link at the end of the path is refused.

        Raises FileNotFoundError and other OSErrors, and ValueError above `max_bytes` or for anything but a file.
        """
        answer, body = await self._ask({"op": "get", "path": _path(path), "max_bytes": max_bytes}, limit=max_bytes)
        _raise_os_error(answer, path)
        return body

    async def reset(self) -> None:
        """Replace the container by a fresh one."""
        await self.close()
        await self.start()

    async def alive(self) -> bool:
        """Whether the container still answers; waits for a command that is running."""
        try:
            await self._ask({"op": "ping"})
        except SandboxLost:
            return False
        return True

    async def close(self) -> None:
        """End the container and wait until the engine has removed it. Safe to call twice."""
        if self._opening is not None:
            await asyncio.wait([self._opening])
            opening, self._opening = self._opening, None
            if self._wire is None and not opening.cancelled() and opening.exception() is None:
                opening.result().close()
        if self._wire is not None:
            self._wire.abort()
            self._wire, self._lost = None, "it was closed"
        if self._container is not None:
            await asyncio.to_thread(engine.remove, self._container)
            self._container = None

    async def _ask(
        self, header: dict[str, Any], body: bytes = b"", *, patience: float = ANSWER_TIMEOUT, limit: int = 0
    ) -> tuple[dict[str, Any], bytes]:
        async with self._lock:
            if self._wire is None:
                raise SandboxLost(f"the sandbox is gone: {self._lost}")
            try:
                async with asyncio.timeout(patience):
                    await self._wire.send(header, body)
                    answer, data = await self._wire.receive(limit=limit)
            except (OSError, EOFError, ValueError) as error:
                raise await self._lose(self._wire.said(error)) from error
            except asyncio.CancelledError:
                await self._lose("a command was cancelled")
                raise
        if "refused" in answer:
            raise ValueError(answer["refused"])
        return answer, data

    async def _lose(self, reason: str) -> SandboxLost:
        """Give the container up: it ends when its stream does."""
        if self._wire is not None:
            self._wire.abort()
        self._wire, self._lost = None, reason
        return SandboxLost(f"the sandbox is gone: {reason}")


class _Wire:
    """Frames over the attached streams: the engine multiplexes stdout, which carries answers, and stderr."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._answers = bytearray()
        self._complaints = bytearray()

    @classmethod
    async def over(cls, stream: socket.socket) -> _Wire:
        stream.setblocking(False)
        return cls(*await asyncio.open_connection(sock=stream))

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def send(self, header: Mapping[str, Any], body: bytes) -> None:
        text = json.dumps(header).encode()
        await self.write(LENGTHS.pack(len(text), len(body)) + text + body)

    async def receive(self, *, limit: int) -> tuple[dict[str, Any], bytes]:
        header_size, body_size = LENGTHS.unpack(await self._read(LENGTHS.size))
        if header_size > 65_536 or body_size > limit:
            raise ValueError(f"an answer of {header_size} + {body_size} bytes is too long")
        return json.loads(await self._read(header_size)), await self._read(body_size)

    async def _read(self, size: int) -> bytes:
        while len(self._answers) < size:
            head = await self._reader.readexactly(8)
            data = await self._reader.readexactly(int.from_bytes(head[4:], "big"))
            if head[0] == 1:
                self._answers += data
            else:
                self._complaints = (self._complaints + data)[-2000:]
        data = bytes(self._answers[:size])
        del self._answers[:size]
        return data

    def said(self, error: BaseException) -> str:
        """What went wrong, with the last words of PID 1."""
        words = self._complaints.decode("utf-8", "backslashreplace").strip()
        kind = "its container ended" if isinstance(error, (EOFError, ConnectionError)) else f"{type(error).__name__}: {error}"
        return f"{kind} ({words})" if words else kind

    def abort(self) -> None:
        """End the stream at once: a shutdown, because the SDK holds the same socket until it is collected."""
        with contextlib.suppress(OSError):
            self._writer.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        self._writer.transport.abort()


def _program() -> bytes:
    return (importlib.resources.files("sandboxes") / "pid1.py").read_bytes()


def _path(path: str) -> str:
    if "\0" in path or not path:
        raise ValueError(f"{path!r} is no path")
    return path


def _raise_os_error(answer: Mapping[str, Any], path: str) -> None:
    if "errno" in answer:
        raise OSError(answer["errno"], os.strerror(answer["errno"]), path)


def _result(answer: Mapping[str, Any], body: bytes) -> ExecResult:
    streams = []
    for head, tail, total in answer["streams"]:
        streams.append(Output(head=body[:head], tail=body[head : head + tail], total=total))
        body = body[head + tail :]
    return ExecResult(
        exit_code=answer["code"],
        signal=answer["signal"],
        stdout=streams[0],
        stderr=streams[1],
        seconds=answer["seconds"],
        timed_out=answer["timed_out"],
        oom=answer["oom"],
        background_left=answer["background"],
        damaged=answer["damaged"],
    )
