"""Messages to token ids, spans and labels: the one rendering that training, the audit and the served prompt agree on.

Text between two control tokens is tokenised as one run, as a chat template does, but with control tokens switched off: what a user,
a tool or a model wrote can never become a control token. A family is recognised by what its template renders, not by its name.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agentlm_sdk.errors import MissingExtra, UserError
from agentlm_sdk.record import Message, canonical_hash

IGNORED = -100
"""The label of a token that is context only."""

LONE_SURROGATE = re.compile("[\ud800-\udfff]")

Tokenizer = Any
"""A fast tokenizer of transformers."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the rendered conversation."""

    text: str
    turn: int | None = None
    """Index of the message it belongs to, or None for what the template adds."""
    kind: Literal["control", "frame", "body", "stop"] = "frame"
    """`control`: a control token; `frame`: text of the template; `body`: what the message says; `stop`: ends a reply."""


@dataclass(frozen=True, slots=True)
class Span:
    """The ids `start` to `end` (exclusive) that carry the body of one message; a reply's stop token included."""

    start: int
    end: int
    turn: int
    role: str
    trained: bool


@dataclass(frozen=True, slots=True)
class Rendered:
    """One conversation as the model sees it."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    """The id where the token is learned, otherwise IGNORED."""
    spans: tuple[Span, ...]
    merged: tuple[int, ...] = ()
    """Turns that asked for training but whose first token also holds text of the frame (a reply that starts with a line break);
    they stay context, because no prompt can end inside a token."""

    @property
    def trained_tokens(self) -> int:
        return sum(label != IGNORED for label in self.labels)


def check_renderable(messages: Sequence[Message]) -> None:
    """Raises UserError for what would be rendered wrongly or not at all."""
    if not messages:
        raise UserError("a conversation without messages cannot be rendered")
    for turn, message in enumerate(messages):
        if message.tool_calls:
            raise UserError(
                f"message {turn} holds native tool calls, which cannot be trained yet and would be left out; use episodes of a "
                "protocol that writes its actions as text (react)"
            )
        if half := lone_surrogate(message.content):
            raise UserError(f"message {turn} holds the lone surrogate {half!r}, which no tokenizer takes; leave it out")


def lone_surrogate(text: str) -> str | None:
    """The first surrogate code point of a text, None where there is none. JSON can write one alone; it is no character."""
    found = LONE_SURROGATE.search(text)
    return found[0] if found else None


def wants_loss(message: Message) -> bool:
    """A reply is learned unless it is flagged as context; nothing else ever is."""
    return message.role == "assistant" and message.loss is not False


@dataclass(frozen=True, slots=True)
class ChatML:
    """`<|im_start|>role`, line break, text, `<|im_end|>`: SmolLM2, Qwen2.5 and many more."""

    default_system: str | None
    """What the template says when the conversation has no system turn."""
    name: str = "chatml"
    stop: str = "<|im_end|>"

    def pieces(self, messages: Sequence[Message]) -> list[Piece]:
        pieces: list[Piece] = []
        if self.default_system is not None and messages[0].role != "system":
            pieces += [
                Piece("<|im_start|>", kind="control"),
                Piece(f"system\n{self.default_system}"),
                Piece("<|im_end|>", kind="control"),
                Piece("\n"),
            ]
        for turn, message in enumerate(messages):
            if message.role not in ("system", "user", "assistant"):
                raise UserError(f"message {turn} has the role {message.role!r}, which {self.name} cannot render yet")
            pieces += [
                Piece("<|im_start|>", kind="control"),
                Piece(f"{message.role}\n"),
                Piece(message.content, turn, "body"),
                Piece("<|im_end|>", turn, "stop" if message.role == "assistant" else "control"),
                Piece("\n"),
            ]
        return pieces

    def opening(self) -> list[Piece]:
        return [Piece("<|im_start|>", kind="control"), Piece("assistant\n")]


@dataclass(frozen=True, slots=True)
class Llama2:
    """`<s>[INST] user [/INST] reply </s>`, the system text inside the first user turn: Llama-2-chat and AgentLM."""

    name: str = "llama-2"
    stop: str = "</s>"

    def pieces(self, messages: Sequence[Message]) -> list[Piece]:
        pieces: list[Piece] = []
        system = f"<<SYS>>\n{messages[0].content}\n<</SYS>>\n\n" if messages[0].role == "system" else ""
        for turn, message in enumerate(messages):
            number = turn - bool(system)
            if turn == 0 and system:
                continue
            if message.role != ("user", "assistant")[number % 2]:
                raise UserError(f"message {turn} has the role {message.role!r}: {self.name} wants user and assistant in turn")
            if message.role == "user":
                text = (system + message.content if number == 0 else message.content).strip()
                pieces += [Piece("<s>", kind="control"), Piece("[INST] "), Piece(text, turn, "body"), Piece(" [/INST]")]
            else:
                pieces += [Piece(f" {message.content.strip()} ", turn, "body"), Piece("</s>", turn, "stop")]
        return pieces

    def opening(self) -> list[Piece]:
        return []


Family = ChatML | Llama2


class Renderer:
    """Renders with one tokenizer. Raises UserError when the tokenizer's chat template is of no known family."""

    def __init__(self, tokenizer: Tokenizer, *, name: str = "the base model") -> None:
        if not tokenizer.chat_template:
            raise UserError(f"{name} has no chat template: take a chat or instruct model as base")
        self.tokenizer = tokenizer
        self.template_hash = hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()
        self.family: Family = recognise(tokenizer, name)
        self.stop_id: int = self._control_id(self.family.stop)

    def render(self, messages: Sequence[Message]) -> Rendered:
        """Ids and labels of a conversation. The learned tokens are each wanted reply and its stop token, nothing else. Raises
        UserError naming the message that cannot be rendered whole."""
        check_renderable(messages)
        ids: list[int] = []
        labels: list[int] = []
        spans: list[Span] = []
        merged: list[int] = []
        pieces = self.family.pieces(messages)
        for run in runs(pieces):
            if run[0].kind in ("control", "stop"):
                ids.append(self._control_id(run[0].text))
                labels.append(IGNORED)
                if run[0].kind == "stop" and spans[-1].trained:
                    labels[-1] = ids[-1]
                if run[0].kind == "stop":
                    spans[-1] = Span(spans[-1].start, len(ids), spans[-1].turn, "assistant", spans[-1].trained)
                continue
            for piece, run_ids, clean in self._tokenise(run):
                start = len(ids)
                ids += run_ids
                labels += [IGNORED] * len(run_ids)
                if piece.kind != "body" or piece.turn is None:
                    continue
                message = messages[piece.turn]
                trained = wants_loss(message) and clean
                if wants_loss(message) and not clean:
                    merged.append(piece.turn)
                if trained:
                    labels[start:] = run_ids
                spans.append(Span(start, len(ids), piece.turn, message.role, trained))
        return Rendered(tuple(ids), tuple(labels), tuple(spans), tuple(merged))

    def reply_text(self, messages: Sequence[Message], turn: int) -> str:
        """What the model must write for `messages[turn]`, its stop token included."""
        body, stop = (piece for piece in self.family.pieces(messages[: turn + 1]) if piece.turn == turn)
        return body.text + stop.text

    def _tokenise(self, run: Sequence[Piece]) -> list[tuple[Piece, list[int], bool]]:
        """The ids of each piece of a run of text, and whether no token of it began before the piece. A token over a border
        belongs to the piece in which it starts."""
        encoded = self.tokenizer(
            "".join(piece.text for piece in run),
            add_special_tokens=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
        )
        tokens = list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))
        parts: list[tuple[Piece, list[int], bool]] = []
        border = position = 0
        for piece in run:
            clean = position == 0 or tokens[position - 1][1][1] <= border
            border += len(piece.text)
            first = position
            while position < len(tokens) and tokens[position][1][0] < border:
                position += 1
            parts.append((piece, [token for token, _ in tokens[first:position]], clean))
        return parts

    def _control_id(self, text: str) -> int:
        token = self.tokenizer.convert_tokens_to_ids(text)
        if token is None or token not in self.tokenizer.added_tokens_decoder:
            raise UserError(f"the chat template writes {text!r}, but the tokenizer has no such control token")
        return int(token)


