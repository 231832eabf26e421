"""The Docker shell against commands that mean harm, owners that die, and engines that go away."""

import asyncio
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from engine import needs_docker

from sandboxes import DockerShell, SandboxLost, SandboxUnavailable, clean, engine, ensure_image, list_sandboxes, opened
from sandboxes.docker import CAPABILITIES

pytestmark = [pytest.mark.docker, needs_docker]

BOUND = 60
"""Seconds within which anything here happens, however busy the machine is."""

CAPABILITY_NUMBERS = {
    **{"CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "FSETID": 4, "KILL": 5, "SETGID": 6, "SETUID": 7},
    **{"NET_BIND_SERVICE": 10, "SYS_CHROOT": 18, "AUDIT_WRITE": 29},
}


@pytest.fixture(scope="module", autouse=True)
def os_image() -> str:
    return ensure_image("os")


def in_a_shell(scenario: Callable[[DockerShell], Awaitable[None]]) -> None:
    async def run() -> None:
        async with opened(DockerShell()) as shell:
            await scenario(shell)

    asyncio.run(run())


def exists(container: str | None) -> bool:
    return bool(engine.client().api.containers(all=True, quiet=True, filters={"id": container}))


def wait_until_gone(container: str) -> None:
    began = time.monotonic()
    while exists(container):
        assert time.monotonic() - began < BOUND, f"{container} is still there after {BOUND} s"
        time.sleep(0.02)


def test_a_command_that_kills_everything_harms_only_itself() -> None:
    async def scenario(shell: DockerShell) -> None:
        for script in ("kill -9 -1", "kill -9 1; kill -STOP 1; kill -INT 1; kill -TERM 1; kill -CHLD 1", "exec 0>&- 1>&- 2>&-"):
            assert not (await shell.exec(script, timeout=10)).timed_out, script
            done = await shell.exec("echo well")
            assert (done.stdout.head, done.damaged) == (b"well\n", False), script

    in_a_shell(scenario)


def test_a_fork_bomb_is_bounded_and_cleared() -> None:
    async def scenario(shell: DockerShell) -> None:
        bomb = await shell.exec(":(){ :|:& };:; sleep 1", timeout=4)
        assert bomb.seconds < BOUND
        python = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
        assert (await shell.exec(["python3", "-c", python], timeout=2)).timed_out
        done = await shell.exec("echo well; ps -e --no-headers | wc -l")
        assert done.stdout.head.startswith(b"well\n"), done
        assert int(done.stdout.head.split()[1]) < 20, done

    in_a_shell(scenario)


def test_a_memory_bomb_is_said_and_survived() -> None:
    async def scenario(shell: DockerShell) -> None:
        bomb = await shell.exec(["python3", "-c", "b = bytearray(2 << 30)"])
        assert (bomb.exit_code, bomb.signal, bomb.oom) == (None, signal.SIGKILL, True), bomb
        fine = await shell.exec("echo well")
        assert (fine.stdout.head, fine.oom) == (b"well\n", False)

    in_a_shell(scenario)


ENDLESS = """
import asyncio, resource
from sandboxes import DockerShell, opened
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
async def main():
    async with opened(DockerShell()) as shell:
        await shell.exec("echo warm")
        before = peak()
        done = await shell.exec("yes", timeout=2)
        line = await shell.exec("head -c 50000000 /dev/zero | tr '\\\\0' x", timeout=60)
        print(done.timed_out, done.stdout.total, line.stdout.total, line.stdout.cut, peak() - before)
asyncio.run(main())
"""


def test_endless_output_costs_us_no_memory() -> None:
    """In a process of its own: the peak of this one may be that of another test."""
    done = subprocess.run([sys.executable, "-c", ENDLESS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    timed_out, endless, line, cut, kilobytes = done.stdout.split()
    assert timed_out == "True" and int(endless) > 1_000_000
    assert (int(line), int(cut)) == (50_000_000, 50_000_000 - 16_384)
    assert int(kilobytes) < 8_000


def test_files_memory_disks_and_descriptors_have_limits() -> None:
    async def scenario(shell: DockerShell) -> None:
        done = await shell.exec("""
            head -c 300000000 /dev/zero > /srv/big; stat -c %s /srv/big; rm /srv/big
            truncate -s 10T /srv/sparse || echo no sparse
            head -c 30000000 /dev/zero > /dev/shm/x 2>/dev/null || stat -c %s /dev/shm/x
            python3 -c 'f = [open("/dev/null") for _ in range(2000)]' 2>&1 | tail -1
            ulimit -c
            """)
        lines = done.stdout.text().splitlines()
        assert lines[0] == str(256 << 20) and lines[1] == "no sparse" and lines[2] == str(16 << 20), lines
        assert "Too many open files" in lines[3] and lines[4] == "0", lines

    in_a_shell(scenario)


def test_there_is_no_network() -> None:
    async def scenario(shell: DockerShell) -> None:
        done = await shell.exec(
            "ls /sys/class/net; for host in 169.254.169.254 8.8.8.8 example.com; do curl -sS -m 15 http://$host; echo $?; done",
            timeout=BOUND,
        )
        interfaces, *codes = done.stdout.text().split()
        assert interfaces == "lo" and set(codes) <= {"6", "7"}, done  # no such host, no way there; 28 would be a wait

    in_a_shell(scenario)


def test_root_inside_keeps_ten_capabilities_and_gains_none() -> None:
    async def scenario(shell: DockerShell) -> None:
        wanted = f"{sum(1 << CAPABILITY_NUMBERS[name] for name in CAPABILITIES):016x}"
        done = await shell.exec("grep -E '^(Cap(Prm|Eff|Bnd)|NoNewPrivs|Seccomp):' /proc/self/status | sort")
        said = [line.split() for line in done.stdout.text().splitlines()]
        assert said == [["CapBnd:", wanted], ["CapEff:", wanted], ["CapPrm:", wanted], ["NoNewPrivs:", "1"], ["Seccomp:", "2"]]
        for script in (
            "mount -t tmpfs none /mnt",
            "mount -o remount,rw /sys",
            "mknod /tmp/disk b 254 0",
            "unshare -U true",
            "unshare -m true",
            "hostname other",
            "date -s 2001-01-01",
            "echo b > /proc/sysrq-trigger",
            "echo x > /proc/sys/kernel/core_pattern",
            "test -S /var/run/docker.sock",
            "python3 -c 'import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)'",
        ):
            assert (await shell.exec(script)).exit_code, script
        await shell.exec("cp /usr/bin/id /tmp/id; chmod 4755 /tmp/id")
        assert (await shell.exec("/tmp/id -u", user="nobody")).stdout.head == b"65534\n"

    in_a_shell(scenario)


def test_ordinary_administration_works() -> None:
    async def scenario(shell: DockerShell) -> None:
        done = await shell.exec("""set -e
            useradd -m ada; echo ada:secret | chpasswd; groupadd crew; usermod -aG crew ada
            touch /home/ada/x; chown ada:crew /home/ada/x; chmod 600 /home/ada/x; su ada -c 'id -nG; cat ~/x'
            echo 'line' >> /etc/profile; ln -s /etc/profile /var/p; find / -xdev -name passwd -type f | head -1
            """)
        assert (done.exit_code, done.stdout.head.splitlines()[0]) == (0, b"ada crew"), done
        assert (await shell.exec("id -nG; echo $HOME", user="ada")).stdout.head == b"ada crew\n/home/ada\n"

    in_a_shell(scenario)


def test_nothing_of_the_host_is_mounted() -> None:
    async def scenario(shell: DockerShell) -> None:
        found: Any = engine.client().api.inspect_container(shell.container)
        assert [mount for mount in found["Mounts"] if mount["Type"] == "bind"] == []
        assert found["HostConfig"]["Privileged"] is False and found["HostConfig"]["NetworkMode"] == "none"
        assert found["HostConfig"]["LogConfig"]["Type"] == "none"

    in_a_shell(scenario)


def test_the_stream_to_pid_1_cannot_be_opened() -> None:
    async def scenario(shell: DockerShell) -> None:
        done = await shell.exec(r"""
            for fd in 0 1 2; do printf '\0\0\0\2\0\0\0\0{}' > /proc/1/fd/$fd; done
            cat /proc/1/environ /proc/1/mem; ls /proc/1/root; echo end
            """)
        assert done.stdout.head == b"end\n" and done.stderr.head.count(b"Permission denied") == 6, done
        printed = await shell.exec(r"printf '\0\0\0\2\0\0\0\0{}'")
        assert printed.stdout.head == b"\0\0\0\2\0\0\0\0{}"

    in_a_shell(scenario)


@pytest.mark.parametrize(
    "script", ["rm -rf --no-preserve-root / 2>/dev/null", "rm -f /bin/bash", "rm -f /lib/x86_64-linux-gnu/libc.so.6"]
)
def test_a_ruined_machine_is_said_and_can_be_replaced(script: str) -> None:
    async def scenario(shell: DockerShell) -> None:
        first = await shell.exec(script)
        later = await shell.exec("echo here")
        assert later.damaged and later.exit_code in (126, 127) and not later.stdout.head, (first, later)
        await shell.reset()
        assert (await shell.exec("echo here")).stdout.head == b"here\n"

    in_a_shell(scenario)


def test_a_command_that_is_not_found_is_no_damage() -> None:
    async def scenario(shell: DockerShell) -> None:
        done = await shell.exec("no-such-command")
        assert (done.exit_code, done.damaged) == (127, False) and b"no-such-command: command not found" in done.stderr.head

    in_a_shell(scenario)


def test_poisoned_start_files_and_traps_reach_no_later_command() -> None:
    async def scenario(shell: DockerShell) -> None:
        await shell.exec("""
            for f in ~/.bashrc ~/.profile /etc/profile /etc/bash.bashrc; do echo 'echo poison; exit 9' >> $f; done
            export BASH_ENV=~/.bashrc; set -eu; readonly PATH; PS1='$ '; trap 'kill -9 $$' EXIT; exec 1>&2
            """)
        done = await shell.exec("echo clean; unterminated='")
        assert done.exit_code == 2 and done.stderr.head, done
        assert (await shell.exec("echo clean")).stdout.head == b"clean\n"
        assert (await shell.exec("echo a\r\necho b\r\n")).stdout.head == b"a\r\nb\r\n"

    in_a_shell(scenario)


def test_a_container_that_disappears_is_lost_and_never_output() -> None:
    async def scenario(shell: DockerShell) -> None:
        running = asyncio.create_task(shell.exec("sleep 600", timeout=600))
        await asyncio.sleep(0.5)
        assert not running.done()
        assert shell.container
        await asyncio.to_thread(engine.remove, shell.container)
        with pytest.raises(SandboxLost, match="ended"):
            await running
        with pytest.raises(SandboxLost):
            await shell.exec("true")
        assert not await shell.alive()
        await shell.reset()
        assert await shell.alive()

    in_a_shell(scenario)


def test_cancelling_a_command_ends_the_machine() -> None:
    async def scenario(shell: DockerShell) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await shell.exec("sleep 60")
        assert shell.container
        await asyncio.to_thread(wait_until_gone, shell.container)
        with pytest.raises(SandboxLost, match="cancelled"):
            await shell.exec("true")

    in_a_shell(scenario)


def test_cancelling_the_start_leaves_nothing() -> None:
    async def scenario(reached: Callable[[DockerShell], bool]) -> list[str]:
        shell = DockerShell(labels={engine.RUN: "cancelled-start"})
        starting = asyncio.create_task(shell.start())
        while not reached(shell) and not starting.done():  # noqa: ASYNC110 (every turn of the loop counts)
            await asyncio.sleep(0)
        assert starting.cancel(), "it started before the moment in question"
        with pytest.raises(asyncio.CancelledError):
            await starting
        return [one.id for one in list_sandboxes() if one.run == "cancelled-start"]

    moments: tuple[Callable[[DockerShell], bool], ...] = (
        lambda shell: True,
        lambda shell: bool(shell.image),
        lambda shell: shell.container is not None,
    )
    for reached in moments:
        assert asyncio.run(scenario(reached)) == []


OWNER = """
import asyncio
from sandboxes import DockerShell
async def main():
    shells = [DockerShell() for _ in range(2)]
    for shell in shells:
        await shell.start()
    print(*[shell.container for shell in shells], flush=True)
    await shells[0].exec("setsid sleep 600 & sleep 600", timeout=600)
asyncio.run(main())
"""


def test_the_containers_of_a_killed_owner_vanish() -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        containers = owner.stdout.readline().split()
        time.sleep(0.5)
        owner.kill()
    assert len(containers) == 2
    for container in containers:
        wait_until_gone(container)


def test_the_reaper_removes_orphans_of_this_host_and_nothing_else(os_image: str) -> None:
    api = engine.client().api
    mine = engine.owner()
    host = mine.rsplit("/", 2)[0]
    with subprocess.Popen(["true"]) as ended:
        pass
    labels = {
        "another start of a living process": {engine.OWNER: f"{host}/{os.getpid()}/1"},
        "ended process": {engine.OWNER: f"{host}/{ended.pid}/1"},
        "this process": {engine.OWNER: mine},
        "another host": {engine.OWNER: f"another-boot/{ended.pid}/1"},
        "no owner": {engine.RUN: "r"},
        "broken label": {engine.OWNER: "x"},
    }
    made = {name: api.create_container(os_image, ["true"], labels=label)["Id"] for name, label in labels.items()}
    try:
        removed = clean()
        assert [name for name, container in made.items() if container in removed] == list(labels)[:2]
        assert [name for name, container in made.items() if not exists(container)] == list(labels)[:2]
    finally:
        for container in made.values():
            engine.remove(container)


def test_an_image_without_python_or_from_nowhere_is_unavailable_and_leaves_nothing() -> None:
    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("readme"))
    client = engine.client()
    client.api.import_image_from_data(empty.getvalue(), repository="agentlm/test-empty", tag="latest")

    async def scenario(image: str) -> None:
        await DockerShell(image, labels={engine.RUN: "no-python"}).start()

    try:
        with pytest.raises(SandboxUnavailable, match="python3"):
            asyncio.run(scenario("agentlm/test-empty:latest"))
        with pytest.raises(SandboxUnavailable, match="ours are: os"):
            asyncio.run(scenario("agentlm/no-such-image"))
        assert [one for one in list_sandboxes() if one.run == "no-python"] == []
    finally:
        client.images.remove("agentlm/test-empty:latest")
