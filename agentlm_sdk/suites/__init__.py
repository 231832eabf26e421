"""Task suites that ship with the SDK, and their nouns: a family writes drafts, a draft becomes a task."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from agentlm_sdk.record import Action
from agentlm_sdk.tasks import AnswerJudge, Judge, ReferenceStep

Kind = Literal["shell", "sqlite"]

Say = tuple[str, str]
"""One step of a solution: the thought, and the command or statement."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """One generated task before it has an id and a split."""

    instruction: str
    setup: str
    """A bash script for a shell, CREATE TABLE and INSERT statements for a database."""
    judge: Judge
    reference: tuple[ReferenceStep, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """Tasks that differ in names, numbers and wording, and are solved the same way."""

    name: str
    kind: Kind
    make: Callable[[random.Random], Draft]
    """One draft; the generator's state decides which."""


def question(
    rng: random.Random,
    kind: Kind,
    *,
    wordings: Sequence[str],
    form: str,
    setup: str,
    steps: Sequence[Say],
    expected: str | int,
) -> Draft:
    """A task that ends with an answer: the whole output of the last step. `form` says what to answer with."""
    return Draft(
        instruction=f"{pick(rng, wordings)} Answer with the {form} only.",
        setup=setup,
        judge=AnswerJudge(expected=[str(expected)], compare="number" if isinstance(expected, int) else "text"),
        reference=(
            *_steps(kind, steps),
            ReferenceStep(thought="The output is the answer.", action=Action(name="answer", arguments={"answer": "{output}"})),
        ),
    )


def chore(rng: random.Random, kind: Kind, *, wordings: Sequence[str], setup: str, steps: Sequence[Say], judge: Judge) -> Draft:
    """A task that ends with a changed state, which the judge inspects."""
    return Draft(
        instruction=pick(rng, wordings),
        setup=setup,
        judge=judge,
        reference=(
            *_steps(kind, steps),
            ReferenceStep(thought="The change is made.", action=Action(name="finish")),
        ),
    )


def _steps(kind: Kind, steps: Sequence[Say]) -> list[ReferenceStep]:
    name, argument = ("bash", "script") if kind == "shell" else ("sql", "query")
    return [ReferenceStep(thought=thought, action=Action(name=name, arguments={argument: command})) for thought, command in steps]


# Of all methods of Random, Python promises the same numbers in every version for `random()` only, so these use no other.


def between(rng: random.Random, low: int, high: int) -> int:
    """A number from `low` to `high`, both possible."""
    return low + int(rng.random() * (high - low + 1))


def pick(rng: random.Random, pool: Sequence[T]) -> T:
    return pool[between(rng, 0, len(pool) - 1)]


def several(rng: random.Random, pool: Sequence[T], count: int) -> list[T]:
    """`count` different members of the pool in random order."""
    left = list(pool)
    return [left.pop(between(rng, 0, len(left) - 1)) for _ in range(count)]


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Plain words that small tokenizers hold in one or two tokens. None is part of another, so grep finds whole words.

WORDS = words(
    """
    maple river stone garden window silver forest castle bridge market planet winter summer spring button candle
    ladder pencil basket bottle island valley desert ocean mountain harbor tower temple village canyon tiger eagle
    rabbit turtle spider monkey horse sheep whale wolf bear lion fox owl crow duck goose salmon lemon apple banana
    cherry orange peach grape onion carrot potato pepper ginger honey butter cheese bread sugar salt rice corn wheat
    bean soup cake tea milk copper iron steel gold marble crystal diamond amber coral pearl cotton silk wool leather
    paper canvas brush drum piano violin flute song dance music poem novel letter comet star moon sun cloud storm
    thunder rain snow frost lantern mirror pillow blanket kettle hammer needle anchor rocket engine wheel saddle
    wagon tractor camera radar magnet cactus bamboo willow cedar pine oak lily orchid rose clover moss fern ivy
    beach cave cliff hill lake pond reef puzzle riddle knight farmer baker pilot doctor artist painter queen king
    prince mercury violet indigo scarlet ivory velvet flame
    """
)

NAMES = words(
    """
    anna ben clara david emma felix grace henry jack karen leo maria nina oscar paul quinn rosa simon tina victor
    adam alice daniel elena frank george kevin laura martin nora peter rachel samuel thomas vera walter zara albert
    bella diana edward fiona gloria james kate monica nathan olga patrick robert sarah teresa vincent arthur betty
    charles donna ellen fred gary helen ivan jane linda nancy ralph tom tony susan steve roger matthew lisa kyle
    karl juan joseph jason
    """
)
