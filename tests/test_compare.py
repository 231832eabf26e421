"""A comparison pairs the right episodes, refuses unlike runs, and says better only when it is so."""

from __future__ import annotations

import io
import json
import math
import random

import pytest
from episodes import episode, run
from rich.console import Console

from agentlm_sdk.compare import Answer, Comparison, GeneralLoss, compare, headline, render, summarise
from agentlm_sdk.errors import UserError
from agentlm_sdk.record import EndCause, Trajectory


def results(n: int, solved: int) -> dict[str, bool]:
    return {f"task-{index}": index < solved for index in range(n)}


def printed(comparison: Comparison, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system="truecolor")
    console.print(render(comparison))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_clear_gain_is_better() -> None:
    found = compare(run("base", results(40, 2)), run("tuned", results(40, 30)))
    assert found.verdict is Answer.BETTER
    assert found.exit_code == 0
    assert (found.overall.table.both, found.overall.table.only_a, found.overall.table.only_b) == (2, 0, 28)
    assert found.overall.table.neither == 10
    assert found.overall.mcnemar_p == 2 / 2**28
    assert found.overall.b.rate == 0.75
    assert found.overall.b.low < 0.75 < found.overall.b.high
    assert found.reasons[0].startswith("it solves 30 of 40 tasks, where the other solves 2")


def test_a_clear_loss_is_not_better() -> None:
    found = compare(run("base", results(40, 30)), run("tuned", results(40, 2)))
    assert (found.verdict, found.exit_code) == (Answer.NOT_BETTER, 1)
    assert found.reasons[0] == "it does worse at 28 tasks and better at 0"


def attempts(model: str, solved_of_ten: dict[str, int]) -> list[Trajectory]:
    return [episode(task, solved=k < n, attempt=k, model=model) for task, n in solved_of_ten.items() for k in range(10)]


SMALL = [f"small-{index}" for index in range(20)]
LARGE = [f"large-{index}" for index in range(3)]


def test_a_few_large_gains_do_not_outweigh_many_small_losses() -> None:
    a = attempts("base", dict.fromkeys(SMALL, 10) | dict.fromkeys(LARGE, 0))
    b = attempts("tuned", dict.fromkeys(SMALL, 9) | dict.fromkeys(LARGE, 10))
    found = compare(a, b)
    assert found.overall.gain == pytest.approx(1 / 23)
    assert (found.overall.votes_for, found.overall.votes_against) == (3, 20)
    assert found.overall.mcnemar_p < 0.001
    assert found.verdict is Answer.NOT_BETTER
    assert found.reasons[0] == "it does worse at 20 tasks and better at 3"


def test_many_small_gains_beside_a_loss_of_the_mean_are_not_called_better() -> None:
    a = attempts("base", dict.fromkeys(SMALL, 9) | dict.fromkeys(LARGE, 10))
    b = attempts("tuned", dict.fromkeys(SMALL, 10) | dict.fromkeys(LARGE, 0))
    found = compare(a, b)
    assert found.overall.gain < 0 and found.overall.mcnemar_p < 0.001
    assert found.verdict is Answer.NOT_ENOUGH_EVIDENCE


def test_the_unmeasured_counted_against_it_may_turn_the_votes_but_not_the_mean() -> None:
    """Six tasks gain all of their attempts; the others, equal, would be losses if the unmeasured had failed."""
    a = attempts("base", dict.fromkeys(SMALL, 9) | {f"{task}-{n}": 0 for task in LARGE for n in range(2)})
    b = attempts("tuned", dict.fromkeys(SMALL, 9) | {f"{task}-{n}": 10 for task in LARGE for n in range(2)})
    assert compare(a, b).verdict is Answer.BETTER
    b = [episode(e.task.id, attempt=0, model="tuned", unmeasured=True) if e.attempt == 0 and e.task.id in SMALL else e for e in b]
    found = compare(a, b)
    assert found.overall.votes_for == 6 and found.overall.mcnemar_p < 0.05 and found.overall.gain_worst > 0
    assert found.verdict is Answer.NOT_ENOUGH_EVIDENCE
    assert "could not be measured" in found.reasons[1]


def test_few_tasks_are_not_enough_evidence_and_say_how_many_more() -> None:
    found = compare(run("base", results(10, 2)), run("tuned", results(10, 5)))
    assert (found.verdict, found.exit_code) == (Answer.NOT_ENOUGH_EVIDENCE, 2)
    assert found.more_tasks is not None
    assert 5 < found.more_tasks < 60
    assert f"about {found.more_tasks} more tasks" in found.reasons[1]


