"""General chat as people keep it is read whole; what is left out is counted, what is broken is named with its line."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlm_sdk.errors import UserError
from agentlm_sdk.record import Message
from trainers.general import read_general, split_held_back
from trainers.samples import Conversation

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not (DATA / "general").is_dir(), reason="the shared sample data is not here")


def write(path: Path, records: list[object], *, lines: bool = False) -> Path:
    text = "\n".join(json.dumps(r, ensure_ascii=False) for r in records) if lines else json.dumps(records)
    path.write_text(text, encoding="utf-8")
    return path


def sharegpt(*turns: tuple[str, str]) -> dict[str, object]:
    return {"conversations": [{"from": role, "value": value} for role, value in turns]}


def texts(path: Path) -> list[list[tuple[str, str]]]:
    return [[(m.role, m.content) for m in record.messages] for record in read_general([path]).records]


@pytest.mark.parametrize("lines", [False, True])
def test_both_layouts_in_both_forms_give_the_same(tmp_path: Path, lines: bool) -> None:
    openai = {"messages": [{"role": "user", "content": "hi\u2028there"}, {"role": "assistant", "content": "yes"}]}
    path = write(tmp_path / "any.name", [sharegpt(("human", "a"), ("chatgpt", "b")), openai], lines=lines)
    assert texts(path) == [[("user", "a"), ("assistant", "b")], [("user", "hi\u2028there"), ("assistant", "yes")]]


def test_irregular_turns_are_mended_and_counted(tmp_path: Path) -> None:
    record = sharegpt(
        ("system", "rule"),
        ("gpt", "left over"),
        ("user", "one"),
        ("human", " two\n"),
        ("bard", ""),
        ("bing", "three"),
        ("system", "late"),
        ("human", "unanswered"),
    )
    path = write(tmp_path / "chat.json", [record, sharegpt(("gpt", "alone")), sharegpt(), record])
    data = read_general([path])
    assert texts(path) == [[("system", "rule"), ("user", "one\n\ntwo"), ("assistant", "three")]]
    assert data.dropped == Counter(no_exchange=2, duplicate=1)
    assert data.changed == Counter(
        leading_assistant_turns=3,
        joined_turns=2,
        trimmed_values=2,
        empty_values=2,
        late_system_turns=2,
        unanswered_user_turns=2,
    )


def test_loss_flags_and_text_parts_are_kept(tmp_path: Path) -> None:
    parts = {"role": "assistant", "content": [{"type": "text", "value": "no"}], "loss_weight": 0}
    record = {
        "messages": [
            {"role": "user", "content": "q"},
            parts,
            {"role": "user", "content": "r"},
            {"role": "assistant", "content": "y"},
        ]
    }
    (kept,) = read_general([write(tmp_path / "chat.json", [record])]).records
    assert [(m.content, m.loss) for m in kept.messages] == [("q", None), ("no", False), ("r", None), ("y", None)]


def test_tool_chats_are_left_out_by_reason(tmp_path: Path) -> None:
    calls = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": [{}]}]}
    path = write(tmp_path / "chat.json", [sharegpt(("human", "q"), ("function_call", "{}")), calls])
    assert read_general([path]).dropped == Counter(unsupported_role=1, tool_calls=1)


def test_a_chat_with_half_a_surrogate_pair_is_left_out_by_reason(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    path.write_text(json.dumps([sharegpt(("human", "q"), ("gpt", "cut \ud83d")), sharegpt(("human", "q"), ("gpt", "\U0001f600"))]))
    data = read_general([path])
    assert texts(path) == [[("user", "q"), ("assistant", "\U0001f600")]]
    assert data.dropped == Counter(lone_surrogate=1)


def test_records_of_files_with_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "chat.json" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        write(path, [sharegpt(("human", f"in {path.parent.name}"), ("gpt", "yes"))])
    assert [record.id for record in read_general(paths).records] == [f"{path}, record 1" for path in paths]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"conversations": []}\n{"conver', r"chat\.json, line 2: not JSON"),
        ('[{"conversations": []},\n {"conver', r"chat\.json, line 2: not JSON"),
        ('\n{"instruction": "x", "output": "y"}', r"chat\.json, line 2: neither `conversations`.*instruction, output"),
        ('["x"]', r"chat\.json, record 1: a chat record is a JSON object, not str"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "chat.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=words):
        read_general([tmp_path / "chat.json"])


def test_what_is_no_text_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(UserError, match="byte 7: not UTF-8"):
        read_general([tmp_path / "latin"])
    with pytest.raises(UserError, match="cannot read"):
        read_general([tmp_path / "none"])


@needs_data
def test_the_real_sharegpt_sample() -> None:
    data = read_general([DATA / "general" / "sharegpt_v3_sample.json"])
    assert (data.read, len(data.records)) == (265, 254)
    assert data.dropped == Counter(no_exchange=11)
    assert data.changed["leading_assistant_turns"] == 17
    assert data.changed["joined_turns"] == 2
    for record in data.records:
        roles = [m.role for m in record.messages if m.role != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)


@needs_data
def test_the_flags_of_real_agentinstruct_records() -> None:
    data = read_general([DATA / "agentinstruct-sample" / "db_sharegpt.jsonl"])
    assert len(data.records) == 120
    for record in data.records:
        first, *others = [m.loss for m in record.messages if m.role == "assistant"]
        assert (first, set(others)) == (False, {True})


def chats(n: int) -> list[Conversation]:
    return [
        Conversation(
            id=str(i),
            source="general",
            messages=(Message(role="user", content=f"q{i}"), Message(role="assistant", content="a")),
        )
        for i in range(n)
    ]


@given(st.permutations(range(12)), st.integers(0, 12), st.integers(0, 3))
def test_what_is_held_back_does_not_depend_on_order(order: list[int], n: int, seed: int) -> None:
    records = chats(12)
    train, held = split_held_back(records, n, seed=seed)
    _, held_shuffled = split_held_back([records[i] for i in order], n, seed=seed)
    assert {r.id for r in held} == {r.id for r in held_shuffled}
    assert len(held) == n
    assert sorted(r.id for r in [*train, *held]) == sorted(r.id for r in records)


def test_more_cannot_be_held_back_than_there_is() -> None:
    with pytest.raises(UserError, match="only 2"):
        split_held_back(chats(2), 3)


def test_the_chat_set_that_ships_is_whole_varied_and_multi_turn() -> None:
    from agentlm_sdk.demo import shipped_chat

    data = read_general([shipped_chat()])
    assert data.read == len(data.records) >= 200
    assert not data.dropped and not data.changed
    assert all(len(record.messages) >= 4 for record in data.records)
    assert len({record.messages[1].content for record in data.records}) == len(data.records)
