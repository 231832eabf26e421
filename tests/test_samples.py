"""What cannot be rendered whole is refused by the name of its record, never rendered without a part of it."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers", reason="needs the train extra")

from test_curate import MESSAGES, episode
from tiny_chat import LLAMA2, SMOLLM2, tokenizer

from agentlm_sdk.errors import UserError
from agentlm_sdk.record import Message
from trainers.rendering import Renderer
from trainers.samples import Prepared, from_trajectory, prepare

RENDERERS = [Renderer(tokenizer(SMOLLM2)), Renderer(tokenizer(LLAMA2))]
CALL = {"type": "function", "function": {"name": "bash", "arguments": "{}"}}


def prepared(last: Message, renderer: Renderer) -> Prepared:
    conversation = from_trajectory(episode("e1", messages=[*MESSAGES[1:6], last]))
    return prepare([conversation], renderer, max_length=1000, over_length="error")


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize(
    ("last", "words"),
    [
        (Message(role="assistant", content="", tool_calls=[CALL]), "agent record e1: message 5 holds native tool calls"),
        (Message(role="assistant", content="half \ud800"), r"agent record e1: message 5 holds the lone surrogate '\\ud800'"),
    ],
)
def test_a_reply_that_cannot_be_rendered_whole_is_named(renderer: Renderer, last: Message, words: str) -> None:
    assert len(prepared(Message(role="assistant", content="fine"), renderer).samples) == 1
    with pytest.raises(UserError, match=words):
        prepared(last, renderer)