def test_no_change_over_many_tasks_rules_a_gain_out() -> None:
    found = compare(run("base", results(60, 20)), run("tuned", results(60, 20)))
    assert found.verdict is Answer.NOT_BETTER
    assert "a gain of 10 points or more is ruled out" in found.reasons[1]


def test_equal_models_are_seldom_called_better() -> None:
    """2,000 comparisons of a model with itself: at most 5 % may say better. Tasks differ in difficulty."""
    rng = random.Random(11)
    tasks = [f"task-{index}" for index in range(24)]
    chance = {task: rng.random() for task in tasks}
    made = {(task, solved): episode(task, solved=solved) for task in tasks for solved in (True, False)}

    def sampled() -> list[Trajectory]:
        return [made[task, rng.random() < chance[task]] for task in tasks]

    better = sum(compare(sampled(), sampled()).verdict is Answer.BETTER for _ in range(2000))
    assert better <= 100


def test_repeating_a_greedy_episode_adds_no_certainty() -> None:
    once = compare(run("base", results(5, 0)), run("tuned", results(5, 4)))
    a = [episode(f"task-{index}", solved=False, attempt=k) for index in range(5) for k in range(20)]
    b = [episode(f"task-{index}", solved=index < 4, attempt=k, model="tuned") for index in range(5) for k in range(20)]
    often = compare(a, b)
    assert often.overall.n == 100
    assert often.overall.tasks == 5
    assert often.overall.mcnemar_p == once.overall.mcnemar_p == 0.125
    assert often.verdict is Answer.NOT_ENOUGH_EVIDENCE
    assert often.overall.b.low == pytest.approx(once.overall.b.low)


def test_missing_tasks_are_named_and_refused_unless_allowed() -> None:
    a, b = run("base", results(12, 2)), run("tuned", results(10, 9))
    with pytest.raises(UserError, match=r"2 only in the first run \(task-10, task-11\).*allow 'tasks'"):
        compare(a, b)
    found = compare(a, b, allow=["tasks"])
    assert found.overall.n == 10
    assert "task-11" in found.differences["tasks"]


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("protocol", {"protocol": "tools"}),
        ("prompt", {"prompt_hash": "p2"}),
        ("sandbox", {"image": "sha256:other"}),
        ("sampling", {"temperature": 1.0}),
        ("splits", {"split": "heldout"}),
    ],
)
def test_unlike_runs_are_refused_by_name(name: str, other: dict[str, str]) -> None:
    a, b = [episode("one")], [episode("one", model="tuned", **other)]  # type: ignore[arg-type]
    with pytest.raises(UserError, match=f"{name}: "):
        compare(a, b)
    assert name in compare(a, b, allow=[name]).differences


def test_train_tasks_are_no_proof() -> None:
    a, b = run("base", results(9, 0), split="train"), run("tuned", results(9, 9), split="train")
    with pytest.raises(UserError, match="9 pairs are of the train split"):
        compare(a, b)


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="did you mean 'sandbox'"):
        compare([episode()], [episode()], allow=["sandboxes"])
    with pytest.raises(UserError, match="share no task"):
        compare([episode("one")], [episode("two")])
    with pytest.raises(UserError, match="two results of count-1"):
        compare([episode(), episode()], [episode()])
    with pytest.raises(UserError, match=r"several models \(base, other\)"):
        compare([episode("one"), episode("two", model="other")], [episode("one"), episode("two")])


def test_unmeasured_episodes_leave_the_pairs_and_bound_the_gain() -> None:
    a, b = run("base", results(20, 0)), run("tuned", results(20, 18))
    b[0] = episode("task-0", model="tuned", unmeasured=True)
    found = compare(a, b)
    assert found.verdict is Answer.BETTER
    assert (found.overall.n, found.overall.excluded, found.overall.b.unmeasured) == (19, 1, 1)
    assert (found.overall.b.rate_worst, found.overall.b.rate_best) == (17 / 20, 18 / 20)
    assert found.overall.gain_worst == pytest.approx(0.85)
    assert found.overall.gain_best == pytest.approx(0.9)
    assert "1 pairs not measured (A 0, B 1)" in printed(found)