def load_renderer(model: Path) -> Renderer:
    """The renderer of a model folder on disk. Raises UserError when there is no tokenizer or no chat template we know."""
    stay_offline()
    try:
        from transformers import AutoTokenizer
    except ModuleNotFoundError as error:
        raise MissingExtra("reading a tokenizer needs transformers: pip install 'agentlm-sdk[train]'") from error

    if not (model / "tokenizer_config.json").is_file():
        raise UserError(f"{model} holds no tokenizer (no tokenizer_config.json); give the folder of a Hugging Face chat model")
    return Renderer(AutoTokenizer.from_pretrained(model, local_files_only=True), name=str(model))


def stay_offline() -> None:
    """Nothing of a training run may call home: no downloads by name, and no ping when TRL builds its trainer."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = os.environ["HF_HUB_OFFLINE"] = "1"
    if loaded := sys.modules.get("huggingface_hub.constants"):
        loaded.HF_HUB_DISABLE_TELEMETRY = True  # type: ignore[attr-defined]


def runs(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Pieces grouped as a tokenizer sees them: a control token alone, text up to the next control token together."""
    grouped: list[list[Piece]] = []
    for piece in pieces:
        control = piece.kind in ("control", "stop")
        if control or not grouped or grouped[-1][0].kind in ("control", "stop"):
            grouped.append([piece])
        else:
            grouped[-1].append(piece)
    return grouped


def as_dicts(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages in the form chat templates take."""
    return [{"role": message.role, "content": message.content} for message in messages]


PROBES: tuple[tuple[Message, ...], ...] = tuple(
    tuple(Message.model_validate({"role": role, "content": text}) for role, text in probe)
    for probe in (
        (("user", "one"),),
        (("system", "rule"), ("user", " one\n")),
        (("user", "one"), ("assistant", "two")),
        (("system", "rule"), ("user", "one"), ("assistant", "\ntwo "), ("user", "three"), ("assistant", "four")),
    )
)


def recognise(tokenizer: Tokenizer, name: str) -> Family:
    """The family whose text equals the template's on every probe, with and without the opening of a reply."""

    def template(messages: Sequence[Message], opening: bool) -> str:
        return str(tokenizer.apply_chat_template(as_dicts(messages), tokenize=False, add_generation_prompt=opening))

    for family in (ChatML(_default_system(template)), Llama2()):
        if all(
            template(probe, opening) == "".join(p.text for p in family.pieces(probe) + (family.opening() if opening else []))
            for probe in PROBES
            for opening in (False, probe[-1].role == "user")
        ):
            return family
    digest = canonical_hash(str(tokenizer.chat_template))[:12]
    raise UserError(
        f"the chat template of {name} (hash {digest}, begins {str(tokenizer.chat_template)[:60]!r}) is of no family that can be "
        "trained without guessing; known: ChatML as in SmolLM2 and Qwen2.5, and Llama-2"
    )


def _default_system(template: Callable[[Sequence[Message], bool], str]) -> str | None:
    head, mark, rest = template(PROBES[0], False).partition("<|im_start|>system\n")
    return rest.partition("<|im_end|>")[0] if mark and not head else None
