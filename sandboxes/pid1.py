"""The program that is PID 1 of a shell sandbox: it runs commands and moves files for its owner, who speaks over stdin.

It is sent to the container's python3, so it needs the standard library and nothing of ours, and it imports everything
at the start because a command may delete the image under it. As PID 1 it cannot be killed or stopped from inside, and
as a non-dumpable process its pipes cannot be opened. When stdin ends the owner is gone: it exits and the container with it.

A frame, both ways: two big-endian 32-bit lengths, a JSON header, a body of raw bytes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import stat
import struct
import sys
import time
from typing import Any, NamedTuple, NoReturn

SHELL = "/bin/bash"
LENGTHS = struct.Struct(">II")
PR_SET_DUMPABLE = 4
ARGV_LIMIT = 100_000
"""Bytes of script that go on the command line, where error messages read best; the kernel allows 128 KiB."""
CROWD = 100
"""Processes a command may leave behind; a fork bomb is cleared so that the next command finds room."""
DRAIN = 0.02
"""Seconds to wait for output still under way when the command has ended."""
LATE_OUTPUT = 262_144
"""Bytes read after the command has ended: what it left in the pipe, not what a background process goes on writing."""
OOM_COUNTERS = ("/sys/fs/cgroup/memory/memory.oom_control", "/sys/fs/cgroup/memory.events")
OOM_SCORE = 500

Header = dict[str, Any]


class Account(NamedTuple):
    uid: int
    gid: int
    groups: list[int]
    home: str


class Refused(Exception):
    """The request cannot be served; the owner gets the message as a ValueError."""


class Kept:
    """One stream: the head and the tail are kept, the rest is counted."""

    def __init__(self, limit: int) -> None:
        self.head_limit = limit * 2 // 5
        self.tail_limit = limit - self.head_limit
        self.head = bytearray()
        self.tail = bytearray()
        self.total = 0

    def add(self, data: bytes) -> None:
        self.total += len(data)
        room = self.head_limit - len(self.head)
        self.head += data[:room]
        self.tail += data[room:]
        if len(self.tail) > 2 * self.tail_limit + 65_536:
            self._trim()

    def _trim(self) -> None:
        del self.tail[: max(0, len(self.tail) - self.tail_limit)]

    def close(self) -> None:
        self._trim()
        if self.total == len(self.head) + len(self.tail):
            self.head += self.tail
            self.tail.clear()


class Children:
    """Every process below us, orphans included; a byte on `wake` says that one has ended."""

    def __init__(self) -> None:
        self.wake, write = os.pipe()
        os.set_blocking(self.wake, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)

    def reap(self, wanted: int | None = None) -> int | None:
        """Collect the ended; the wait status of `wanted` if it is among them."""
        try:
            while os.read(self.wake, 4096):
                pass
        except BlockingIOError:
            pass
        found = None
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return found
            if pid == 0:
                return found
            if pid == wanted:
                found = status

    def running(self) -> dict[int, bytes]:
        """Start time by pid of every live process but this one."""
        found = {}
        for name in os.listdir("/proc"):
            if not name.isdigit() or name == "1":
                continue
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if fields and fields[0] not in (b"Z", b"X"):
                found[int(name)] = fields[19]
        return found

    def since(self, before: dict[int, bytes]) -> list[int]:
        return [pid for pid, started in self.running().items() if before.get(pid) != started]

    def kill_since(self, before: dict[int, bytes]) -> None:
        """End every process that started after `before` was taken, also those that keep forking."""
        for _ in range(20):
            fresh = self.since(before)
            if not fresh:
                return
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for pid in fresh:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
            time.sleep(0.002)
            self.reap()
        self.kill_all()

    def kill_all(self) -> None:
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            return
        time.sleep(0.02)
        self.reap()

    def fork(self) -> int:
        """Fork, making room first when the process limit is reached."""
        try:
            return os.fork()
        except BlockingIOError:
            self.kill_all()
            return os.fork()


class Agent:
    def __init__(self) -> None:
        self.children = Children()
        self.home = os.getcwd()
        self.null = os.open("/dev/null", os.O_RDWR)
        self.operations = {"exec": self.exec, "put": self.put, "get": self.get, "ping": self.ping}

    def serve(self) -> NoReturn:
        send({"shell": self.shell_works()})
        while True:
            header, body = self.receive()
            try:
                answer, data = self.operations[header["op"]](header, body)
            except Refused as error:
                answer, data = {"refused": str(error)}, b""
            except OSError as error:
                answer, data = {"errno": error.errno or errno.EIO}, b""
            send(answer, data)

    def receive(self) -> tuple[Header, bytes]:
        header_size, body_size = LENGTHS.unpack(self.read(LENGTHS.size))
        return json.loads(self.read(header_size)), self.read(body_size)

    def read(self, size: int) -> bytes:
        data = bytearray()
        poller = select.poll()
        poller.register(0, select.POLLIN)
        poller.register(self.children.wake, select.POLLIN)
        while len(data) < size:
            ready = dict(poller.poll())
            if self.children.wake in ready:
                self.children.reap()
            if 0 in ready:
                chunk = os.read(0, min(size - len(data), 1 << 20))
                if not chunk:
                    os._exit(0)
                data += chunk
        return bytes(data)

    def ping(self, header: Header, body: bytes) -> tuple[Header, bytes]:
        return {}, b""

    def exec(self, header: Header, body: bytes) -> tuple[Header, bytes]:
        script, stdin = body[: header["script"]], body[header["script"] :]
        who = account(header["user"]) if header["user"] else None
        environment = dict(os.environ, **({"HOME": who.home} if who else {}), **header["env"])
        files = [memory_file(stdin) if header["stdin"] else self.null]
        if header["argv"]:
            argv = header["argv"]
        elif len(script) <= ARGV_LIMIT:
            argv = ["bash", "-c", script]
        else:
            files.append(memory_file(script))
            argv = ["bash", f"/dev/fd/{files[1]}"]
        oom_before, before, began = oom_kills(), self.children.running(), time.monotonic()
        outputs: dict[int, Kept] = {}
        out, out_write = os.pipe()
        err, err_write = os.pipe()
        main = self.children.fork()
        if main == 0:
            program = argv[0] if header["argv"] else SHELL
            cwd = header["cwd"] or (self.home if who is None else who.home if os.path.isdir(who.home) else "/")
            become(argv, environment, program=program, cwd=cwd, who=who, files=files, out=out_write, err=err_write)
        for fd in (out_write, err_write, *files):
            if fd != self.null:
                os.close(fd)
        for fd in (out, err):
            os.set_blocking(fd, False)
            outputs[fd] = Kept(header["max_output"])
        status = self.watch(main, dict(outputs), began + header["timeout"])
        timed_out = status is None
        if timed_out:
            self.children.kill_since(before)
        drain(dict(outputs))
        left = self.children.since(before)
        if len(left) > CROWD:
            self.children.kill_since(before)
            left = []
        for fd, kept in outputs.items():
            os.close(fd)
            kept.close()
        code = os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None
        suspicious = code in (126, 127) or not os.access(SHELL, os.X_OK)
        answer = {
            "code": code,
            "signal": os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None,
            "timed_out": timed_out,
            "oom": oom_kills() > oom_before,
            "background": bool(left),
            "damaged": suspicious and not self.shell_works(),
            "seconds": time.monotonic() - began,
            "streams": [[len(kept.head), len(kept.tail), kept.total] for kept in outputs.values()],
        }
        return answer, b"".join(bytes(kept.head + kept.tail) for kept in outputs.values())

    def watch(self, main: int, streams: dict[int, Kept], deadline: float) -> int | None:
        """Read the streams until the main process ends: its wait status, or None at the deadline."""
        poller = select.poll()
        poller.register(self.children.wake, select.POLLIN)
        poller.register(0, 0)
        for fd in streams:
            poller.register(fd, select.POLLIN)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            for fd, _ in poller.poll(min(left, 3600) * 1000 + 1):
                if fd == 0:
                    os._exit(0)
                elif fd == self.children.wake:
                    status = self.children.reap(main)
                    if status is not None:
                        return status
                elif not take(fd, streams[fd]):
                    poller.unregister(fd)

    def shell_works(self) -> bool:
        """Whether a shell still starts and answers within five seconds."""
        pid = self.children.fork()
        if pid == 0:
            become(
                ["bash", "-c", ":"],
                {},
                program=SHELL,
                cwd="/",
                who=None,
                files=[self.null],
                out=self.null,
                err=self.null,
            )
        status = self.watch(pid, {}, time.monotonic() + 5)
        if status is None:
            os.kill(pid, signal.SIGKILL)
        return status == 0

    def put(self, header: Header, body: bytes) -> tuple[Header, bytes]:
        path = os.path.join(self.home, header["path"])
        os.makedirs(os.path.dirname(path), exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        try:
            regular(fd, path)
            rest = memoryview(body)
            while rest:
                rest = rest[os.write(fd, rest) :]
            os.fchmod(fd, header["mode"])
        finally:
            os.close(fd)
        return {}, b""

    def get(self, header: Header, body: bytes) -> tuple[Header, bytes]:
        path = os.path.join(self.home, header["path"])
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise Refused(f"{path} is a symbolic link, not a regular file") from error
            raise
        try:
            regular(fd, path)
            data = bytearray()
            while len(data) <= header["max_bytes"]:
                chunk = os.read(fd, 1 << 20)
                if not chunk:
                    return {}, bytes(data)
                data += chunk
            raise Refused(f"{path} has more than {header['max_bytes']} bytes")
        finally:
            os.close(fd)


def become(
    argv: list[Any],
    environment: dict[str, str],
    *,
    program: str,
    cwd: str,
    who: Account | None,
    files: list[int],
    out: int,
    err: int,
) -> NoReturn:
    """Turn the forked child into the command; what is wrong is said on its stderr and by 126 or 127, as a shell would."""
    subject = cwd
    try:
        os.setsid()
        for number, fd in enumerate((files[0], out, err)):
            os.dup2(fd, number)
        for fd in files[1:]:
            os.set_inheritable(fd, True)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(OOM_SCORE))
        if who:
            os.setgroups(who.groups)
            os.setgid(who.gid)
            os.setuid(who.uid)
        os.chdir(cwd)
        subject = program
        os.execvpe(program, argv, environment)
    except OSError as error:
        os.write(2, f"{subject}: {error.strerror}\n".encode(errors="surrogateescape"))
        os._exit(127 if subject == program and error.errno == errno.ENOENT else 126)
    finally:
        os._exit(126)


def account(name: str) -> Account:
    """uid, gid, groups and home of a user, from the files alone: a name service module could be the command's own."""
    for fields in table("/etc/passwd", 7):
        if name in (fields[0], fields[2]):
            own = int(fields[3])
            groups = {int(line[2]) for line in table("/etc/group", 4) if fields[0] in line[3].split(",")}
            return Account(uid=int(fields[2]), gid=own, groups=sorted(groups | {own}), home=fields[5])
    if name.isdigit():
        return Account(uid=int(name), gid=int(name), groups=[int(name)], home="/")
    raise Refused(f"no user {name!r} in the sandbox")


