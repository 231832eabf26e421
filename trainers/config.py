"""The settings of a fine-tuning run: one YAML file, and `--set a.b=c` on top of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agentlm_sdk.errors import UserError, closest
from trainers.mixing import Unit

OverLength = Literal["error", "drop"]
Precision = Literal["auto", "fp32", "bf16"]
Device = Literal["auto", "cpu"]


class Settings(BaseModel):
    """Base of the settings: frozen, and an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LoraSettings(Settings):
    """The adapter that is trained and then merged."""

    r: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)


class FinetuneConfig(Settings):
    """Everything a run depends on."""

    base: Path
    """Folder of the chat model to start from."""
    agent: Path | None = None
    """Curated folder. May be left out only with eta 0."""
    general: list[Path] = Field(default_factory=list)
    """Files of general chat. May be left out only with eta 1."""
    out: Path
    """Folder that will hold the tuned model; must not exist yet."""
    eta: float = Field(default=0.2, ge=0, le=1)
    """The agent data's share."""
    eta_unit: Unit = "trained_tokens"
    """What eta is a share of."""
    epochs: int = Field(default=2, ge=1)
    """How often every agent sample is used."""
    max_epochs: int = Field(default=4, ge=1)
    """How often one general sample may be used."""
    lr: float = Field(default=1e-3, gt=0)
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Part of the steps in which the learning rate rises."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    batch_packs: int = Field(default=1, ge=1)
    """Packs an optimiser step learns from."""
    forward_packs: int = Field(default=1, ge=1)
    """Packs computed at once; less memory with fewer, the same result."""
    pack_length: int = Field(default=1024, ge=16)
    """Tokens in a pack; also the longest sample."""
    over_length: OverLength = "error"
    """An agent episode longer than a pack stops the run, or is left out with a count."""
    general_over_length: OverLength = "drop"
    """The same for general chat, which always has some."""
    general_held_back: int = Field(default=12, ge=0)
    """General records kept out of training, to measure what the model forgets; 0 measures nothing."""
    precision: Precision = "auto"
    """auto: bf16 where the hardware computes it, otherwise fp32."""
    device: Device = "auto"
    """auto: a CUDA GPU where there is one, otherwise the CPU."""
    lora: LoraSettings = Field(default_factory=LoraSettings)
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> FinetuneConfig:
        if self.eta > 0 and self.agent is None:
            raise ValueError("agent is missing: name a curated folder, or set eta to 0")
        if self.eta < 1 and not self.general:
            raise ValueError("general is missing: name general chat files, or set eta to 1")
        if self.batch_packs % self.forward_packs:
            raise ValueError(f"batch_packs {self.batch_packs} is not a multiple of forward_packs {self.forward_packs}")
        return self


def load_config(path: Path | None, overrides: Iterable[str] = ()) -> FinetuneConfig:
    """Settings of a YAML file with `name=value` or `part.name=value` overrides on top; values are read as YAML. Raises
    UserError that names the setting and, for an unknown one, the nearest known."""
    values: dict[str, Any] = {}
    if path is not None:
        try:
            read = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"cannot read the settings file {path}: {error.strerror}") from error
        except yaml.YAMLError as error:
            raise UserError(f"{path} is not YAML: {error}") from error
        if not isinstance(read, dict | None):
            raise UserError(f"{path} must hold `name: value` lines, not a {type(read).__name__}")
        values = read or {}
    for override in overrides:
        _set(values, override)
    try:
        return FinetuneConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{path or 'settings'}: {_explain(error)}") from error


def _set(values: dict[str, Any], override: str) -> None:
    name, mark, text = override.partition("=")
    if not mark or not name:
        raise UserError(f"--set {override!r} is not of the form name=value")
    *parents, last = name.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UserError(f"--set {override!r}: {parent} is a single value and has no parts")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {override!r}: the value is not YAML") from error


def _explain(error: ValidationError) -> str:
    problems = error.errors()  # an unknown name first: it is often the cause of a missing one
    problem = next((found for found in problems if found["type"] == "extra_forbidden"), problems[0])
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"there is no setting {place!r}{closest(str(problem['loc'][-1]), _names(problem['loc']))}"
    return f"{place}: {problem['msg']}" if place else problem["msg"].removeprefix("Value error, ")


def _names(place: Sequence[int | str]) -> list[str]:
    """The settings known where an unknown one was given."""
    return list((LoraSettings if place[0] == "lora" and len(place) > 1 else FinetuneConfig).model_fields)
