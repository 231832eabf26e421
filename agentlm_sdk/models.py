"""Models as langchain-core chat models: a served one that keeps what the record needs, a scripted one, and the oracle."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, convert_to_openai_messages
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field, PrivateAttr

from agentlm_sdk.environments import observed_text
from agentlm_sdk.errors import UserError
from agentlm_sdk.protocols import render
from agentlm_sdk.record import Action
from agentlm_sdk.tasks import ReferenceStep


class ModelUnavailable(Exception):
    """The model's server does not answer, or answered with an error that is not the policy's doing."""


class ContextLimit(Exception):
    """The prompt and the tokens asked for do not fit into the model's context."""


class ServedChat(BaseChatModel):
    """A chat model behind an OpenAI-compatible URL.

    Of a vLLM server it keeps, in `response_metadata`: `token_ids`, `prompt_token_ids`, `finish_reason`, `reasoning` and, when asked
    for, `logprobs`. Non-streaming, so that the ids are whole; a count that disagrees with the usage raises ModelUnavailable.
    """

    base_url: str
    """Up to and with `/v1`."""
    model: str
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 192
    seed: int | None = None
    logprobs: bool = False
    timeout: float = 240.0
    """Seconds one reply may take; a reply that takes longer is a failure of the server and is not asked for again."""
    retries: int = 4
    """Further tries after a lost connection, a 429 or a 5xx, with 0.5, 1, 2, ... seconds between them."""
    api_key: str = Field(default_factory=lambda: os.environ.get("AGENTLM_API_KEY", ""), repr=False, exclude=True)
    extra: dict[str, Any] = Field(default_factory=dict)
    """Further fields of the request."""

    _client: httpx.AsyncClient | None = PrivateAttr(default=None)
    _loop: asyncio.AbstractEventLoop | None = PrivateAttr(default=None)

    @property
    def _llm_type(self) -> str:
        return "agentlm-served"

    @property
    def sampling(self) -> dict[str, Any]:
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            **self.extra,
        }

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return asyncio.run(self._agenerate(messages, stop, **kwargs))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        request = {
            "model": self.model,
            "messages": convert_to_openai_messages(messages),
            **{name: value for name, value in self.sampling.items() if value is not None},
            "return_token_ids": True,
            **({"logprobs": True} if self.logprobs else {}),
            **({"stop": stop} if stop else {}),
            **kwargs,
        }
        return _chat_result(await self._post(request))

    async def _post(self, request: dict[str, Any]) -> dict[str, Any]:
        problem = ""
        for attempt in range(self.retries + 1):
            if attempt:
                await asyncio.sleep(0.5 * 2 ** (attempt - 1))
            try:
                response = await self._http().post(f"{self.base_url}/chat/completions", json=request)
            except httpx.ReadTimeout:
                problem = f"no reply within {self.timeout:g} s"
                break
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if response.status_code == 200:
                answer: dict[str, Any] = response.json()
                return answer
            problem = f"HTTP {response.status_code}: {response.text[:500]}"
            if response.status_code == 400 and "context length" in response.text:
                raise ContextLimit(problem)
            if response.status_code != 429 and response.status_code < 500:
                break
        raise ModelUnavailable(f"{self.base_url}: {problem}")

    def _http(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            limits = httpx.Limits(max_connections=None)
            self._client = httpx.AsyncClient(timeout=self.timeout, headers=_key(self.api_key), limits=limits, trust_env=False)
            self._loop = loop
        return self._client


def _chat_result(answer: dict[str, Any]) -> ChatResult:
    choice, usage = answer["choices"][0], answer.get("usage") or {}
    message = choice["message"]
    ids = choice.get("token_ids")
    if ids is not None and usage.get("completion_tokens") not in (None, len(ids)):
        raise ModelUnavailable(f"the server returned {len(ids)} token ids but counts {usage['completion_tokens']}")
    scores = (choice.get("logprobs") or {}).get("content")
    reply = AIMessage(
        content=message.get("content") or "",
        additional_kwargs={"tool_calls": message["tool_calls"]} if message.get("tool_calls") else {},
        response_metadata={
            "finish_reason": choice.get("finish_reason"),
            "token_ids": ids,
            "prompt_token_ids": answer.get("prompt_token_ids"),
            "logprobs": [score["logprob"] for score in scores] if scores else None,
            "reasoning": message.get("reasoning") or message.get("reasoning_content"),
            "model_name": answer.get("model"),
        },
        usage_metadata={
            "input_tokens": usage.get("prompt_tokens", 0),
            "output_tokens": usage.get("completion_tokens", 0),
            "total_tokens": usage.get("total_tokens", 0),
        },
    )
    return ChatResult(generations=[ChatGeneration(message=reply)])


class ScriptedChat(BaseChatModel):
    """Says its replies one after the other, whatever it is asked: for tests and first steps. One too many raises
    ModelUnavailable."""

    replies: list[str]

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        turn = sum(isinstance(message, AIMessage) for message in messages)
        if turn >= len(self.replies):
            raise ModelUnavailable(f"the script has {len(self.replies)} replies, the episode asks for one more")
        return ChatResult(generations=[ChatGeneration(message=AIMessage(content=self.replies[turn]))])


class OracleChat(BaseChatModel):
    """Replays a reference solution turn by turn; an answer of `{output}` is what the turn before printed."""

    reference: Sequence[ReferenceStep]
    slip: str = ""
    """Said first, when not empty: an unreadable reply, so that the reference then follows the loop's correction."""

    @property
    def _llm_type(self) -> str:
        return "oracle"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        turn = sum(isinstance(message, AIMessage) for message in messages)
        if self.slip and turn == 0:
            return ChatResult(generations=[ChatGeneration(message=AIMessage(content=self.slip))])
        turn -= bool(self.slip)
        if turn >= len(self.reference):
            raise ModelUnavailable(f"the reference has {len(self.reference)} steps, the episode asks for one more")
        step = self.reference[turn]
        action = step.action
        if action.name == "answer" and action.arguments.get("answer") == "{output}":
            last = messages[-1]
            assert isinstance(last, HumanMessage)
            action = Action(name="answer", arguments={"answer": observed_text(str(last.content)).strip()})
        return ChatResult(generations=[ChatGeneration(message=AIMessage(content=render(step.thought, action)))])


def _key(api_key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def served_name(base_url: str, *, timeout: float = 5.0) -> str:
    """The first model a server offers. Raises UserError when nothing answers at the URL."""
    try:
        key = _key(os.environ.get("AGENTLM_API_KEY", ""))
        response = httpx.get(f"{base_url}/models", timeout=timeout, headers=key, trust_env=False)
        response.raise_for_status()
        return str(response.json()["data"][0]["id"])
    except (httpx.HTTPError, httpx.InvalidURL, json.JSONDecodeError, KeyError, IndexError, TypeError) as error:
        raise UserError(
            f"no model answers at {base_url}/models ({type(error).__name__}: {error}); "
            "start one with `agentlm-sdk serve MODEL_DIR` or correct the URL"
        ) from error


def normal_url(url: str) -> str:
    """The URL with `/v1` at its end."""
    url = url.rstrip("/")
    return url if url.endswith("/v1") else f"{url}/v1"


def scripted_from(path: Path) -> ScriptedChat:
    """A scripted model from a file with one JSON string a line."""
    try:
        replies = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the scripted replies {path}: {error}") from error
    if not all(isinstance(reply, str) for reply in replies):
        raise UserError(f"{path}: every line must be a JSON string, one reply each")
    return ScriptedChat(replies=replies)
