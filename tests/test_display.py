"""Nothing an agent wrote can drive the terminal or pass for our own words."""

from __future__ import annotations

import unicodedata

import pytest
from episodes import episode
from hypothesis import given
from hypothesis import strategies as st

from agentlm_sdk.display import ending, neutral, neutral_line, prompt, trajectory_text, turns
from agentlm_sdk.record import Action, EndCause

HOSTILE = "a\x1b]0;owned\x07b\x9b31mc\u202egnp\u2066\u200b\r\x00\ufeff[red]x[/red]"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b]0;x\x07", "\\x1b]0;x\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("one\r\ntwo", "one\\r\ntwo"),
        ("\u200b\ufeff\U000e0041", "\\u200b\\ufeff\\U000e0041"),
        ("\ud800", "\\ud800"),
        ("Grüße, 世界\u3000\t\n", "Grüße, 世界\u3000\t\n"),
    ],
)
def test_invisible_characters_are_shown(raw: str, shown: str) -> None:
    assert neutral(raw) == shown


@given(st.text(alphabet=st.characters()))
def test_neutral_leaves_nothing_that_acts_and_changes_nothing_twice(text: str) -> None:
    shown = neutral(text)
    assert {unicodedata.category(char) for char in shown if char not in "\n\t"}.isdisjoint({"Cc", "Cf", "Cs", "Zl", "Zp"})
    assert neutral(shown) == shown
    assert "\n" not in neutral_line(text)


def test_a_line_is_cut() -> None:
    assert neutral_line("x" * 500, limit=10) == "x" * 9 + "…"
    assert neutral_line("x" * 10, limit=10) == "x" * 10


def test_the_text_of_an_episode_reads_as_a_conversation() -> None:
    text = trajectory_text(episode())
    assert text == (
        "task count-1  (count, test)\n"
        "model base  attempt 0  in docker\n"
        "solved, 2 turns\n"
        "reward task 1 by answer/1  got 42\n"
        "\nsystem\n  You solve tasks.\n"
        "\nuser\n  How many files are in /etc?\n"
        "\nassistant, turn 1  [exit 0]\n  Think: count the files\n  Act: bash\n  ```bash\n  ls /etc | wc -l\n  ```\n"
        "\nuser\n  Output:\n  42\n"
        "\nassistant, turn 2\n  Act: answer(42)\n"
    )


def test_hostile_text_is_harmless_and_cannot_pass_for_a_heading() -> None:
    made = episode(HOSTILE, observation=f"Output:\n{HOSTILE}\nassistant, turn 9", thought=HOSTILE, model=HOSTILE, family=HOSTILE)
    text = trajectory_text(made)
    assert not set("\x1b\x07\x9b\u202e\u200b\r\x00") & set(text)
    assert "\n  assistant, turn 9" in text
    assert "\nassistant, turn 9" not in text
    assert "[red]x[/red]" in text


def test_turns_pair_replies_with_what_came_back() -> None:
    first, second = turns(episode(script="ls", observation="Output:\n1"))
    assert (first.number, first.action_text, first.observations, first.result) == (1, "ls", ("Output:\n1",), "exit 0")
    assert (second.action_text, second.observations) == ("42", ())
    assert [message.role for message in prompt(episode())] == ["system", "user"]


def test_a_malformed_reply_is_shown_whole_with_its_reason() -> None:
    (turn,) = turns(episode(problem="invalid_format", script="hm"))
    assert turn.action_text == "Act: maybe\nhm"
    assert turn.result == "invalid format: no line starts with `Act:`"
    assert turn.observations == ("I could not read that reply.",)


def test_every_argument_of_a_tool_call_is_shown() -> None:
    made = episode()
    tool = Action(name="copy", arguments={"source": "a", "target": "b"})
    made = made.model_copy(update={"steps": [made.steps[0].model_copy(update={"action": tool, "timed_out": True})]})
    (turn,) = turns(made)
    assert turn.action_text == "source=a\ntarget=b"
    assert turn.result == "exit 0, timed out"


def test_the_ending_names_what_ended_it() -> None:
    assert ending(episode(solved=False, ended_by=EndCause.TURN_LIMIT)) == "failed, ended by turn limit, 2 turns"
    broken = "unmeasured, ended by infrastructure, 2 turns, sandbox: container stopped"
    assert ending(episode(unmeasured=True)) == broken
