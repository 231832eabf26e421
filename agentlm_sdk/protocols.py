"""ReAct text, our dialect: `Think:` one line, then exactly one `Act:`. Reading and writing are pure.

    Think: count the files
    Act: bash
    ```bash
    ls /etc | wc -l
    ```

The other actions are `Act: sql` with a ```sql block, `Act: answer(TEXT)` and `Act: finish`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from agentlm_sdk.record import Action

REFUSAL = re.compile(
    r"\b(i\s*(?:'m|’m| am)\s+(?:sorry|unable)"
    r"|i\s+(?:can(?:no|')t|can’t|won't|will not)\s+(?:help|assist|do|perform|provide|access)"
    r"|as an ai(?: language)? (?:model|assistant))",
    re.IGNORECASE,
)
"""A reply that holds no action and matches this is a refusal; with an action it is not."""

ACT = re.compile(r"^[ \t]*Act:[ \t]*(?P<rest>.*)$", re.MULTILINE)
FENCE = re.compile(r"^[ \t]*```(?P<tag>\w*)[ \t]*\n(?P<body>.*?)(?:\n)?^[ \t]*```[ \t]*$", re.MULTILINE | re.DOTALL)
BLOCKS = {"bash": "script", "sql": "query"}
ACTIONS = ("bash", "sql", "answer", "finish")

SYSTEM = {
    "shell": (
        "You solve tasks in a Linux shell. Each turn, write one line `Think: ...` and then one action: "
        "`Act: bash` with a ```bash block, `Act: answer(...)` to give the final answer, or `Act: finish` when the job is done."
    ),
    "sqlite": (
        "You solve tasks in a SQLite database. Each turn, write one line `Think: ...` and then one action: "
        "`Act: sql` with a ```sql block, `Act: answer(...)` to give the final answer, or `Act: finish` when the job is done."
    ),
}
"""System text by environment kind."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """A reply that holds no action we can run."""

    kind: Literal["invalid_format", "invalid_action", "refusal"]
    reason: str
    """Said to the model as a correction."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply that could be read."""

    thought: str
    action: Action


def parse(reply: str, offered: Sequence[str] = ACTIONS) -> Reply | Malformed:
    """The one action of a reply. More than one `Act:` line, or a block that is missing or repeated, is malformed."""
    acts = list(ACT.finditer(_outside_fences(reply)))
    if not acts:
        if REFUSAL.search(reply):
            return Malformed("refusal", "no line starts with `Act:`")
        return Malformed("invalid_format", "no line starts with `Act:`")
    if len(acts) > 1:
        return Malformed("invalid_format", f"one `Act:` line wanted, {len(acts)} found")
    thought = _thought(reply[: acts[0].start()])
    rest, after = acts[0]["rest"].strip(), reply[acts[0].end() :]
    name = re.match(r"[\w.-]*", rest)[0].lower()  # type: ignore[index]
    if name not in offered:
        return Malformed("invalid_action", f"unknown action {name or rest[:40]!r}; use one of {', '.join(offered)}")
    if name == "finish":
        return Reply(thought, Action(name="finish"))
    if name == "answer":
        return _answer(thought, reply[acts[0].start("rest") :])
    blocks = list(FENCE.finditer(after))
    if len(blocks) != 1:
        return Malformed("invalid_format", f"`Act: {name}` needs one ```{name} block, {len(blocks)} found")
    if blocks[0]["tag"] not in ("", name, "sh" if name == "bash" else name):
        return Malformed("invalid_format", f"`Act: {name}` needs a ```{name} block, not ```{blocks[0]['tag']}")
    body = blocks[0]["body"]
    if not body.strip():
        return Malformed("invalid_format", f"the ```{name} block is empty")
    return Reply(thought, Action(name=name, arguments={BLOCKS[name]: body}))


def render(thought: str, action: Action) -> str:
    """The reply that `parse` reads back as this thought and action. Raises ValueError where the text form cannot carry it."""
    match action.name:
        case "bash" | "sql":
            body = str(action.arguments[BLOCKS[action.name]])
            text = f"Act: {action.name}\n```{action.name}\n{body}\n```"
        case "answer":
            text = f"Act: answer({action.arguments['answer']})"
        case _:
            text = f"Act: {action.name}"
    whole = f"Think: {thought}\n{text}" if thought else text
    if parse(whole) != Reply(thought, action):
        raise ValueError(f"ReAct text cannot carry this {action.name} action: {str(action.arguments)[:200]}")
    return whole


def _outside_fences(reply: str) -> str:
    """The reply with fenced text blanked out, offsets kept: an `Act:` line inside a script is not an action."""
    return FENCE.sub(lambda block: re.sub(r"[^\n]", " ", block[0]), reply)


def _thought(before: str) -> str:
    return re.sub(r"^\s*(?:Think|Thought):[ \t]*", "", before).strip()


def _answer(thought: str, rest: str) -> Reply | Malformed:
    open_at, close_at = rest.find("("), rest.rfind(")")
    if open_at < 0 or close_at < open_at:
        return Malformed("invalid_format", "`Act: answer` needs its text in brackets: answer(TEXT)")
    return Reply(thought, Action(name="answer", arguments={"answer": rest[open_at + 1 : close_at].strip()}))