def table(path: str, width: int) -> list[list[str]]:
    with open(path, encoding="utf-8", errors="replace") as file:
        rows = [line.rstrip("\n").split(":") for line in file]
    return [row for row in rows if len(row) == width and row[2].isdigit()]


def memory_file(data: bytes) -> int:
    fd = os.memfd_create("data")
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def regular(fd: int, path: str) -> None:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise Refused(f"{path} is not a regular file")


def take(fd: int, kept: Kept) -> bool:
    """Read what is there; False at the end of the stream."""
    try:
        data = os.read(fd, 65_536)
    except BlockingIOError:
        return True
    kept.add(data)
    return bool(data)


def drain(streams: dict[int, Kept]) -> None:
    """Read what an ended command left in its pipes, whoever still holds them."""
    poller = select.poll()
    for fd in streams:
        poller.register(fd, select.POLLIN)
    limit = {fd: kept.total + LATE_OUTPUT for fd, kept in streams.items()}
    deadline = time.monotonic() + DRAIN
    while streams:
        ready = poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
        if not ready and time.monotonic() >= deadline:
            return
        for fd, _ in ready:
            if not take(fd, streams[fd]) or streams[fd].total >= limit[fd]:
                poller.unregister(fd)
                del streams[fd]


def oom_kills() -> int:
    for path in OOM_COUNTERS:
        try:
            with open(path, encoding="ascii") as file:
                for line in file:
                    name, _, count = line.partition(" ")
                    if name == "oom_kill":
                        return int(count)
        except OSError:
            continue
    return 0


def send(header: Header, body: bytes = b"") -> None:
    text = json.dumps(header).encode()
    rest = memoryview(LENGTHS.pack(len(text), len(body)) + text + body)
    while rest:
        rest = rest[os.write(1, rest) :]


def main() -> None:
    if os.getpid() != 1:
        sys.exit("this program is PID 1 of a sandbox; use sandboxes.DockerShell")
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    Agent().serve()


if __name__ == "__main__":
    main()
