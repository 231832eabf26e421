"""Episodes for human eyes. What a model or a sandbox wrote is made harmless first: it may try to drive the terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from agentlm_sdk.record import Action, EndCause, Message, Step, Trajectory


def neutral(text: str) -> str:
    """The text with everything invisible shown as an escape: controls (also C1), terminal escapes, bidi overrides,
    zero-width characters, lone surrogates. New lines, tabs and spaces stay. HTML needs its own escaping as well.
    """
    return "".join(char if _visible(char) else _escaped(char) for char in text)


def neutral_line(text: str, limit: int = 200) -> str:
    """`neutral` for one cell or heading: new lines and tabs are escaped too, and a long text ends in `…`."""
    line = neutral(text[: limit + 1]).replace("\n", "\\n").replace("\t", "\\t")
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _visible(char: str) -> bool:
    return char.isprintable() or char in "\n\t" or unicodedata.category(char) == "Zs"


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One reply of the model and what came back, as recorded: nothing here is made harmless yet."""

    number: int
    reply: str
    """The reply as it came."""
    step: Step
    observations: tuple[str, ...]
    """The messages between this reply and the next one."""

    @property
    def action_text(self) -> str:
        """The script, query or answer; the whole reply where no action could be read."""
        action = self.step.action
        return self.reply if action is None else action_text(action)

    @property
    def result(self) -> str:
        """Exit code and trouble in a few words; empty for a plain action without one."""
        step = self.step
        parts = [] if step.exit_code is None else [f"exit {step.exit_code}"]
        if step.timed_out:
            parts.append("timed out")
        if step.neutralised:
            parts.append(f"{step.neutralised} control sequences neutralised")
        if step.problem:
            detail = f": {step.problem_detail}" if step.problem_detail else ""
            parts.append(step.problem.replace("_", " ") + detail)
        return ", ".join(parts)


def action_text(action: Action) -> str:
    """What an action would do, without its name: the text of its one argument, or `name=value` lines for several."""
    match list(action.arguments.items()):
        case []:
            return ""
        case [(_, value)]:
            return str(value)
        case several:
            return "\n".join(f"{name}={value}" for name, value in several)


def prompt(trajectory: Trajectory) -> list[Message]:
    """The messages before the model's first reply."""
    first = min((step.message for step in trajectory.steps), default=len(trajectory.messages))
    return trajectory.messages[:first]


def turns(trajectory: Trajectory) -> Iterator[Turn]:
    """The replies of the model in order, each with what came back."""
    steps = sorted(trajectory.steps, key=lambda step: step.message)
    ends = [step.message for step in steps[1:]] + [len(trajectory.messages)]
    for number, (step, end) in enumerate(zip(steps, ends, strict=True), 1):
        after = trajectory.messages[step.message + 1 : end]
        yield Turn(
            number=number,
            reply=trajectory.messages[step.message].content,
            step=step,
            observations=tuple(message.content for message in after),
        )


def ending(trajectory: Trajectory) -> str:
    """Verdict, what ended the episode and how long it was, in one line."""
    outcome = trajectory.outcome
    words = [str(outcome.verdict), f"{len(trajectory.steps)} turn{'s' * (len(trajectory.steps) != 1)}"]
    if outcome.ended_by is not EndCause.COMPLETED:
        words.insert(1, f"ended by {outcome.ended_by.replace('_', ' ')}")
    if outcome.failure:
        words.append(f"{outcome.failure.boundary}: {neutral_line(outcome.failure.error)}")
    return ", ".join(words)


def trajectory_text(trajectory: Trajectory) -> str:
    """One episode as plain text that is safe to print: task, outcome, then each message, indented so that none can pass
    for a heading."""
    return "".join(f"{line}\n" for line in _lines(trajectory))


def _lines(trajectory: Trajectory) -> Iterator[str]:
    task, policy = trajectory.task, trajectory.policy
    by_message = {turn.step.message: turn for turn in turns(trajectory)}
    family, split, place = map(neutral_line, (task.family, task.split, trajectory.sandbox.kind))
    yield f"task {neutral_line(task.id)}  ({family}, {split})"
    yield f"model {neutral_line(policy.model)}  attempt {trajectory.attempt}  in {place}"
    yield ending(trajectory)
    for reward in trajectory.rewards:
        name, scorer, detail = map(neutral_line, (reward.name, reward.scorer, reward.detail))
        yield f"reward {name} {reward.value:g} by {scorer}  {detail}".rstrip()
    for index, message in enumerate(trajectory.messages):
        turn = by_message.get(index)
        heading = message.role + (f", turn {turn.number}" if turn else "")
        if turn and turn.result:
            heading += f"  [{neutral_line(turn.result)}]"
        yield ""
        yield heading
        for text in [message.content, *map(str, message.tool_calls)]:
            yield from (f"  {line}" for line in neutral(text.rstrip("\n")).split("\n"))