def test_better_must_hold_if_the_unmeasured_spoke_against_it() -> None:
    """A model that kills its sandbox whenever it would fail must not win by that."""
    a, b = run("base", results(20, 10)), run("tuned", results(20, 20))
    for index in range(6):
        b[index] = episode(f"task-{index}", model="tuned", unmeasured=True)
    found = compare(a, b)
    assert found.overall.mcnemar_p < 0.05
    assert found.verdict is Answer.NOT_ENOUGH_EVIDENCE
    assert "6 pairs could not be measured" in found.reasons[1]


def test_a_rerun_replaces_an_unmeasured_episode() -> None:
    a = [episode("one", unmeasured=True), episode("one", solved=False)]
    found = compare(a, [episode("one", model="tuned")])
    assert (found.overall.n, found.overall.excluded) == (1, 0)


def test_nothing_measured_is_not_enough_evidence() -> None:
    found = compare([episode(unmeasured=True)], [episode(model="tuned")])
    assert found.verdict is Answer.NOT_ENOUGH_EVIDENCE
    assert (found.overall.n, found.overall.mcnemar_p) == (0, 1.0)
    printed(found)


@pytest.mark.parametrize(("tuned", "verdict"), [(2.05, Answer.BETTER), (2.2, Answer.NOT_BETTER), (math.nan, Answer.NOT_BETTER)])
def test_lost_general_skill_forbids_better(tuned: float, verdict: Answer) -> None:
    loss = GeneralLoss(base=2.0, tuned=tuned)
    found = compare(run("base", results(40, 2)), run("tuned", results(40, 30)), general_loss=loss)
    assert found.verdict is verdict
    assert ("general chat" in found.reasons[0]) == (verdict is Answer.NOT_BETTER)


def test_a_split_that_got_worse_forbids_better() -> None:
    held = {f"held-{index}": True for index in range(12)}
    a = run("base", results(60, 0)) + run("base", held, split="heldout")
    b = run("tuned", results(60, 55)) + run("tuned", dict.fromkeys(held, False), split="heldout")
    found = compare(a, b)
    assert found.verdict is Answer.NOT_BETTER
    assert found.reasons[0].startswith("it got worse on heldout")
    assert [split.name for split in found.splits] == ["test", "heldout"]


def test_families_and_errors_are_counted() -> None:
    a = [
        episode("x1", solved=False, family="move", problem="invalid_format", ended_by=EndCause.INVALID_FORMAT),
        episode("x2", solved=False, family="move", problem="repetition", ended_by=EndCause.REPETITION),
        episode("y1", solved=False, family="count", ended_by=EndCause.TURN_LIMIT),
    ]
    b = [episode(e.task.id, family=e.task.family, model="tuned") for e in a]
    found = compare(a, b)
    assert [(row.family, row.n, row.a, row.b) for row in found.families] == [("count", 1, 0, 1), ("move", 2, 0, 2)]
    side = found.overall.a
    assert (side.steps, side.malformed, side.malformed_rate, side.mean_turns) == (4, 1, 0.25, 4 / 3)
    assert {kind: n for kind, n in side.errors.items() if n} == {"invalid_format": 1, "repetition": 1, "turn_limit": 1}
    assert (side.prompt_tokens, side.completion_tokens) == (900, 84)


def test_the_summary_is_plain_json() -> None:
    found = compare(run("base", results(40, 2)), run("tuned", results(40, 30)), general_loss=GeneralLoss(base=2, tuned=2.1))
    summary = json.loads(json.dumps(summarise(found), allow_nan=False))
    assert set(summary) == {"test", "heldout", "general_loss"}
    assert summary["heldout"] is None
    assert summary["test"]["tuned"]["solved"] == 30
    assert summary["test"]["pairs"]["only_tuned"] == 28
    assert summary["general_loss"] == {"base": 2.0, "tuned": 2.1}
    assert Comparison.model_validate_json(found.model_dump_json()) == found


def test_the_terminal_table_shows_the_numbers_and_no_hostile_name() -> None:
    family = "[red]\x1b]0;owned\x07 \u202egnp"
    a = [episode("x1", solved=False, family=family, model="\x1b[2Jbase"), episode("y1", solved=False)]
    b = [episode("x1", family=family, model="tuned"), episode("y1", model="tuned")]
    a = [e.model_copy(update={"policy": a[0].policy}) for e in a]
    text = printed(compare(a, b), width=80)
    assert "\x1b]0" not in text
    assert "\x1b[2J" not in text
    assert "\u202e" not in text
    assert "[red]\\x1b]0;owned\\x07 \\u202egnp" in text
    assert "2/2" in text
    assert headline(compare(a, b)) in text
