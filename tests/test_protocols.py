"""ReAct text: what is read, what is refused and why, and that writing and reading are inverse."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlm_sdk.protocols import Malformed, Reply, parse, render
from agentlm_sdk.record import Action

BASH = "Think: look\nAct: bash\n```bash\nls -la\n```"


def bash(script: str) -> Action:
    return Action(name="bash", arguments={"script": script})


@pytest.mark.parametrize(
    ("reply", "thought", "action"),
    [
        (BASH, "look", bash("ls -la")),
        ("Act: bash\n```\nls\n```\n", "", bash("ls")),
        ("Act: bash\n```sh\nls\npwd\n```", "", bash("ls\npwd")),
        ("Thought: x\nAct: finish", "x", Action(name="finish")),
        ("Think: x\nAct: answer(7)", "x", Action(name="answer", arguments={"answer": "7"})),
        ("Think: x\nAct: answer(a (b) c)", "x", Action(name="answer", arguments={"answer": "a (b) c"})),
        ("Think: x\nAct: answer(two\nlines)", "x", Action(name="answer", arguments={"answer": "two\nlines"})),
        ("Think: x\nAct: answer()", "x", Action(name="answer", arguments={"answer": ""})),
        ("Act: sql\n```sql\nSELECT 1\n```", "", Action(name="sql", arguments={"query": "SELECT 1"})),
        ("Act: bash\n```bash\necho 'Act: finish'\nAct: finish\n```", "", bash("echo 'Act: finish'\nAct: finish")),
        ("I am sorry, but\nAct: finish", "I am sorry, but", Action(name="finish")),
    ],
)
def test_what_is_read(reply: str, thought: str, action: Action) -> None:
    assert parse(reply) == Reply(thought, action)


@pytest.mark.parametrize(
    ("reply", "kind", "reason"),
    [
        ("", "invalid_format", "no line starts with"),
        ("ls -la", "invalid_format", "no line starts with"),
        ("I'm sorry, I can't help with that.", "refusal", "no line starts with"),
        ("As an AI language model I have no shell", "refusal", "no line starts with"),
        ("Act: dance", "invalid_action", "unknown action 'dance'"),
        ("Act: bash", "invalid_format", "needs one ```bash block, 0 found"),
        ("Act: bash\n```bash\nls\n```\n```bash\npwd\n```", "invalid_format", "2 found"),
        ("Act: bash\n```bash\nls", "invalid_format", "0 found"),
        ("Act: bash\n```bash\n\n```", "invalid_format", "empty"),
        ("Act: bash\n```python\nprint(1)\n```", "invalid_format", "not ```python"),
        ("Act: finish\nAct: answer(3)", "invalid_format", "one `Act:` line wanted, 2 found"),
        ("Act: answer 7", "invalid_format", "needs its text in brackets"),
    ],
)
def test_what_is_malformed(reply: str, kind: str, reason: str) -> None:
    read = parse(reply)
    assert isinstance(read, Malformed)
    assert read.kind == kind
    assert reason in read.reason


def test_an_action_the_world_does_not_offer_is_invalid() -> None:
    read = parse(BASH, ("sql", "answer", "finish"))
    assert isinstance(read, Malformed) and read.kind == "invalid_action"
    assert "use one of sql, answer, finish" in read.reason


SCRIPT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), min_size=1)
THOUGHT = st.text(st.characters(categories=["L", "N", "P", "Zs"], exclude_characters="`"), max_size=60).map(str.strip)


@given(THOUGHT, st.sampled_from(["bash", "sql"]), SCRIPT)
def test_a_written_block_is_read_back_or_refused(thought: str, name: str, text: str) -> None:
    action = Action(name=name, arguments={"script" if name == "bash" else "query": text})
    try:
        reply = render(thought, action)
    except ValueError:
        return
    assert parse(reply) == Reply(thought, action)


@given(THOUGHT, st.text(alphabet=st.characters(categories=["L", "N", "Zs"]), max_size=80).map(str.strip))
def test_a_plain_answer_is_always_carried(thought: str, answer: str) -> None:
    action = Action(name="answer", arguments={"answer": answer})
    if thought.lower().startswith(("think:", "thought:", "act:")):
        return
    assert parse(render(thought, action)) == Reply(thought, action)


@given(st.text())
def test_no_text_breaks_the_parser(reply: str) -> None:
    assert isinstance(parse(reply), (Reply, Malformed))


def test_what_the_text_form_cannot_carry_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot carry this bash action"):
        render("x", bash("echo\n```\nrm -rf /"))
