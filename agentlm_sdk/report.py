"""One self-contained HTML page about a comparison: the verdict, the numbers behind it, and episodes to read."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from agentlm_sdk.compare import ERRORS, Answer, Comparison, Pair, Paired, p_text, paired_episodes
from agentlm_sdk.display import Turn, ending, neutral, prompt, turns
from agentlm_sdk.errors import MissingExtra, UserError
from agentlm_sdk.journal import write_atomic
from agentlm_sdk.record import Trajectory

try:
    import matplotlib
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtra("a report needs the report extra: pip install 'agentlm-sdk[report]'") from error

BLOCK = 20_000
"""Characters of one piece of agent text on the page; what is cut is counted there."""

INK, MUTED, RULE, BASE, TUNED = "#010203", "#010204", "#010205", "#010206", "#010207"
PAGE_COLOURS = {INK: "var(--ink)", MUTED: "var(--muted)", RULE: "var(--rule)", BASE: "var(--base)", TUNED: "var(--tuned)"}
"""Stand-ins drawn by matplotlib, and the page's own colours that replace them: so a figure follows light and dark."""

HEADLINES = {
    Answer.BETTER: "The tuned model is better than the base model.",
    Answer.NOT_BETTER: "The tuned model is not better than the base model.",
    Answer.NOT_ENOUGH_EVIDENCE: "There is not enough evidence to call the tuned model better.",
}

SPLITS = {"test": "Test tasks", "heldout": "Held-out families", "overall": "All tasks"}


def write_report(
    path: Path,
    *,
    comparison: Comparison,
    base: Sequence[Trajectory],
    tuned: Sequence[Trajectory],
    summary: dict[str, Any],
    training_events: Path | None = None,
) -> None:
    """Write the page. `comparison` has the base model as a and the tuned one as b.

    Of `summary` it shows `eta`, `ledger`, `training`, `seed`, `commands`, `versions` and `seconds`, each if there.
    `training_events` is a JSON-lines file with `step`, `loss` and perhaps `agent_loss` and `general_loss`.
    The page needs no network, no script and no other file.
    """
    events = read_events(training_events) if training_events else []
    losses = [event for event in events if "step" in event and _number(event.get("loss")) is not None]
    environment = Environment(autoescape=True, undefined=StrictUndefined, finalize=_finalize, trim_blocks=True)
    environment.lstrip_blocks = True
    environment.filters |= {"percent": percent, "points": points, "p_text": p_text, "facts": facts, "cut": cut, "said": _said}
    template = environment.from_string((files("agentlm_sdk") / "data" / "report.html.j2").read_text(encoding="utf-8"))
    page = template.render(
        headline=HEADLINES[comparison.verdict],
        comparison=comparison,
        rows=[*comparison.splits, comparison.overall] if len(comparison.splits) > 1 else comparison.splits,
        split_names=SPLITS,
        success_figure=success_figure(comparison),
        error_figure=error_figure(comparison.overall),
        loss_figure=loss_figure(losses) if len(losses) > 1 else None,
        losses=losses,
        summary=summary,
        examples=[Example(why, pair) for why, pair in worked_examples(paired_episodes(base, tuned))],
    )
    write_atomic(path, page)


class Example:
    """A pair of episodes as the template reads it."""

    def __init__(self, why: str, pair: Pair) -> None:
        self.why = why
        self.task = pair.a.task
        self.kind = pair.a.sandbox.kind
        asked = prompt(pair.a)
        self.instruction = asked[-1].content if asked else ""
        self.before = asked[:-1]
        self.sides: list[tuple[str, Trajectory, str, list[Turn]]] = [
            (name, episode, ending(episode), list(turns(episode))) for name, episode in (("Base", pair.a), ("Tuned", pair.b))
        ]


def worked_examples(pairs: Sequence[Pair], limit: int = 3) -> list[tuple[str, Pair]]:
    """Pairs worth reading, each with why: newly solved, one of each kind of environment; one still failing; one lost."""
    solved = [("Failed before, solved now", pair) for pair in pairs if pair.b.solved and not pair.a.solved]
    failing = [("Still fails", pair) for pair in pairs if not pair.b.solved and not pair.a.solved]
    lost = [("Solved before, fails now", pair) for pair in pairs if pair.a.solved and not pair.b.solved]
    both = [("Solved by both", pair) for pair in pairs if pair.a.solved and pair.b.solved]
    by_kind: dict[str, tuple[str, Pair]] = {}
    for example in solved:
        by_kind.setdefault(example[1].a.sandbox.kind, example)
    wanted = list(by_kind.values())[: limit - 1] + failing[:1] + lost[:1] + solved + failing + both
    chosen: list[tuple[str, Pair]] = []
    for why, pair in wanted:
        if all(pair.a is not other.a for _, other in chosen):
            chosen.append((why, pair))
    return chosen[:limit]


