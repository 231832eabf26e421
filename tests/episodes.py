"""Made-up finished episodes for the tests of comparison, display and report."""

from __future__ import annotations

from typing import Literal

from agentlm_sdk.record import (
    Action,
    EndCause,
    Failure,
    Message,
    Outcome,
    Policy,
    Reward,
    SandboxRef,
    Step,
    TaskRef,
    Trajectory,
    Usage,
    Verdict,
    canonical_hash,
)

Problem = Literal["invalid_format", "invalid_action", "repetition", "refusal"]


def episode(
    task: str = "count-1",
    *,
    solved: bool = True,
    attempt: int = 0,
    model: str = "base",
    family: str = "count",
    split: str = "test",
    kind: str = "docker",
    image: str = "sha256:os",
    protocol: str = "react",
    prompt_hash: str = "p1",
    temperature: float = 0.0,
    problem: Problem | None = None,
    ended_by: EndCause = EndCause.COMPLETED,
    unmeasured: bool = False,
    instruction: str = "How many files are in /etc?",
    thought: str = "count the files",
    script: str = "ls /etc | wc -l",
    observation: str = "Output:\n42",
    answer: str = "42",
) -> Trajectory:
    """Two turns: a command and an answer; with `problem`, one reply that could not be used and its correction."""
    sql = kind == "sqlite"
    command = Action(name="sql" if sql else "bash", arguments={"query" if sql else "script": script})
    messages = [Message(role="system", content="You solve tasks."), Message(role="user", content=instruction)]
    if problem:
        replies = [(f"Act: maybe\n{script}", "I could not read that reply.")]
        steps = [Step(message=2, problem=problem, problem_detail="no line starts with `Act:`")]
    else:
        replies = [(f"Think: {thought}\nAct: bash\n```bash\n{script}\n```", observation), (f"Act: answer({answer})", "")]
        steps = [
            Step(message=2, action=command, thought=thought, exit_code=None if sql else 0, completion_tokens=20),
            Step(message=4, action=Action(name="answer", arguments={"answer": answer}), completion_tokens=8),
        ]
    for reply, back in replies:
        messages.append(Message(role="assistant", content=reply, sampled=True))
        if back:
            messages.append(Message(role="user", content=back))
    if unmeasured:
        failure = Failure(boundary="sandbox", error="container stopped")
        outcome = Outcome(verdict=Verdict.UNMEASURED, ended_by=EndCause.INFRASTRUCTURE, failure=failure)
    else:
        outcome = Outcome(verdict=Verdict.SOLVED if solved else Verdict.FAILED, ended_by=ended_by, answer=answer)
    return Trajectory(
        id=f"{model}-{task}-{attempt}",
        task=TaskRef(id=task, content_hash=canonical_hash(task), family=family, split=split),
        attempt=attempt,
        policy=Policy(
            model=model, protocol=protocol, prompt_hash=prompt_hash, sampling={"temperature": temperature}, template_hash="t"
        ),
        sandbox=SandboxRef(kind=kind, image=image),
        messages=messages,
        steps=steps,
        rewards=[] if unmeasured else [Reward(name="task", value=float(solved), scorer="answer/1", detail="got 42")],
        outcome=outcome,
        usage=Usage(prompt_tokens=300, completion_tokens=28, model_calls=len(steps)),
    )


def run(model: str, results: dict[str, bool], *, split: str = "test") -> list[Trajectory]:
    """One plain episode a task: task id -> solved."""
    return [episode(task, solved=solved, model=model, split=split) for task, solved in results.items()]
