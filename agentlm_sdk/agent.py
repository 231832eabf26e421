"""The agent loop: a model, a world, one task, one trajectory. Everything it does goes to the journal as it happens."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from agentlm_sdk.environments import Observation, ShellWorld, SqlWorld, TaskBroken, World, neutralise
from agentlm_sdk.errors import UserError
from agentlm_sdk.journal import JournalWriter, new_episode_id, utc_now
from agentlm_sdk.models import ContextLimit, ModelUnavailable, ServedChat
from agentlm_sdk.protocols import Malformed, parse
from agentlm_sdk.record import (
    Action,
    EndCause,
    Failure,
    Message,
    Outcome,
    Policy,
    Reward,
    Step,
    TaskRef,
    Trajectory,
    Usage,
    Verdict,
    canonical_hash,
    pack_ids,
)
from agentlm_sdk.tasks import Task
from sandboxes.base import Database, Sandbox, SandboxError

REPEATS = 3
"""The same reply this many times running ends the episode (AgentTuning's rule, arXiv 2310.12823)."""


@dataclass(kw_only=True, slots=True)
class Episode:
    """An episode while it runs."""

    id: str
    journal: JournalWriter | None
    messages: list[Message] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    rewards: list[Reward] = field(default_factory=list)
    answer: str | None = None
    failure: Failure | None = None
    prompt_ids: list[int] = field(default_factory=list)
    """Ids of the previous call: its prompt and what was sampled."""

    def say(self, message: Message) -> None:
        self.messages.append(message)
        if self.journal:
            self.journal.message(self.id, message)

    def did(self, step: Step) -> None:
        self.steps.append(step)
        if self.journal:
            self.journal.step(self.id, step)


class Agent:
    """A ReAct agent: any langchain-core chat model over a shell, a database, or a world of your own.

    `run` opens the sandbox, runs one episode and closes it again; an agent runs one episode at a time. Failures of ours (model,
    sandbox, task) end in a trajectory with `outcome.failure`, never in a reward of 0.
    """

    def __init__(
        self,
        model: BaseChatModel,
        place: World | Sandbox | Database,
        *,
        max_turns: int | None = None,
        malformed_budget: int = 3,
        time_limit: float = 600.0,
        policy: Policy | None = None,
    ) -> None:
        """`malformed_budget`: the reply that brings the unreadable or refused replies to this number ends the episode.
        `time_limit`: seconds for the whole episode. `max_turns`: model replies; None: the task's own, 8 for a plain string."""
        self.model = model
        self.world: World = _world(place)
        self.max_turns = max_turns
        self.malformed_budget = malformed_budget
        self.time_limit = time_limit
        self.policy = (policy or describe(model)).model_copy(
            update={"prompt_hash": canonical_hash([self.world.system, list(self.world.actions)])}
        )

    async def run(
        self,
        task: Task | str,
        *,
        journal: JournalWriter | None = None,
        attempt: int = 0,
        rerun: int = 0,
    ) -> Trajectory:
        """One episode. A plain string is a task without a judge: its verdict stays `unmeasured`."""
        ref = task.ref() if isinstance(task, Task) else _adhoc(task)
        episode = Episode(id=new_episode_id(), journal=journal)
        started, began = utc_now(), time.monotonic()
        if journal:
            journal.start(
                episode.id,
                task=ref,
                attempt=attempt,
                rerun=rerun,
                policy=self.policy,
                sandbox=self.world.ref,
                started=started,
            )
        ended_by, verdict = EndCause.INFRASTRUCTURE, Verdict.UNMEASURED
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._close)
            try:
                await self.world.start()
                first = await self.world.prepare(task) if isinstance(task, Task) else task
                ended_by = await self._converse(episode, first, task)
                if isinstance(task, Task):
                    reward = await self.world.judge(task, episode.answer)
                    episode.rewards.append(reward)
                    if journal:
                        journal.reward(episode.id, reward)
                    verdict = Verdict.SOLVED if reward.value >= 1.0 else Verdict.FAILED
            except ModelUnavailable as error:
                episode.failure = Failure(boundary="model", error=str(error))
            except SandboxError as error:
                episode.failure = Failure(boundary="sandbox", error=str(error))
            except (TaskBroken, UserError, ValueError) as error:
                episode.failure = Failure(boundary="task", error=str(error))
            sandbox = self.world.ref
        if episode.failure:
            ended_by, verdict = EndCause.INFRASTRUCTURE, Verdict.UNMEASURED
        outcome = Outcome(verdict=verdict, ended_by=ended_by, answer=episode.answer, failure=episode.failure)
        usage = _usage(episode.steps, time.monotonic() - began)
        if journal:
            journal.end(episode.id, outcome, usage, sandbox=sandbox)
        return Trajectory(
            id=episode.id,
            task=ref,
            attempt=attempt,
            rerun=rerun,
            policy=self.policy,
            sandbox=sandbox,
            messages=episode.messages,
            steps=episode.steps,
            rewards=episode.rewards,
            outcome=outcome,
            usage=usage,
            started=started,
        )

    def run_sync(self, task: Task | str) -> Trajectory:
        """`run` for code that has no event loop of its own. Raises RuntimeError inside a running loop: await `run` there."""
        return asyncio.run(self.run(task))

    async def _close(self) -> None:
        try:
            await self.world.close()
        except SandboxError as error:  # what was judged stays judged; the reaper removes what is left
            logging.getLogger(__name__).warning("closing a sandbox failed: %s", error)

    async def _converse(self, episode: Episode, first: str, task: Task | str) -> EndCause:
        max_turns = self.max_turns or (task.max_turns if isinstance(task, Task) else 8)
        episode.say(Message(role="system", content=self.world.system))
        episode.say(Message(role="user", content=first))
        malformed = 0
        deadline = time.monotonic() + self.time_limit
        for turn in range(max_turns):
            began = time.monotonic()
            try:
                async with asyncio.timeout(deadline - began):  # never around a command: to cancel one ends its sandbox
                    reply = await self.model.ainvoke(_chat(episode.messages))
            except TimeoutError:
                return EndCause.TIME_LIMIT
            except ContextLimit:
                return EndCause.CONTEXT_LIMIT
            except (ModelUnavailable, SandboxError):
                raise
            except Exception as error:  # any chat model may be handed in; what it raises is a failure of the model boundary
                raise ModelUnavailable(f"{type(error).__name__}: {error}") from error
            model_seconds = time.monotonic() - began
            assert isinstance(reply, AIMessage)
            message = _sampled(reply, episode)
            episode.say(message)
            used = reply.usage_metadata
            base = Step(
                message=len(episode.messages) - 1,
                model_seconds=round(model_seconds, 4),
                prompt_tokens=used["input_tokens"] if used else 0,
                completion_tokens=used["output_tokens"] if used else 0,
            )
            read = parse(message.content, self.world.actions)
            if isinstance(read, Malformed):
                malformed += 1
                reason, neutralised = neutralise(read.reason)
                update = {"problem": read.kind, "problem_detail": reason, "neutralised": neutralised}
                episode.did(base.model_copy(update=update))
                if _repeats(episode.messages):
                    return EndCause.REPETITION
                if malformed >= self.malformed_budget:
                    return EndCause(read.kind)
                if turn + 1 < max_turns:
                    episode.say(Message(role="user", content=f"That could not be read: {reason}. {_FORM}"))
                continue
            if _repeats(episode.messages):
                episode.did(_acted(base, read.thought, read.action, problem="repetition"))
                return EndCause.REPETITION
            if read.action.name in ("answer", "finish"):
                episode.answer = read.action.arguments.get("answer")
                episode.did(_acted(base, read.thought, read.action))
                return EndCause.COMPLETED
            seen = await self.world.step(read.action)
            episode.did(_acted(base, read.thought, read.action, seen))
            if seen.done:
                return EndCause.COMPLETED
            if turn + 1 < max_turns:
                episode.say(Message(role="user", content=seen.text))
        return EndCause.TURN_LIMIT