def read_events(path: Path) -> list[dict[str, Any]]:
    """The lines of a training log. A torn last line, which a crash leaves, is dropped; any other damage raises UserError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"cannot read the training log {path}: {error.strerror}") from error
    events: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise UserError(f"{path}, line {number}: not JSON: {error}") from error
        events.append(event)
    return events


def success_figure(comparison: Comparison) -> Markup:
    """Rate and Wilson interval of both models, one row a split."""
    rows = [*comparison.splits, comparison.overall] if len(comparison.splits) > 1 else comparison.splits

    def draw(axes: Any) -> None:
        for index, row in enumerate(rows):
            for side, colour, offset in ((row.a, BASE, -0.17), (row.b, TUNED, 0.17)):
                y = index + offset
                axes.plot([side.low * 100, side.high * 100], [y, y], color=colour, linewidth=2.5, solid_capstyle="round")
                axes.plot([side.rate * 100], [y], "o", color=colour, markersize=7)
        axes.set_yticks(range(len(rows)), [SPLITS.get(row.name, neutral(row.name)) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(-2, 102)
        axes.set_xticks(range(0, 101, 25), [f"{tick} %" for tick in range(0, 101, 25)])
        axes.grid(axis="x", color=RULE, linewidth=0.8)

    return figure("success", "Share of tasks solved, with 95 % intervals", draw, height=0.5 + 0.55 * len(rows))


def error_figure(overall: Paired) -> Markup | None:
    """Share of episodes in which each error happened; None when there was none."""
    kinds = [kind for kind in ERRORS if overall.a.errors[kind] or overall.b.errors[kind]]
    if not kinds:
        return None

    def draw(axes: Any) -> None:
        for side, colour, offset in ((overall.a, BASE, -0.19), (overall.b, TUNED, 0.19)):
            for index, kind in enumerate(kinds):
                share = 100 * side.errors[kind] / side.n
                axes.barh(index + offset, share, height=0.34, color=colour, linewidth=0)
                axes.text(share + 1.5, index + offset, f"{share:.0f} %", va="center", fontsize=8, color=MUTED)
        axes.set_yticks(range(len(kinds)), [kind.replace("_", " ").capitalize() for kind in kinds])
        axes.set_ylim(len(kinds) - 0.4, -0.6)
        axes.set_xlim(0, 112)
        axes.set_xticks([])

    return figure("errors", "Share of episodes with each kind of error", draw, height=0.25 + 0.5 * len(kinds))


def loss_figure(events: Sequence[dict[str, Any]]) -> Markup:
    """Training loss by step: of all trained tokens, and of the agent and general parts where they were logged."""
    names = {"loss": ("all", INK), "agent_loss": ("agent", TUNED), "general_loss": ("general", BASE)}

    def draw(axes: Any) -> None:
        for key, (label, colour) in names.items():
            points = [(event["step"], _number(event.get(key))) for event in events]
            known = [(step, loss) for step, loss in points if loss is not None]
            if known:
                axes.plot(*zip(*known, strict=True), color=colour, label=label, linewidth=1.6 if key == "loss" else 1.2)
        axes.set_xlabel("step", color=MUTED)
        axes.set_ylim(bottom=0)
        axes.margins(x=0.01)
        axes.grid(axis="y", color=RULE, linewidth=0.8)
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, labelcolor=INK, borderaxespad=0)

    return figure("loss", "Training loss by step", draw, height=2.3)


def figure(name: str, label: str, draw: Callable[[Any], None], *, height: float) -> Markup:
    """An SVG that takes its colours and its font from the page around it."""
    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "text.parse_math": False,
        "font.size": 9,
        "text.color": INK,
        "xtick.color": MUTED,
        "ytick.labelcolor": INK,
        "axes.edgecolor": RULE,
        "axes.axisbelow": True,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
    }
    with matplotlib.rc_context(settings):
        drawn = Figure(figsize=(4.8, height), layout="constrained")
        axes = drawn.add_subplot()
        axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
        draw(axes)
        out = io.StringIO()
        drawn.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", svg)
    svg = re.sub(r'<svg[^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg role="img" aria-label="{label}" \1>', svg, count=1)
    for stand_in, colour in PAGE_COLOURS.items():
        svg = svg.replace(stand_in, colour)
    return Markup(svg)


def percent(share: float) -> str:
    return f"{share * 100:.0f} %"


def points(gain: float, digits: int = 0) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{gain * 100:+.{digits}f}".replace("-", "−")


def cut(text: str) -> str:
    """A piece of agent text, shortened for the page."""
    return text if len(text) <= BLOCK else f"{text[:BLOCK]}\n[{len(text) - BLOCK:,} characters more in the journal]"


def facts(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """A nested dictionary as rows of name and value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            name = str(key).replace("_", " ")
            yield from facts(inner, f"{place}, {name}" if place else name)
    elif isinstance(value, float):
        yield place, f"{value:,.4g}"
    elif isinstance(value, int) and not isinstance(value, bool):
        yield place, f"{value:,}"
    elif isinstance(value, list):
        yield place, ", ".join(map(str, value))
    else:
        yield place, str(value)


def _said(reason: str) -> str:
    return reason[:1].upper() + reason[1:] + "."


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _finalize(value: Any) -> Any:
    """Every value put on the page: nothing invisible gets there. HTML escaping comes after this."""
    return neutral(value) if isinstance(value, str) and not isinstance(value, Markup) else value
