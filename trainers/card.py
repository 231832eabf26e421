"""The model card of a tuned model: what it was made of and how it scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agentlm_sdk.errors import UserError
from agentlm_sdk.journal import write_atomic
from trainers.config import FinetuneConfig
from trainers.plan import PlanReport

RECORD, CARD = "finetune.json", "README.md"
UNITS = {
    "samples": "samples",
    "tokens": "tokens",
    "trained_tokens": "trained tokens",
    "loss": "loss (mean over steps)",
}


def write_card(folder: Path, config: FinetuneConfig, plan: PlanReport, result: dict[str, Any]) -> None:
    """Write README.md and finetune.json into a model folder."""
    record = {
        "schema": 1,
        "config": config.model_dump(mode="json"),
        "plan": plan.model_dump(mode="json"),
        "result": result,
        "scores": None,
    }
    _write(folder, record)


def add_scores(model: Path, summary: dict[str, Any]) -> None:
    """Put an evaluation's numbers into the card. `summary` may be nested; lists and long texts stay in finetune.json only."""
    try:
        record = json.loads((model / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{model} holds no {RECORD}; scores go to a model made by `agentlm-sdk finetune`") from error
    record["scores"] = summary
    _write(model, record)


def _write(folder: Path, record: dict[str, Any]) -> None:
    write_atomic(folder / RECORD, json.dumps(record, indent=2) + "\n")
    write_atomic(folder / CARD, card(record))


def card(record: dict[str, Any]) -> str:
    """The card's text."""
    config, plan, result = record["config"], record["plan"], record["result"]
    mix, audit = plan["mix"], plan["audit"]
    families = ", ".join(f"{name} {count}" for name, count in plan["task_families"].items())
    share = {unit: f"{mix['shares'][unit]:.3f}" for unit in UNITS}
    scores = _table(_flat(record["scores"])) if record["scores"] else "Not measured yet."
    return "\n".join(
        [
            "---",
            f"base_model: {_cell(plan['base'])}",
            "tags: [agent, agentlm-sdk, lora-merged]",
            "---",
            "",
            f"# {_cell(plan['base'])} tuned on agent episodes",
            "",
            f"Base model: {_cell(plan['base'])}. Adapter merged; the chat template saved here is the one it was trained with "
            f"({plan['family']}, hash {plan['template_hash'][:12]}).",
            "",
            "## Data",
            "",
            f"- Suites: {_cell(', '.join(plan['suites']) or 'not named')}. Curated episodes by task family: "
            f"{_cell(families or 'none')}.",
            *(f"- {_cell(Path(name).name)}: sha256 {digest}" for name, digest in plan["hashes"].items()),
            f"- Agent share asked for: eta = {mix['eta']} in {UNITS[mix['unit']]}. Drawn:",
            "",
            _table([(UNITS[unit], value) for unit, value in share.items()]),
            "",
            f"- Left out: {_cell(_counts(plan['dropped']))}. General turns changed: {_cell(_counts(plan['changed']))}.",
            f"- Held back to measure forgetting: {plan['held_back']} general records.",
            "",
            "## Audit",
            "",
            f"Passed on {audit['samples']} samples: {audit['trained_turns']} replies, {audit['trained_tokens']} learned tokens, "
            f"{audit['context_tokens']} context tokens; {audit['merged_turns']} replies kept as context, {audit['neutralised']} "
            "control tokens in texts neutralised; nothing cut.",
            "",
            "## Training",
            "",
            _table(
                [
                    ("LoRA rank, alpha", f"{config['lora']['r']}, {config['lora']['alpha']}, all linear layers"),
                    (
                        "learning rate",
                        f"{config['lr']}, cosine, {config['warmup']:.0%} warm-up, gradient norm {config['max_grad_norm']}",
                    ),
                    ("epochs, steps", f"{config['epochs']}, {plan['steps']}"),
                    (
                        "packs",
                        f"{plan['packs']} of {config['pack_length']} tokens, {plan['fill']:.1%} full, "
                        f"{config['batch_packs']} a step",
                    ),
                    ("tokens, learned", f"{plan['tokens']}, {plan['trained_tokens']}"),
                    ("precision, seed", f"{result['precision']}, {config['seed']}"),
                    ("first and last loss", f"{result['first_loss']:.4f}, {result['last_loss']:.4f}"),
                    (
                        "general loss, base and tuned",
                        _pair(result["general_loss_base"], result["general_loss_tuned"]),
                    ),
                ]
            ),
            "",
            "## Scores",
            "",
            scores,
            "",
        ]
    )


def _pair(before: float | None, after: float | None) -> str:
    return "not measured" if before is None or after is None else f"{before:.4f}, {after:.4f}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in counts.items()) or "none"


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| what | value |", "| --- | --- |", *(f"| {_cell(a)} | {_cell(b)} |" for a, b in rows)])


def _flat(summary: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in summary.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name}: ")
        elif isinstance(value, float):
            rows.append((f"{prefix}{name}", f"{value:.4g}"))
        elif isinstance(value, bool | int) or (isinstance(value, str) and len(value) <= 80):
            rows.append((f"{prefix}{name}", str(value)))
    return rows


def _cell(text: str) -> str:
    """Text that cannot break out of a table or become markup."""
    for sign, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("`", "'"), ("\n", " ")):
        text = text.replace(sign, safe)
    return text
