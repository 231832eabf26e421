"""A plan loses no record and no file on the way from disk to rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="needs the train extra")

from tiny_chat import tokenizer

from trainers.config import FinetuneConfig
from trainers.plan import plan_finetune


def test_general_files_with_one_name_are_kept_apart(tmp_path: Path) -> None:
    tokenizer().save_pretrained(tmp_path / "base")
    paths = [tmp_path / folder / "chat.json" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        chats = [[("human", f"say {i} in {path.parent.name}"), ("gpt", str(i))] for i in range(6)]
        path.write_text(json.dumps([{"conversations": [{"from": f, "value": v} for f, v in chat]} for chat in chats]))
    config = FinetuneConfig(
        base=tmp_path / "base", general=paths, out=tmp_path / "out", eta=0, epochs=1, pack_length=128, general_held_back=4
    )
    plan = plan_finetune(config)
    assert set(plan.report.hashes) == {str(path) for path in paths}
    assert len({record.id for record in plan.held_back}) == 4
    assert plan.report.audit.samples == sum(len(row.lengths) for row in plan.rows) == 12 - 4