_FORM = "Reply with `Think: ...` and one `Act: ...`."


def describe(model: BaseChatModel) -> Policy:
    """What the record can say of a chat model that somebody handed in."""
    name = str(getattr(model, "model_name", None) or getattr(model, "model", None) or model._llm_type)
    sampling = model.sampling if isinstance(model, ServedChat) else {}
    return Policy(model=name, sampling=sampling)


def _world(place: World | Sandbox | Database) -> World:
    if isinstance(place, Sandbox):
        return ShellWorld(place)
    if isinstance(place, Database):
        return SqlWorld(place)
    return place


def _adhoc(instruction: str) -> TaskRef:
    digest = canonical_hash(instruction)
    return TaskRef(id=f"adhoc/{digest[:8]}", content_hash=digest, family="adhoc", split="")


def _chat(messages: Sequence[Message]) -> list[BaseMessage]:
    kinds: dict[str, type[BaseMessage]] = {"system": SystemMessage, "user": HumanMessage, "assistant": AIMessage}
    return [kinds[message.role](content=message.content) for message in messages]


def _sampled(reply: AIMessage, episode: Episode) -> Message:
    """The model's message with what the server told of it; of the prompt's ids only those this call added."""
    told: dict[str, Any] = reply.response_metadata
    ids, prompt = told.get("token_ids"), told.get("prompt_token_ids")
    shared = 0
    if ids is not None and prompt is not None:
        shared = _shared(episode.prompt_ids, prompt)
        episode.prompt_ids = [*prompt, *ids]
    return Message(
        role="assistant",
        content=reply.text,
        sampled=True,
        tool_calls=reply.additional_kwargs.get("tool_calls", []),
        token_ids=None if ids is None else pack_ids(ids),
        prompt_token_ids=None if prompt is None else pack_ids(prompt[shared:]),
        prompt_shared=shared,
        logprobs=told.get("logprobs"),
        stop_reason=told.get("finish_reason"),
        reasoning=told.get("reasoning"),
    )


def _shared(before: Sequence[int], now: Sequence[int]) -> int:
    """Length of the common prefix."""
    for index, (left, right) in enumerate(zip(before, now, strict=False)):
        if left != right:
            return index
    return min(len(before), len(now))


def _repeats(messages: Sequence[Message]) -> bool:
    said = [message.content for message in messages if message.sampled][-REPEATS:]
    return len(said) == REPEATS and len(set(said)) == 1


def _acted(
    step: Step,
    thought: str,
    action: Action,
    seen: Observation | None = None,
    problem: Literal["repetition"] | None = None,
) -> Step:
    shown = (
        {
            "exit_code": seen.exit_code,
            "timed_out": seen.timed_out,
            "output_bytes": seen.output_bytes,
            "neutralised": seen.neutralised,
            "action_seconds": round(seen.seconds, 4),
        }
        if seen
        else {}
    )
    return step.model_copy(update={"thought": thought, "action": action, "problem": problem, **shown})


def _usage(steps: Sequence[Step], wall: float) -> Usage:
    return Usage(
        prompt_tokens=sum(step.prompt_tokens for step in steps),
        completion_tokens=sum(step.completion_tokens for step in steps),
        model_calls=len(steps),
        model_seconds=round(sum(step.model_seconds for step in steps), 4),
        sandbox_seconds=round(sum(step.action_seconds for step in steps), 4),
        wall_seconds=round(wall, 4),
    )
