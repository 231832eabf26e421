"""Whether a Docker engine answers, for tests that need one."""

import pytest


def answers() -> str:
    """An empty string, or why there is no engine."""
    from sandboxes.base import SandboxError
    from sandboxes.engine import client

    try:
        client().ping()
    except SandboxError as error:
        return str(error)
    return ""


WHY = answers()
needs_docker = pytest.mark.skipif(bool(WHY), reason=f"no Docker engine: {WHY}")
