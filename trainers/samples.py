"""A conversation of either source, and the samples made of it: rendered, measured, and everything left out with its reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from agentlm_sdk.errors import UserError
from agentlm_sdk.record import Message, Trajectory
from trainers.rendering import Rendered, Renderer

Source = Literal["agent", "general"]
SOURCES: tuple[Source, ...] = ("agent", "general")


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """What a model is to learn from, before any token."""

    id: str
    source: Source
    messages: tuple[Message, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A conversation and its tokens."""

    conversation: Conversation
    rendered: Rendered

    @property
    def tokens(self) -> int:
        return len(self.rendered.ids)

    @property
    def trained_tokens(self) -> int:
        return self.rendered.trained_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """Every conversation is in `samples` or, by id, under one reason in `dropped`."""

    samples: list[Sample]
    dropped: dict[str, list[str]]

    @property
    def taken_in(self) -> int:
        return len(self.samples) + sum(len(ids) for ids in self.dropped.values())


def from_trajectory(trajectory: Trajectory) -> Conversation:
    return Conversation(id=trajectory.id, source="agent", messages=tuple(trajectory.messages))


def prepare(
    conversations: Iterable[Conversation],
    renderer: Renderer,
    *,
    max_length: int,
    over_length: Literal["error", "drop"],
) -> Prepared:
    """Render conversations; nothing is ever cut. One longer than `max_length` is a UserError that names it, or dropped by name."""
    samples: list[Sample] = []
    dropped: dict[str, list[str]] = {"over_length": [], "nothing_to_learn": []}
    for conversation in conversations:
        try:
            sample = Sample(conversation=conversation, rendered=renderer.render(conversation.messages))
        except UserError as error:
            raise UserError(f"{conversation.source} record {conversation.id}: {error}") from error
        if sample.tokens > max_length and over_length == "error":
            raise UserError(
                f"{conversation.source} record {conversation.id} has {sample.tokens} tokens, more than the pack length "
                f"{max_length}; nothing is ever cut: raise pack_length, or set over_length to drop"
            )
        if sample.tokens > max_length:
            dropped["over_length"].append(conversation.id)
        elif not sample.trained_tokens:
            dropped["nothing_to_learn"].append(conversation.id)
        else:
            samples.append(sample)
    return Prepared(samples=samples, dropped=dropped)
