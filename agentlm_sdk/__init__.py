"""Run agents in sandboxes, keep every episode, fine-tune a model on the ones that worked, and prove that it got better.

Names load when they are first used, so that importing the package (and `agentlm-sdk --help`) stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentlm_sdk.agent import Agent as Agent
    from agentlm_sdk.environments import ShellWorld as ShellWorld
    from agentlm_sdk.environments import SqlWorld as SqlWorld
    from agentlm_sdk.environments import World as World
    from agentlm_sdk.journal import read_run as read_run
    from agentlm_sdk.models import ScriptedChat as ScriptedChat
    from agentlm_sdk.models import ServedChat as ServedChat
    from agentlm_sdk.record import Trajectory as Trajectory
    from agentlm_sdk.rollout import rollout as rollout
    from agentlm_sdk.tasks import Task as Task
    from agentlm_sdk.tasks import read_tasks as read_tasks
    from sandboxes.docker import DockerShell as DockerShell
    from sandboxes.sqlite import SqliteDatabase as SqliteDatabase

_HOMES = {
    "Agent": "agentlm_sdk.agent",
    "DockerShell": "sandboxes.docker",
    "ScriptedChat": "agentlm_sdk.models",
    "ServedChat": "agentlm_sdk.models",
    "ShellWorld": "agentlm_sdk.environments",
    "SqlWorld": "agentlm_sdk.environments",
    "SqliteDatabase": "sandboxes.sqlite",
    "Task": "agentlm_sdk.tasks",
    "Trajectory": "agentlm_sdk.record",
    "World": "agentlm_sdk.environments",
    "read_run": "agentlm_sdk.journal",
    "read_tasks": "agentlm_sdk.tasks",
    "rollout": "agentlm_sdk.rollout",
}

__all__ = [*_HOMES]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"agentlm_sdk has no name {name!r}")
    return getattr(import_module(_HOMES[name]), name)
