"""Training pinned by numbers on a tiny seeded model: the losses, accumulation, packing, the head, and what is saved."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="needs the train extra")

import torch
import torch.nn.functional as F
from test_curate import episode
from tiny_chat import save_model

from agentlm_sdk.errors import UserError
from agentlm_sdk.record import Message
from trainers.card import add_scores
from trainers.config import FinetuneConfig, load_config
from trainers.curate import curate
from trainers.events import StepEvent
from trainers.general import read_general
from trainers.plan import Plan, Row, plan_finetune
from trainers.rendering import IGNORED, load_renderer
from trainers.sft import FinetuneResult, general_loss, run_finetune
from trainers.training import collate, train


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """A model this small only gets slower with more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def config(base: Path, tmp_path_factory: pytest.TempPathFactory) -> FinetuneConfig:
    """Eight curated episodes and thirty chats, in files, as a user has them."""
    from test_curate import write_run

    folder = tmp_path_factory.mktemp("data")

    def messages(i: int) -> list[Message]:
        return [
            Message(role="user", content=f"How many files are in /dir{i}?"),
            Message(role="assistant", content=f"Think: count\nAct: bash\n```bash\nls /dir{i} | wc -l\n```", sampled=True),
            Message(role="user", content=f"Output:\n{i * 3}"),
            Message(role="assistant", content=f"Act: answer({i * 3})", sampled=True),
        ]

    episodes = [episode(f"e{i}", task=f"t{i}", steps=[], messages=messages(i)) for i in range(8)]
    curate([write_run(folder / "run", *episodes)], folder / "curated")
    chats = [
        {"conversations": [{"from": "human", "value": f"say {i}"}, {"from": "gpt", "value": f"{i} and " * (1 + i % 5)}]}
        for i in range(30)
    ]
    (folder / "chat.json").write_text(json.dumps(chats))
    return FinetuneConfig(
        base=base,
        agent=folder / "curated",
        general=[folder / "chat.json"],
        out=folder / "unused",
        eta=0.5,
        pack_length=256,
        batch_packs=4,
        precision="fp32",
        device="cpu",
        general_held_back=4,
        lr=2e-2,
        warmup=0.0,
        epochs=3,
        seed=1,
    )


@pytest.fixture(scope="module")
def plan(config: FinetuneConfig) -> Plan:
    return plan_finetune(config)


def run(config: FinetuneConfig, plan: Plan, work: Path) -> tuple[dict[str, torch.Tensor], list[StepEvent]]:
    events: list[StepEvent] = []
    return train(config, plan.rows, plan.renderer, work, events.append), events


