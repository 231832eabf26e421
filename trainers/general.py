"""Reader of general chat data: ShareGPT and OpenAI layouts, as one JSON list or as JSON lines; whatever is left out is counted."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentlm_sdk.errors import UserError
from agentlm_sdk.record import Message, Role, canonical_hash
from trainers.rendering import lone_surrogate
from trainers.samples import Conversation

ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "assistant": "assistant",
    "system": "system",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneralData:
    """General chat, ready to render."""

    records: list[Conversation]
    read: int
    """Records in the files; always the kept plus the dropped ones."""
    dropped: Counter[str]
    """Records left out, by reason."""
    changed: Counter[str]
    """Turns left out, joined or trimmed inside the records that were kept or dropped, by reason."""


class _Unusable(Exception):
    """A record that cannot be a chat; says the reason it is counted under."""


def read_general(paths: Sequence[Path]) -> GeneralData:
    """All records of the files. Raises UserError naming file and line for what is not JSON or not a chat layout."""
    records: list[Conversation] = []
    dropped: Counter[str] = Counter()
    changed: Counter[str] = Counter()
    seen: set[str] = set()
    read = 0
    for path in paths:
        for place, value in _values(path):
            read += 1
            try:
                messages = tidy(_turns(value, f"{path}, {place}"), changed)
            except _Unusable as reason:
                dropped[str(reason)] += 1
                continue
            digest = content_hash(messages)
            if digest in seen:
                dropped["duplicate"] += 1
                continue
            seen.add(digest)
            records.append(Conversation(id=f"{path}, {place}", source="general", messages=tuple(messages)))
    return GeneralData(records=records, read=read, dropped=dropped, changed=changed)


def tidy(turns: Sequence[Message], changed: Counter[str]) -> list[Message]:
    """Turns in the order chat templates want: an optional system turn, then user and assistant in turn, ending with a reply.
    Adds what it changes to `changed`. Raises _Unusable when no exchange is left."""
    kept: list[Message] = []
    for turn in turns:
        text = turn.content.strip()
        if text and text != turn.content:
            changed["trimmed_values"] += 1
        if not text:
            changed["empty_values"] += 1
        elif turn.role == "system" and kept:
            changed["late_system_turns"] += 1
        elif turn.role == "assistant" and (not kept or kept[-1].role == "system"):
            changed["leading_assistant_turns"] += 1
        elif kept and kept[-1].role == turn.role:
            changed["joined_turns"] += 1
            loss = False if False in (kept[-1].loss, turn.loss) else turn.loss
            kept[-1] = Message(role=turn.role, content=f"{kept[-1].content}\n\n{text}", loss=loss)
        else:
            kept.append(Message(role=turn.role, content=text, loss=turn.loss))
    if kept and kept[-1].role == "user":
        changed["unanswered_user_turns"] += 1
        kept.pop()
    if not any(message.role == "assistant" for message in kept):
        raise _Unusable("no_exchange")
    return kept


def content_hash(messages: Sequence[Message]) -> str:
    """Of roles and texts: two chats with the same hash are the same chat."""
    return canonical_hash([[message.role, message.content] for message in messages])


def split_held_back(records: Sequence[Conversation], n: int, *, seed: int = 0) -> tuple[list[Conversation], list[Conversation]]:
    """(records to train on, `n` held back). Which are held back depends on their content and the seed, not on order or file."""
    if n > len(records):
        raise UserError(f"{n} general records are to be held back, but there are only {len(records)}")
    keys = [hashlib.sha256(f"{seed}:{content_hash(record.messages)}".encode()).hexdigest() for record in records]
    held = set(sorted(range(len(records)), key=keys.__getitem__)[:n])
    return (
        [record for index, record in enumerate(records) if index not in held],
        [record for index, record in enumerate(records) if index in held],
    )


def _values(path: Path) -> Iterator[tuple[str, Any]]:
    """Each JSON value of a file and where it stands."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read the general data file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}, byte {error.start}: not UTF-8 text") from error
    if text.lstrip().startswith("["):
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from error
        yield from ((f"record {number}", value) for number, value in enumerate(values, 1))
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: not JSON: {error.msg} at column {error.colno}") from error
        yield f"line {number}", value


def _turns(value: Any, where: str) -> list[Message]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: a chat record is a JSON object, not {type(value).__name__}")
    turns = value.get("conversations", value.get("messages"))
    if not isinstance(turns, list):
        keys = ", ".join(sorted(map(str, value))[:6])
        raise UserError(f"{where}: neither `conversations` (ShareGPT) nor `messages` (OpenAI) is a list; it has {keys}")
    return [_message(turn, where) for turn in turns]


def _message(turn: Any, where: str) -> Message:
    if not isinstance(turn, dict):
        raise UserError(f"{where}: a turn is a JSON object, not {type(turn).__name__}")
    role = ROLES.get(str(turn.get("from", turn.get("role"))).lower())
    if role is None:
        raise _Unusable("unsupported_role")
    if turn.get("tool_calls"):
        raise _Unusable("tool_calls")
    loss = turn.get("loss", turn.get("loss_weight"))
    content = _text(turn.get("value", turn.get("content")))
    return Message(role=role, content=content, loss=None if loss is None else bool(loss))


def _text(content: Any) -> str:
    """A turn's text: a string, nothing, or a list of text parts."""
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", part.get("value", ""))) for part in content)
    if content is None:
        return ""
    if not isinstance(content, str):
        raise _Unusable("content_not_text")
    if lone_surrogate(content):
        raise _Unusable("lone_surrogate")
    return content
