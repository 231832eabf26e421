"""A command in our sandbox against docker-py's `exec_run` in the same container image, interleaved: medians and their ratio.

python tests/bench/bench_sandbox.py [--n 100] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from pathlib import Path

from sandboxes.docker import DockerShell
from sandboxes.engine import client


async def measure(n: int) -> dict[str, float]:
    ours: list[float] = []
    theirs: list[float] = []
    shell = DockerShell()
    await shell.start()
    try:
        container = client().containers.get(shell.container)
        for _ in range(n):
            began = time.perf_counter()
            await shell.exec("true")
            middle = time.perf_counter()
            container.exec_run(["bash", "-c", "true"])
            ours.append(middle - began)
            theirs.append(time.perf_counter() - middle)
    finally:
        await shell.close()
    mine, other = statistics.median(ours), statistics.median(theirs)
    return {"n": n, "ours_ms": 1e3 * mine, "exec_run_ms": 1e3 * other, "ratio": other / mine}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    result = asyncio.run(measure(wanted.n))
    ours, theirs, ratio = result["ours_ms"], result["exec_run_ms"], result["ratio"]
    print(f"a command: ours {ours:.1f} ms, docker-py exec_run {theirs:.1f} ms, ratio {ratio:.1f}")
    if wanted.json:
        wanted.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