def test_the_plan_adds_up(config: FinetuneConfig, plan: Plan) -> None:
    report = plan.report
    assert report.audit.samples == 8 + 26
    assert report.trained_tokens == sum(row.trained() for row in plan.rows)
    agent = sum(row.trained("agent") for row in plan.rows)
    assert report.mix.shares.trained_tokens == pytest.approx(agent / report.trained_tokens)
    assert report.mix.shares.trained_tokens == pytest.approx(0.5, abs=0.02)
    assert report.mix.draws["agent"] == 3 * 8
    assert report.fill == pytest.approx(report.tokens / (report.packs * config.pack_length))
    assert report.steps == -(-report.packs // 4)
    assert set(report.hashes) == {f"{config.agent}/curated.jsonl", str(config.general[0])}


@pytest.fixture(scope="module")
def accumulated(config: FinetuneConfig, plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Adapter and events of a run with one pack a forward pass, four a step."""
    return run(config, plan, tmp_path_factory.mktemp("work"))


def reference_loss(model: Any, rows: Sequence[Row]) -> torch.Tensor:
    """The loss as anyone would write it: each sample by itself, all logits, mean over the learned tokens."""
    losses = []
    for row in rows:
        start = 0
        for length in row.lengths:
            ids = torch.tensor([row.ids[start : start + length]])
            labels = torch.tensor(row.labels[start : start + length])
            logits = model(input_ids=ids).logits[0, :-1]
            losses.append(F.cross_entropy(logits, labels[1:], ignore_index=IGNORED, reduction="none")[labels[1:] != IGNORED])
            start += length
    return torch.cat(losses).mean()


def test_packed_with_the_compact_head_equals_unpacked_with_all_logits(base: Path, plan: Plan) -> None:
    from transformers import AutoModelForCausalLM

    rows = plan.rows[:3]
    plain = AutoModelForCausalLM.from_pretrained(base, attn_implementation="sdpa")
    expected = reference_loss(plain, rows)
    torch.autograd.backward(expected)
    packed = AutoModelForCausalLM.from_pretrained(base, attn_implementation="segments")
    batch = collate([{"input_ids": r.ids, "labels": r.labels, "lengths": r.lengths, "sources": [0] * len(r.lengths)} for r in rows])
    del batch["sources"]
    targets = batch.pop("labels")[0, 1:]
    places = (targets != IGNORED).nonzero().flatten()
    got = F.cross_entropy(packed(**batch, logits_to_keep=places).logits[0], targets[places])
    torch.autograd.backward(got)
    assert sum(len(row.lengths) for row in rows) > 6
    assert got.item() == pytest.approx(expected.item(), abs=1e-6)
    for (name, a), (_, b) in zip(plain.named_parameters(), packed.named_parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-6), name


def test_the_first_loss_is_the_base_models_and_losses_are_pinned(base: Path, plan: Plan, accumulated: Any) -> None:
    from transformers import AutoModelForCausalLM

    _, events = accumulated
    with torch.no_grad():
        first = reference_loss(AutoModelForCausalLM.from_pretrained(base), plan.rows[:4])
    assert events[0].loss == pytest.approx(first.item(), abs=1e-4)
    assert [round(event.loss, 3) for event in events] == pytest.approx(EXPECTED_LOSSES, abs=1e-3)
    assert events[-1].tokens == plan.report.tokens
    assert events[-1].trained_tokens == plan.report.trained_tokens
    for event, start in zip(events, range(0, len(plan.rows), 4), strict=True):
        rows = plan.rows[start : start + 4]
        agent, both = sum(row.trained("agent") for row in rows), sum(row.trained() for row in rows)
        parts = (event.agent_loss or 0) * agent + (event.general_loss or 0) * (both - agent)
        assert parts / both == pytest.approx(event.loss, abs=1e-5)


EXPECTED_LOSSES = [6.852, 5.055, 3.850, 3.173, 2.881, 2.536]


def test_one_batch_of_four_equals_two_by_two_accumulated(
    config: FinetuneConfig, plan: Plan, accumulated: Any, tmp_path: Path
) -> None:
    weights, events = accumulated
    for packs in (2, 4):
        others, same = run(config.model_copy(update={"forward_packs": packs}), plan, tmp_path)
        assert [e.loss for e in same] == pytest.approx([e.loss for e in events], abs=1e-4)
        for name, weight in weights.items():
            assert torch.allclose(weight, others[name], atol=1e-4), name


def test_bf16_trains_nearly_the_same(config: FinetuneConfig, plan: Plan, accumulated: Any, tmp_path: Path) -> None:
    _, exact = accumulated
    _, rounded = run(config.model_copy(update={"precision": "bf16"}), plan, tmp_path)
    assert [e.loss for e in rounded] == pytest.approx([e.loss for e in exact], rel=0.03)


@pytest.fixture(scope="module")
def told() -> list[str]:
    """What the run of `result` said it was doing."""
    return []


@pytest.fixture(scope="module")
def result(config: FinetuneConfig, told: list[str], tmp_path_factory: pytest.TempPathFactory) -> FinetuneResult:
    out = tmp_path_factory.mktemp("tuned") / "model"
    return run_finetune(config.model_copy(update={"out": out, "epochs": 4, "batch_packs": 1}), quiet=True, tell=told.append)


def test_a_run_says_what_it_is_doing(result: FinetuneResult, told: list[str]) -> None:
    assert told == [
        "reading, rendering and auditing the data",
        "loading the model",
        "merging and saving",
        "measuring the chat loss of the base model",
        "measuring the chat loss of the tuned model",
    ]


def test_the_saved_model_is_the_merged_one(config: FinetuneConfig, plan: Plan, result: FinetuneResult) -> None:
    from peft import get_peft_model, set_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    from trainers.training import lora

    used = config.model_copy(update={"epochs": 4, "batch_packs": 1})
    fresh = plan_finetune(used)
    adapter = train(used, fresh.rows, fresh.renderer, result.model.parent / "work", lambda event: None)
    in_memory = get_peft_model(AutoModelForCausalLM.from_pretrained(config.base), lora(used))
    set_peft_model_state_dict(in_memory, adapter)
    in_memory.eval()
    saved = AutoModelForCausalLM.from_pretrained(result.model)
    renderer = load_renderer(result.model)
    chat = [{"role": "user", "content": "How many files are in /dir2?"}]
    prompt = torch.tensor([renderer.tokenizer.apply_chat_template(chat, return_dict=False, add_generation_prompt=True)])
    replies = [m.generate(input_ids=prompt, max_new_tokens=60, do_sample=False)[0].tolist() for m in (in_memory, saved)]
    assert replies[0] == replies[1]
    assert len(replies[1]) > prompt.shape[1] + 5
    assert saved.generation_config.eos_token_id == [renderer.stop_id]


def test_training_lowers_the_loss_and_the_card_says_with_what(config: FinetuneConfig, result: FinetuneResult) -> None:
    assert result.last_loss < result.first_loss / 2
    card = (result.model / "README.md").read_text()
    for said in (
        *result.plan.hashes.values(),
        "eta = 0.5 in trained tokens",
        "demo",
        "Not measured yet",
        "| loss (mean over steps) |",
    ):
        assert said in card
    lines = [json.loads(line) for line in (result.model / "events.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, result.steps + 1))
    assert not result.model.with_name("model.tmp").exists()


def test_the_held_back_loss_can_be_measured_again(config: FinetuneConfig, result: FinetuneResult) -> None:
    held = read_general([result.model / "general_held_back.jsonl"]).records
    assert len(held) == 4
    seen: list[tuple[int, int]] = []
    base = general_loss(config.base, held, device="cpu", on_record=lambda done, total: seen.append((done, total)))
    assert base == pytest.approx(result.general_loss_base, abs=1e-6)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert general_loss(result.model, held, device="cpu") == pytest.approx(result.general_loss_tuned, abs=1e-6)


def test_scores_are_added_to_the_card(result: FinetuneResult) -> None:
    add_scores(result.model, {"suite": "demo", "success": {"base": 0.0, "tuned": 0.51666}, "note": "a|b<script>"})
    card = (result.model / "README.md").read_text()
    assert "| success: tuned | 0.5167 |" in card
    assert "a\\|b&lt;script&gt;" in card
    assert json.loads((result.model / "finetune.json").read_text())["scores"]["success"]["base"] == 0.0
    with pytest.raises(UserError, match=r"no finetune\.json"):
        add_scores(result.model.parent, {})


def test_what_exists_is_never_overwritten_and_leftovers_are_cleared(config: FinetuneConfig, tmp_path: Path) -> None:
    from trainers.sft import claim

    (tmp_path / "m").mkdir()
    with pytest.raises(UserError, match=r"already exists; choose another with `--set out="):
        run_finetune(config.model_copy(update={"out": tmp_path / "m"}))
    (tmp_path / "n.tmp").mkdir()
    with pytest.raises(UserError, match="was not left by a fine-tuning run"):
        claim(tmp_path / "n")
    (tmp_path / "n.tmp" / "events.jsonl").touch()
    assert not claim(tmp_path / "n").exists()


def test_an_episode_longer_than_a_pack_is_named_not_cut(config: FinetuneConfig) -> None:
    with pytest.raises(UserError, match=r"agent record e0 has \d+ tokens, more than the pack length 64"):
        plan_finetune(config.model_copy(update={"pack_length": 64}))


def test_settings_from_a_file_and_overrides(tmp_path: Path) -> None:
    path = tmp_path / "tune.yaml"
    path.write_text("base: b\nout: o\nagent: a\ngeneral: [g.json]\nlora: {r: 8}\n")
    config = load_config(path, ["lora.alpha=64", "eta=0.3", "lr=5e-4"])
    assert (config.lora.r, config.lora.alpha, config.eta, config.lr) == (8, 64, 0.3, 5e-4)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("lora.alhpa=1", "no setting 'lora.alhpa'; did you mean 'alpha'"),
        ("pack_lenght=1", "no setting 'pack_lenght'; did you mean 'pack_length'"),
        ("eta=1.5", "eta: Input should be less than or equal to 1"),
        ("eta=", "eta: Input should be a valid number"),
        ("general=[]", "general is missing"),
        ("agent=null", "agent is missing"),
        ("forward_packs=3", "batch_packs 1 is not a multiple"),
        ("eta", "not of the form name=value"),
        ("eta.x=1", "eta is a single value"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, override: str, words: str) -> None:
    path = tmp_path / "tune.yaml"
    path.write_text("base: b\nout: o\nagent: a\neta: 0.2\ngeneral: [g.json]\n")
    with pytest.raises(UserError, match=words):
        load_config(path, [override])


def test_planning_and_the_command_line_load_no_torch() -> None:
    modules = "trainers, trainers.config, trainers.curate, trainers.plan, trainers.sft, trainers.card"
    code = f"import sys, {modules}; print([m for m in ('torch', 'transformers', 'trl', 'datasets') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
