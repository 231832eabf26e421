"""The training itself, and the only file that loads torch, TRL and PEFT: packed rows in, a merged model out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForCausalLM,
    PrinterCallback,
    set_seed,
)
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer

from trainers.config import Device, FinetuneConfig
from trainers.events import StepEvent
from trainers.plan import Row
from trainers.rendering import IGNORED, Renderer
from trainers.samples import SOURCES, Conversation

Report = Callable[[StepEvent], None]
OnRecord = Callable[[int, int], None] | None


def segment_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    cu_seq_lens_q: torch.Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each sample of a packed row. Equal to a block-diagonal mask, without computing the blocks it
    masks out: on a CPU the fused causal kernel does the rest."""
    lengths = cu_seq_lens_q.diff().tolist()
    groups: int = getattr(module, "num_key_value_groups", 1)
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    parts = zip(torch.split(query, lengths, 2), torch.split(key, lengths, 2), torch.split(value, lengths, 2), strict=True)
    attended = [F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, dropout_p=dropout) for q, k, v in parts]
    return torch.cat(attended, dim=2).transpose(1, 2).contiguous(), None


AttentionInterface.register("segments", segment_attention)
AttentionMaskInterface.register("segments", lambda *args, **kwargs: None)


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Packed rows as one long row, with where each sample begins and which source each token is of."""
    lengths = torch.tensor([length for row in rows for length in row["lengths"]])
    sources = torch.tensor([source for row in rows for source in row["sources"]])
    borders = F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    longest = int(lengths.max())
    return {
        "input_ids": torch.tensor([[token for row in rows for token in row["input_ids"]]]),
        "labels": torch.tensor([[label for row in rows for label in row["labels"]]]),
        "position_ids": torch.cat([torch.arange(int(length)) for length in lengths])[None],
        "cu_seq_lens_q": borders,
        "cu_seq_lens_k": borders,
        "max_length_q": longest,
        "max_length_k": longest,
        "sources": sources.repeat_interleave(lengths)[None],
    }


@dataclass(slots=True)
class Tally:
    """Sums since the last optimiser step, by source."""

    loss: torch.Tensor
    tokens: torch.Tensor


class PackTrainer(SFTTrainer):  # type: ignore[misc]
    """TRL's trainer on packed rows. Scores only the positions that are learned, which gives each source's loss for free."""

    def __init__(self, *args: Any, report: Report, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._report = report
        self._tally = Tally(torch.zeros(len(SOURCES)), torch.zeros(len(SOURCES)))
        self._computed = self._trained = 0
        self._began = 0.0

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """The sum of the learned tokens' losses over `num_items_in_batch`, as the parent computes it from all positions."""
        if not self._computed:
            self._began = time.perf_counter()
        inputs = dict(inputs)
        sources, targets = inputs.pop("sources")[0, 1:], inputs.pop("labels")[0, 1:]
        places = (targets != IGNORED).nonzero().flatten()
        outputs = model(**inputs, use_cache=False, logits_to_keep=places)
        losses = F.cross_entropy(outputs.logits[0].float(), targets[places], reduction="none")
        with torch.no_grad():
            of = sources[places].cpu()
            self._tally.loss.index_add_(0, of, losses.detach().cpu())
            self._tally.tokens.index_add_(0, of, torch.ones(len(of)))
            self._computed += inputs["input_ids"].numel()
        loss = losses.sum() / (len(places) if num_items_in_batch is None else num_items_in_batch)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * (self.accelerator.num_processes // self.get_tp_size())
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Called after each step, and once with a summary, which has no loss of its own."""
        super().log(logs, start_time)
        if "loss" not in logs:
            return
        tokens, sums = self._tally.tokens.tolist(), self._tally.loss.tolist()
        means = {source: sums[i] / tokens[i] if tokens[i] else None for i, source in enumerate(SOURCES)}
        self._trained += int(sum(tokens))
        self._tally.loss.zero_()
        self._tally.tokens.zero_()
        self._report(
            StepEvent(
                step=self.state.global_step,
                steps=self.state.max_steps,
                loss=sum(sums) / sum(tokens),
                agent_loss=means["agent"],
                general_loss=means["general"],
                lr=logs["learning_rate"],
                grad_norm=logs["grad_norm"],
                tokens=self._computed,
                trained_tokens=self._trained,
                tokens_per_second=self._computed / (time.perf_counter() - self._began),
            )
        )


def on_gpu(device: Device) -> bool:
    return device == "auto" and torch.cuda.is_available()


def resolve_precision(config: FinetuneConfig) -> str:
    """`bf16` or `fp32`. bf16 is only faster where the hardware multiplies it."""
    if config.precision != "auto":
        return config.precision
    if on_gpu(config.device):
        return "bf16"
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text(encoding="utf-8") if cpuinfo.is_file() else ""
    return "bf16" if "avx512_bf16" in flags or "amx_bf16" in flags else "fp32"


def train(config: FinetuneConfig, rows: Sequence[Row], renderer: Renderer, work: Path, report: Report) -> dict[str, torch.Tensor]:
    """Train an adapter on the rows, in their order. Gives its weights. `work` is a folder for what the trainer may write."""
    gpu = on_gpu(config.device)
    set_seed(config.seed)
    trainer = PackTrainer(
        model=_load(config.base, torch.float32, "sdpa" if gpu else "segments"),
        args=SFTConfig(
            output_dir=str(work),
            per_device_train_batch_size=config.forward_packs,
            gradient_accumulation_steps=config.batch_packs // config.forward_packs,
            num_train_epochs=1,
            learning_rate=config.lr,
            lr_scheduler_type="cosine",
            warmup_steps=config.warmup,
            max_grad_norm=config.max_grad_norm,
            bf16=resolve_precision(config) == "bf16",
            use_cpu=not gpu,
            gradient_checkpointing=False,
            max_length=None,
            train_sampling_strategy="sequential",
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            dataloader_pin_memory=False,
            save_strategy="no",
            report_to="none",
            logging_steps=1,
            disable_tqdm=True,
            seed=config.seed,
        ),
        train_dataset=Dataset.from_list(
            [
                {
                    "input_ids": row.ids,
                    "labels": row.labels,
                    "lengths": row.lengths,
                    "sources": [SOURCES.index(source) for source in row.sources],
                }
                for row in rows
            ]
        ),
        data_collator=collate,
        processing_class=renderer.tokenizer,
        peft_config=lora(config),
        report=report,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    weights: dict[str, torch.Tensor] = get_peft_model_state_dict(trainer.model)
    return {name: weight.detach().cpu() for name, weight in weights.items()}


def export(config: FinetuneConfig, adapter: dict[str, torch.Tensor], renderer: Renderer, folder: Path) -> None:
    """Merge the adapter into the base model, in float32, and save it in the base's precision with tokenizer and stop token."""
    model = get_peft_model(_load(config.base, torch.float32, "sdpa"), lora(config))
    set_peft_model_state_dict(model, adapter)
    merged = model.merge_and_unload()
    merged.to(_saved_dtype(config.base))
    stops = merged.generation_config.eos_token_id
    known = stops if isinstance(stops, list) else [] if stops is None else [stops]
    merged.generation_config.eos_token_id = [renderer.stop_id, *(token for token in known if token != renderer.stop_id)]
    with quiet_transformers():
        merged.save_pretrained(folder)
    renderer.tokenizer.save_pretrained(folder)


def general_loss(
    model_folder: Path, records: Sequence[Conversation], renderer: Renderer, *, device: Device = "auto", on_record: OnRecord = None
) -> float:
    """Mean loss per reply token on chats, in float32. Comparable between models that share a tokenizer and chat template."""
    model = _load(model_folder, torch.float32, "sdpa").eval()
    used = "cuda" if on_gpu(device) else "cpu"
    model.to(used)
    total, tokens = 0.0, 0
    for number, record in enumerate(records, 1):
        rendered = renderer.render(record.messages)
        targets = torch.tensor(rendered.labels[1:], device=used)
        places = (targets != IGNORED).nonzero().flatten()
        with torch.inference_mode():
            ids = torch.tensor([rendered.ids], device=used)
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=places).logits[0]
            total += F.cross_entropy(logits.float(), targets[places], reduction="sum").item()
        tokens += len(places)
        if on_record:
            on_record(number, len(records))
    return total / tokens


def lora(config: FinetuneConfig) -> LoraConfig:
    return LoraConfig(r=config.lora.r, lora_alpha=config.lora.alpha, target_modules="all-linear", task_type="CAUSAL_LM")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No bars for reading and writing weights; our own progress is the one shown."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _load(folder: Path, dtype: torch.dtype, attention: str) -> Any:
    with quiet_transformers():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention, local_files_only=True)


def _saved_dtype(folder: Path) -> torch.dtype:
    """The precision the base model's file is in."""
    return AutoConfig.from_pretrained(folder, local_files_only=True).dtype or torch.float32
