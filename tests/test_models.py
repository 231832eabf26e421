"""The served chat model against a real HTTP server of ours, and vLLM where it is installed."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from agentlm_sdk.models import ContextLimit, ModelUnavailable, ServedChat, normal_url, served_name

ANSWER = {
    "model": "m",
    "choices": [{"message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop", "token_ids": [5, 2]}],
    "prompt_token_ids": [1, 2, 3],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}


@contextmanager
def server(*answers: tuple[int, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An HTTP server that gives these answers in turn, the last one for ever, and keeps what it was asked."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            code, answer = answers[min(len(asked), len(answers) - 1)]
            asked.append(json.loads(body))
            self.reply(code, answer)

        def do_GET(self) -> None:
            self.reply(200, {"data": [{"id": "m"}]})

        def reply(self, code: int, answer: Any) -> None:
            text = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *words: Any) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/v1", asked
    finally:
        http.shutdown()
        http.server_close()


def ask(url: str, **settings: Any) -> Any:
    return asyncio.run(ServedChat(base_url=url, model="m", **settings).ainvoke([HumanMessage("hello")]))


def test_it_keeps_ids_stop_reason_and_usage() -> None:
    with server((200, ANSWER)) as (url, asked):
        reply = ask(url, temperature=0.5, seed=3)
    assert reply.content == "hi"
    assert reply.response_metadata["token_ids"] == [5, 2]
    assert reply.response_metadata["prompt_token_ids"] == [1, 2, 3]
    assert reply.response_metadata["finish_reason"] == "stop"
    assert reply.usage_metadata["output_tokens"] == 2
    assert asked[0]["return_token_ids"] is True and asked[0]["temperature"] == 0.5 and asked[0]["seed"] == 3


def test_a_server_that_stumbles_is_asked_again() -> None:
    with server((503, {"error": "busy"}), (429, {"error": "slow down"}), (200, ANSWER)) as (url, asked):
        assert ask(url).content == "hi"
    assert len(asked) == 3


def test_a_refused_request_is_not_retried() -> None:
    with server((400, {"error": "no such field"})) as (url, asked), pytest.raises(ModelUnavailable, match="HTTP 400"):
        ask(url)
    assert len(asked) == 1


def test_a_full_context_is_the_episodes_end_not_a_failure() -> None:
    refusal = {"error": {"message": "This model's maximum context length is 10 tokens"}}
    with server((400, refusal)) as (url, _), pytest.raises(ContextLimit):
        ask(url)


def test_ids_that_disagree_with_the_usage_are_not_believed() -> None:
    wrong = {**ANSWER, "usage": {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10}}
    with server((200, wrong)) as (url, _), pytest.raises(ModelUnavailable, match="2 token ids but counts 7"):
        ask(url)


def test_the_key_is_neither_printed_nor_recorded() -> None:
    chat = ServedChat(base_url="http://x/v1", model="m", api_key="s3cret")
    assert "s3cret" not in repr(chat) and "s3cret" not in json.dumps(chat.sampling)


def test_the_served_name_and_the_url() -> None:
    with server((200, ANSWER)) as (url, _):
        assert served_name(url) == "m"
    assert normal_url("http://h:1/") == normal_url("http://h:1/v1") == "http://h:1/v1"
