"""`finetune`: from curated episodes and general chat to a merged model on disk. torch is loaded only when a run begins."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from pydantic import BaseModel, ConfigDict

from agentlm_sdk.errors import MissingExtra, UserError
from trainers.card import write_card
from trainers.config import Device, FinetuneConfig
from trainers.events import StepEvent, reporting
from trainers.plan import Plan, PlanReport, plan_finetune, write_held_back
from trainers.rendering import load_renderer, stay_offline
from trainers.samples import Conversation

Tell = Callable[[str], None]
EVENTS, HELD_BACK = "events.jsonl", "general_held_back.jsonl"


class FinetuneResult(BaseModel):
    """What a run made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path
    """Folder of the tuned model."""
    plan: PlanReport
    precision: str
    steps: int
    first_loss: float
    last_loss: float
    training_seconds: float
    tokens_per_second: float
    """Packed tokens, while training."""
    general_loss_base: float | None
    """On the held-back general chat, before and after; None when none was held back."""
    general_loss_tuned: float | None


def run_finetune(config: FinetuneConfig, *, quiet: bool = False, tell: Tell = lambda line: None) -> FinetuneResult:
    """Plan, audit, train, merge, save. `config.out` appears only when the model in it is whole; until then the events are in
    `OUT.tmp/events.jsonl`. `tell` gets a short line before each part that takes a while; `quiet` silences the steps only. Raises
    UserError before the first step when anything about the data or the settings is wrong."""
    partial = claim(config.out)
    tell("reading, rendering and auditing the data")
    plan = plan_finetune(config)
    partial.mkdir(parents=True)
    events: list[StepEvent] = []
    tell("loading the model")
    training = _training()
    with reporting(partial / EVENTS, quiet=quiet) as reporter, tempfile.TemporaryDirectory() as work:

        def report(event: StepEvent) -> None:
            events.append(event)
            reporter.step(event)

        began = time.perf_counter()
        adapter = training.train(config, plan.rows, plan.renderer, Path(work), report)
        seconds = time.perf_counter() - began
    tell("merging and saving")
    training.export(config, adapter, plan.renderer, partial)
    _check_saved(partial, plan)
    losses: dict[str, float] = {}
    if plan.held_back:
        write_held_back(partial / HELD_BACK, plan.held_back)
        for name, model in (("base", config.base), ("tuned", partial)):
            tell(f"measuring the chat loss of the {name} model")
            losses[name] = training.general_loss(model, plan.held_back, plan.renderer, device=config.device)
    result = FinetuneResult(
        model=config.out,
        plan=plan.report,
        precision=training.resolve_precision(config),
        steps=events[-1].step,
        first_loss=events[0].loss,
        last_loss=events[-1].loss,
        training_seconds=seconds,
        tokens_per_second=events[-1].tokens_per_second,
        general_loss_base=losses.get("base"),
        general_loss_tuned=losses.get("tuned"),
    )
    write_card(partial, config, plan.report, result.model_dump(mode="json", exclude={"plan", "model"}))
    partial.rename(config.out)
    return result


def general_loss(
    model: Path, records: list[Conversation], *, device: Device = "auto", on_record: Callable[[int, int], None] | None = None
) -> float:
    """Mean loss per reply token of a model folder on chats, for instance a run's held-back ones, which `read_general` reads.
    `on_record` gets how many records are done and how many there are, after each."""
    if not records:
        raise UserError("no general record given to measure the loss on")
    renderer = load_renderer(model)
    loss: float = _training().general_loss(model, records, renderer, device=device, on_record=on_record)
    return loss


def claim(out: Path) -> Path:
    """The folder a run works in until it is whole; what a killed run left there is removed. Raises UserError when `out` exists."""
    if out.exists():
        raise UserError(f"{out} already exists; choose another with `--set out=...`, or remove it")
    partial = out.with_name(out.name + ".tmp")
    if partial.exists() and not (partial / EVENTS).is_file():
        raise UserError(f"{partial} is in the way and was not left by a fine-tuning run; move it")
    shutil.rmtree(partial, ignore_errors=True)
    return partial


def _check_saved(folder: Path, plan: Plan) -> None:
    """What will be served renders as what was trained. Raises RuntimeError when the save changed the tokenizer or its template."""
    saved = load_renderer(folder)
    for record in [*plan.held_back[:4], *plan.examples]:
        if saved.render(record.messages) != plan.renderer.render(record.messages):
            raise RuntimeError(f"the saved tokenizer renders {record.id} differently from the one that was trained")
    if saved.template_hash != plan.renderer.template_hash:
        raise RuntimeError("the saved chat template is not the one that was trained")


def _training() -> ModuleType:
    """The module that loads torch. Its threads sleep while they wait for each other: on two cores, beside another training run, two
    spinning threads fell to 16 tokens/s where one thread still made about 95. Sleeping costs some speed on idle cores;
    set OMP_WAIT_POLICY=ACTIVE where nothing else runs."""
    stay_offline()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from transformers.utils import logging

        from trainers import training
    except ModuleNotFoundError as error:
        raise MissingExtra(f"training needs {error.name}: pip install 'agentlm-sdk[train]'") from error
    logging.disable_progress_bar()
    return training
