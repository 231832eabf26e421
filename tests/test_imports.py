"""The import arrows of DESIGN.md: sandboxes knows nothing of agents, agents nothing of trainers, torch is loaded in one file."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
BASE = set(sys.stdlib_module_names) | {"pydantic"}
ALLOWED = {
    "sandboxes": BASE | {"docker", "requests", "sandboxes"},
    "agentlm_sdk": BASE | {"agentlm_sdk", "sandboxes", "langchain_core", "rich", "typer", "httpx"},
    "trainers": BASE | {"agentlm_sdk", "trainers", "yaml", "rich", "transformers"},
}
ONLY = {
    "agentlm_sdk/report.py": {"jinja2", "matplotlib", "markupsafe"},
    "trainers/training.py": {"torch", "trl", "peft", "datasets", "accelerate"},
    "trainers/gguf_model.py": {"torch"},
}
BY_NAME = {"agentlm_sdk/cli.py": {"trainers"}}
"""Imports inside functions: the command line opens the trainers only for the verb that was called."""


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Top-level packages a file imports, and whether at module level (type-checking blocks aside)."""
    tree = ast.parse(path.read_text())
    guarded = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    top = {id(node) for statement in tree.body for node in ([statement] if not isinstance(statement, ast.FunctionDef) else [])}
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")[0], id(node) in top
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0], id(node) in top


def test_the_arrows_point_one_way() -> None:
    wrong = []
    for package, allowed in ALLOWED.items():
        for path in sorted((ROOT / package).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            for module, top in imports(path):
                fine = module in allowed | ONLY.get(name, set()) or (not top and module in BY_NAME.get(name, set()))
                if not fine:
                    wrong.append(f"{name} imports {module}")
    assert wrong == []


def test_the_record_is_a_leaf() -> None:
    assert {module for module, _ in imports(ROOT / "agentlm_sdk" / "record.py")} <= BASE
