"""The command `agentlm-sdk`. Each verb loads its own stack only when it is called; `--help` loads none."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentlm_sdk.errors import (
    EXIT_INFRASTRUCTURE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_UNDECIDED,
    EXIT_USER,
    InfrastructureError,
    UserError,
    closest,
)

if TYPE_CHECKING:
    from agentlm_sdk.policies import PolicySpec
    from agentlm_sdk.rollout import RolloutSettings
    from agentlm_sdk.tasks import Task
    from trainers.plan import PlanReport

app = typer.Typer(
    name="agentlm-sdk",
    help="Run agents in sandboxes, keep every episode, fine-tune on the ones that worked, prove that the model got better.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
tasks_app = typer.Typer(help="Make, import and look at tasks.", no_args_is_help=True)
runs_app = typer.Typer(help="Look at runs, and finish them after a crash.", no_args_is_help=True)
sandbox_app = typer.Typer(help="Build sandbox images; list and clean what was left behind.", no_args_is_help=True)
app.add_typer(tasks_app, name="tasks")
app.add_typer(runs_app, name="runs")
app.add_typer(sandbox_app, name="sandbox")

SPLITS = ("train", "test", "heldout")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else there.")]
Out = Annotated[Path, typer.Option("-o", "--out", help="Where the result goes.")]
Seed = Annotated[int, typer.Option("--seed", help="Everything drawn at random follows from it.")]
TasksFile = Annotated[Path, typer.Option("--tasks", help="Task file (JSON lines).")]
Splits = Annotated[str, typer.Option("--split", help="Only tasks of these splits, comma-separated: train, test, heldout.")]
Limit = Annotated[int, typer.Option("--limit", min=0, help="Only the first N; 0 means all.")]
Attempts = Annotated[int, typer.Option("-k", "--attempts", min=1, help="Attempts at each task.")]
Concurrency = Annotated[int, typer.Option("-n", "--concurrency", min=1, help="Episodes at the same time.")]
MaxTurns = Annotated[int, typer.Option("--max-turns", min=0, help="Model replies an episode may take; 0: the task's own number.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Tokens a reply may have.")]
Temperature = Annotated[float, typer.Option("--temperature", min=0.0, help="0 is greedy.")]
ModelName = Annotated[str, typer.Option("--model-name", help="What to ask the server for; default: the first model it offers.")]
Weights = Annotated[
    str, typer.Option("--weights", help="The local folder behind a server's URL, for the record and the chat loss.")
]
ModelSpec = Annotated[
    str, typer.Option("-m", "--model", "--policy", help="oracle, oracle:slips, vllm:PATH_OR_NAME, scripted:FILE, or a URL.")
]


# ------------------------------------------------------------------------------------------------------------------- tasks


@tasks_app.command("generate")
def tasks_generate(
    out: Out,
    suite: Annotated[str, typer.Argument(help="The suite to generate; `starter` is the one that ships.")] = "starter",
    families: Annotated[str, typer.Option("--families", help="`demo`, `all`, or names, comma-separated.")] = "all",
    kind: Annotated[str, typer.Option("--kind", help="`any`, `shell` or `sqlite`.")] = "any",
    train: Annotated[int, typer.Option("--train", min=0, help="Training tasks of each trained family.")] = 12,
    test: Annotated[int, typer.Option("--test", min=0, help="Test tasks of each trained family.")] = 8,
    heldout: Annotated[int, typer.Option("--heldout", min=0, help="Tasks of each held-out family.")] = 8,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Generate tasks with a set-up, an instruction, a judge and a reference solution each."""
    from agentlm_sdk.suites.starter import choose_families, generate
    from agentlm_sdk.tasks import write_tasks

    if suite != "starter":
        raise UserError(f"unknown suite {suite!r}; the SDK generates 'starter' (AgentBench's tasks: `agentlm-sdk tasks import`)")
    if kind not in ("any", "shell", "sqlite"):
        raise UserError(f"unknown kind {kind!r}{closest(kind, ['any', 'shell', 'sqlite'])}; use any, shell or sqlite")
    names = choose_families(families, kind=kind)
    made = generate(seed, families=names, train_per_family=train, test_per_family=test, heldout_per_family=heldout)
    write_tasks(out, made)
    _tasks_written(out, made, json)


@tasks_app.command("import")
def tasks_import(
    layout: Annotated[str, typer.Argument(help="agentbench-os or agentbench-db.")],
    file: Annotated[Path, typer.Argument(help="AgentBench's own file.")],
    out: Out,
    scripts: Annotated[
        Path | None, typer.Option("--scripts", help="Folder of the check and init scripts; default: beside FILE.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="What the tasks are for: train, test or heldout.")] = "test",
    json: Json = False,
) -> None:
    """Import tasks kept in somebody else's layout."""
    from agentlm_sdk.agentbench import import_db, import_os
    from agentlm_sdk.tasks import write_tasks

    match layout:
        case "agentbench-os":
            made = import_os(file, scripts)
        case "agentbench-db":
            made = import_db(file)
        case _:
            known = ["agentbench-os", "agentbench-db"]
            raise UserError(f"unknown layout {layout!r}{closest(layout, known)}; use {' or '.join(known)}")
    _check_split(split)
    made = [task.model_copy(update={"split": split}) for task in made]
    write_tasks(out, made)
    _tasks_written(out, made, json)


@tasks_app.command("list")
def tasks_list(file: Annotated[Path, typer.Argument(help="Task file.")], json: Json = False) -> None:
    """Count a file's tasks by family and split. Reading it validates it."""
    from agentlm_sdk.tasks import read_tasks

    _tasks_written(file, read_tasks(file), json)


def _tasks_written(path: Path, tasks: list[Task], json: bool) -> None:
    from collections import Counter

    from agentlm_sdk.console import print_json
    from agentlm_sdk.display import neutral_line

    counts = Counter((task.family, task.split) for task in tasks)
    families = {
        family: {split: n for (name, split), n in counts.items() if name == family} for family in sorted({f for f, _ in counts})
    }
    splits = Counter(task.split for task in tasks)
    if json:
        print_json({"out": str(path), "n": len(tasks), "splits": dict(splits), "families": families})
        return
    for family, row in families.items():
        print(f"{neutral_line(family):32} " + "  ".join(f"{split} {n}" for split, n in sorted(row.items())))
    print(f"{len(tasks)} tasks ({', '.join(f'{split} {n}' for split, n in sorted(splits.items()))}) in {path}")


# ----------------------------------------------------------------------------------------------------------------- rollout


@app.command()
def rollout(
    out: Out,
    tasks: TasksFile,
    model: ModelSpec,
    split: Splits = "",
    limit: Limit = 0,
    attempts: Attempts = 1,
    concurrency: Concurrency = 4,
    max_turns: MaxTurns = 0,
    max_tokens: MaxTokens = 128,
    temperature: Temperature = 0.0,
    seed: Annotated[int | None, typer.Option("--seed", help="Sampling seed sent to the server.")] = None,
    model_name: ModelName = "",
    weights: Weights = "",
    json: Json = False,
) -> None:
    """Run episodes and log every one of them to the run directory -o."""
    spec = _policy(model, model_name, weights, temperature, max_tokens, seed)
    _new_run(out, _chosen(tasks, split, limit), spec, _settings(attempts, concurrency, max_turns))
    raise typer.Exit(_run(out, json=json, then=f"agentlm-sdk runs show {out}"))


def _policy(model: str, model_name: str, weights: str, temperature: float, max_tokens: int, seed: int | None) -> PolicySpec:
    from agentlm_sdk.policies import PolicySpec

    return PolicySpec(name=model, model_name=model_name, weights=weights, temperature=temperature, max_tokens=max_tokens, seed=seed)


def _settings(attempts: int, concurrency: int, max_turns: int) -> RolloutSettings:
    from agentlm_sdk.rollout import RolloutSettings

    return RolloutSettings(attempts=attempts, concurrency=concurrency, max_turns=max_turns or None)


def _chosen(path: Path, split: str, limit: int) -> list[Task]:
    from agentlm_sdk.tasks import read_tasks

    wanted = [name.strip() for name in split.split(",") if name.strip()]
    for name in wanted:
        _check_split(name)
    chosen = [task for task in read_tasks(path) if not wanted or task.split in wanted][: limit or None]
    if not chosen:
        raise UserError(f"{path} holds no task of split {split}")
    return chosen


def _check_split(name: str) -> None:
    if name not in SPLITS:
        raise UserError(f"unknown split {name!r}{closest(name, SPLITS)}; use {', '.join(SPLITS)}")


def _new_run(out: Path, tasks: list[Task], spec: PolicySpec, settings: RolloutSettings) -> None:
    from agentlm_sdk.policies import check
    from agentlm_sdk.rollout import new_run

    check(spec)
    new_run(out, tasks, spec, settings, sys.argv)


def _run(out: Path, *, json: bool, then: str) -> int:
    """Run what the directory lacks, say what came of it, and give the exit code."""
    from agentlm_sdk.console import bar, print_json
    from agentlm_sdk.record import Trajectory
    from agentlm_sdk.rollout import rollout as run_rollout

    with bar("episodes") as progress:
        solved = 0

        def on_end(trajectory: Trajectory, done: int, wanted: int) -> None:
            nonlocal solved
            solved += trajectory.solved
            progress.at(done, wanted, f"solved {solved}")

        summary = asyncio.run(run_rollout(out, on_end=on_end, tell=progress.tell))
    if json:
        print_json(summary)
    elif summary.rate is not None:
        ends = ", ".join(f"{cause} {n}" for cause, n in summary.ended_by.items() if n)
        print(f"solved {summary.solved} of {summary.n - summary.unmeasured} ({summary.rate:.0%}); ended by {ends}")
        print(f"{out}  (look: {then})")
    if summary.n < summary.wanted or summary.unmeasured:
        return EXIT_INFRASTRUCTURE if summary.unmeasured == summary.n else EXIT_UNDECIDED
    return EXIT_OK


# -------------------------------------------------------------------------------------------------------------------- runs

RunDir = Annotated[Path, typer.Argument(help="Run directory.")]


@runs_app.command("list")
def runs_list(
    folder: Annotated[Path, typer.Argument(help="Where to look.")] = Path("runs"),
    json: Json = False,
) -> None:
    """The runs below a folder, by name."""
    from agentlm_sdk.console import print_json
    from agentlm_sdk.rollout import summarise

    found = sorted(path.parent for path in folder.glob("**/manifest.json") if (path.parent / "events").is_dir())
    rows = [summarise(path) for path in found if not path.is_symlink()]
    if json:
        print_json({"runs": [row.model_dump(mode="json") for row in rows]})
        return
    for row in rows:
        print(f"{row.run:60} {row.n:5}/{row.wanted:<5} solved {row.solved}")


@runs_app.command("show")
def runs_show(
    run: RunDir,
    episode: Annotated[str, typer.Option("--episode", help="Id of the episode, or a part of its task's id.")] = "",
    limit: Limit = 20,
    json: Json = False,
) -> None:
    """One line an episode, or one episode as a conversation."""
    from agentlm_sdk.console import print_json
    from agentlm_sdk.display import neutral, trajectory_text
    from agentlm_sdk.journal import read_run
    from agentlm_sdk.rollout import summarise

    contents = read_run(run)
    if episode:
        found = [t for t in contents.trajectories if t.id == episode or episode in t.task.id]
        if not found:
            raise UserError(
                f"{run} holds no episode whose id or task matches {episode!r}; list them with `agentlm-sdk runs show {run}`"
            )
        if json:
            print_json(found[0])
        else:
            print(trajectory_text(found[0]))
        return
    if json:
        print_json(summarise(run))
        return
    for trajectory in contents.trajectories[: limit or None]:
        print(
            f"{trajectory.id}  {trajectory.outcome.verdict:10} {trajectory.outcome.ended_by:15} "
            f"{len(trajectory.steps):2} turns  {neutral(trajectory.task.id)}"
        )
    done, torn = len(contents.trajectories), len(contents.problems)
    print(f"{done} episodes finished, {len(contents.incomplete)} not, {torn} damaged lines in {run}")


@runs_app.command("resume")
def runs_resume(run: RunDir, json: Json = False) -> None:
    """Run again what a run did not finish; what is finished stays byte for byte."""
    from agentlm_sdk.console import stderr
    from agentlm_sdk.journal import read_run

    contents = read_run(run)
    broken = sum(t.outcome.failure is not None for t in contents.trajectories)
    kept = len(contents.trajectories) - broken
    cut = len(contents.incomplete)
    stderr.print(f"{kept} finished episodes kept; rerunning {cut} cut off, {broken} infrastructure failures, and what never began")
    for problem in contents.problems:
        stderr.print(problem, markup=False)
    code = _run(run, json=json, then=f"agentlm-sdk runs show {run}")
    if (run / "eval.json").is_file():
        from agentlm_sdk.evaluation import write_evaluation

        write_evaluation(run)
    raise typer.Exit(code)


@runs_app.command("verify")
def runs_verify(run: RunDir, json: Json = False) -> None:
    """Check every line's checksum. Exit code 2 when a line is torn or damaged or a task attempt has no end."""
    from agentlm_sdk.console import print_json
    from agentlm_sdk.display import neutral_line
    from agentlm_sdk.journal import read_run

    contents = read_run(run)
    ended = {(t.task.id, t.attempt) for t in contents.trajectories}
    open_still = [f"{task}, attempt {attempt}" for task, attempt in contents.unfinished_attempts if (task, attempt) not in ended]
    if json:
        print_json({"finished": len(contents.trajectories), "unfinished": open_still, "problems": contents.problems})
    else:
        for line in [*contents.problems, *(f"{attempt}: no end" for attempt in open_still)]:
            print(neutral_line(line))
        print(f"{len(contents.trajectories)} finished episodes are whole in {run}")
    if contents.problems or open_still:
        raise typer.Exit(EXIT_UNDECIDED)


# ------------------------------------------------------------------------------------------------------- curate and finetune


@app.command()
def curate(
    runs: Annotated[list[Path], typer.Argument(help="Run directories.")],
    out: Out,
    json: Json = False,
) -> None:
    """Choose the episodes and the turns a model should learn from, with a count for each reason to leave one out."""
    from agentlm_sdk.console import print_json
    from trainers.curate import curate as run_curate

    report = run_curate(runs, out)
    if json:
        print_json(report)
        return
    for rule, ids in report.dropped.items():
        print(f"dropped {len(ids):5}  {rule}")
    turns = f"{report.trained_turns} turns to learn, {report.context_turns} as context"
    print(f"kept {report.kept} of {report.taken_in} episodes; {turns}")
    print(f"{out}  (train on it: agentlm-sdk finetune --set agent={out} --set base=MODEL_DIR --set out=OUT)")


@app.command()
def finetune(
    config: Annotated[Path | None, typer.Argument(help="YAML file of settings; every one may be given by --set instead.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE, e.g. eta=0.5 or lora.r=8; repeatable.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Render, audit and plan only; no step is taken.")] = False,
    json: Json = False,
) -> None:
    """Fine-tune a chat model on curated episodes and general chat; the audit must pass before a step is taken."""
    from agentlm_sdk.console import print_json, stderr
    from trainers.config import load_config

    loaded = load_config(config, settings or [])
    if check:
        from trainers.plan import plan_finetune

        plan = plan_finetune(loaded).report
        print_json(plan) if json else print(_plan_text(plan))
        return
    from trainers.sft import run_finetune

    result = run_finetune(loaded, tell=lambda line: stderr.print(line, markup=False))
    if json:
        print_json(result)
        return
    print(_plan_text(result.plan))
    speed = f"{result.tokens_per_second:.0f} tokens/s"
    print(f"loss {result.first_loss:.3f} -> {result.last_loss:.3f} in {result.steps} steps, {speed}")
    print(f"{result.model}  (serve it: agentlm-sdk serve {result.model})")


def _plan_text(plan: PlanReport) -> str:
    """The data of a run in a few lines: what comes in, what is left out, and eta in four units."""
    mix, shares = plan.mix, plan.mix.shares
    lines = [f"dropped {count:5}  {reason}" for reason, count in plan.dropped.items()]
    lines += [
        f"audit passed on {plan.audit.samples} samples, nothing truncated; "
        f"{plan.tokens} tokens, {plan.trained_tokens} of them learned",
        f"agent share (eta {mix.eta:g} in {mix.unit}): samples {shares.samples:.3f}, tokens {shares.tokens:.3f}, "
        f"trained tokens {shares.trained_tokens:.3f}, loss {shares.loss:.3f}",
        f"{plan.packs} packs, {plan.fill:.1%} full, {plan.steps} steps; {plan.held_back} general records held back",
    ]
    return "\n".join(lines)


@app.command()
def serve(
    model: Annotated[str, typer.Argument(help="Model folder, or a model of a hub.")],
    port: Annotated[int, typer.Option("--port", help="0: a free one.")] = 0,
    host: Annotated[str, typer.Option("--host", help="The default answers this machine only.")] = "127.0.0.1",
    name: Annotated[str, typer.Option("--name", help="Name the server gives the model; default: the folder's.")] = "",
    max_model_len: Annotated[int, typer.Option("--max-model-len", help="Context of the server, tokens.")] = 4096,
    log: Annotated[Path | None, typer.Option("--log", help="Where the server's own output goes.")] = None,
    json: Json = False,
) -> None:
    """Serve a model by vLLM until Ctrl-C or SIGTERM."""
    from agentlm_sdk.console import print_json, stderr
    from agentlm_sdk.server import free_port, serving

    async def keep() -> None:
        this = asyncio.current_task()
        assert this is not None
        for number in (signal.SIGTERM, signal.SIGINT):  # also while the server loads: the context ends it
            asyncio.get_running_loop().add_signal_handler(number, this.cancel)
        where = serving(
            model, name=name or None, host=host, port=port or free_port(), log=log, max_model_len=max_model_len, tell=stderr.print
        )
        async with AsyncExitStack() as stack:
            with stderr.status(f"loading {model}"):
                url = await stack.enter_async_context(where)
            print_json({"url": url, "model": model}) if json else print(f"{url}  (stop: Ctrl-C)")
            sys.stdout.flush()
            await asyncio.Event().wait()

    with suppress(asyncio.CancelledError):
        asyncio.run(keep())


# -------------------------------------------------------------------------------------------------------- eval and compare


@app.command("eval")
def evaluate(
    out: Out,
    tasks: TasksFile,
    model: ModelSpec,
    split: Splits = "test,heldout",
    limit: Limit = 0,
    attempts: Attempts = 1,
    concurrency: Concurrency = 8,
    max_turns: MaxTurns = 0,
    max_tokens: MaxTokens = 128,
    temperature: Temperature = 0.0,
    seed: Annotated[int | None, typer.Option("--seed", help="Sampling seed sent to the server.")] = None,
    model_name: ModelName = "",
    weights: Weights = "",
    general: Annotated[
        Path | None,
        typer.Option("--general", help="Held-back general chat: also measure its loss (needs --weights and the train extra)."),
    ] = None,
    json: Json = False,
) -> None:
    """Rollout on test and held-out tasks, with intervals; the run directory is what `compare` reads."""
    from agentlm_sdk.console import print_json
    from agentlm_sdk.evaluation import evaluation_text, write_evaluation, write_loss

    folder = weights or (model.removeprefix("vllm:") if model.startswith("vllm:") else "")
    if general and not folder:
        raise UserError("--general needs the model's weights: add --weights DIR")
    spec = _policy(model, model_name, weights, temperature, max_tokens, seed)
    _new_run(out, _chosen(tasks, split, limit), spec, _settings(attempts, concurrency, max_turns))
    if general:
        write_loss(out, _general_loss(folder, general))
    with _quiet_stdout(json):
        code = _run(out, json=False, then=f"agentlm-sdk runs show {out}")
    result = write_evaluation(out)
    if json:
        print_json(result)
    else:
        print(evaluation_text(result))
    raise typer.Exit(code)


def _general_loss(folder: str, records: Path) -> float:
    from agentlm_sdk.console import bar
    from trainers.general import read_general
    from trainers.sft import general_loss

    with bar("loss on general chat") as progress:
        return general_loss(Path(folder), read_general([records]).records, on_record=progress.at)


def _quiet_stdout(quiet: bool) -> Any:
    from contextlib import nullcontext, redirect_stdout

    return redirect_stdout(sys.stderr) if quiet else nullcontext()


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="Evaluation of the model you have.")],
    b: Annotated[Path, typer.Argument(help="Evaluation of the new model, on the same tasks.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Write the summary (JSON) here.")] = None,
    report: Annotated[Path | None, typer.Option("--report", help="Write one self-contained HTML page here.")] = None,
    training: Annotated[
        Path | None, typer.Option("--training", help="Folder of the tuned model: its data are shown, its card gets the scores.")
    ] = None,
    provenance: Annotated[Path | None, typer.Option("--provenance", help="JSON object on how it was made, for the report.")] = None,
    allow: Annotated[str, typer.Option("--allow", help="Named differences to accept, comma-separated, e.g. tasks.")] = "",
    json: Json = False,
) -> None:
    """Is B better than A? Exit code 0 better, 1 not better, 2 not enough evidence."""
    from agentlm_sdk.console import print_json
    from agentlm_sdk.evaluation import card_scores, compare_runs

    comparison, summary, shown = compare_runs(a, b, out=out, report=report, training=training, provenance=provenance, allow=allow)
    if training:
        from trainers.card import add_scores

        add_scores(training, card_scores(summary))
    if json:
        print_json(summary)
    else:
        from rich.console import Console

        Console().print(shown)
        for path in (out, report):
            if path:
                print(path)
    if comparison.exit_code:
        raise typer.Exit(comparison.exit_code)


# ------------------------------------------------------------------------------------------------------------------ sandbox


@sandbox_app.command("build")
def sandbox_build(name: Annotated[str, typer.Argument(help="Image name.")] = "os", json: Json = False) -> None:
    """Build a sandbox image; an image that is there and current is left alone."""
    from agentlm_sdk.console import print_json, stderr
    from sandboxes.images import ensure_image

    image = ensure_image(name, progress=lambda line: stderr.print(line, markup=False))
    print_json({"name": name, "image": image}) if json else print(image)


@sandbox_app.command("list")
def sandbox_list(json: Json = False) -> None:
    """The containers the SDK started on this engine."""
    from dataclasses import asdict

    from agentlm_sdk.console import print_json
    from sandboxes.reaper import list_sandboxes

    found = [asdict(sandbox) for sandbox in list_sandboxes()]
    if json:
        print_json({"sandboxes": found})
        return
    for row in found:
        print("  ".join(str(value) for value in row.values()))
    print(f"{len(found)} containers")


@sandbox_app.command("clean")
def sandbox_clean(json: Json = False) -> None:
    """Remove containers of ours whose owner is dead, and nothing else."""
    from agentlm_sdk.console import print_json
    from sandboxes.reaper import clean

    removed = clean()
    print_json({"removed": removed}) if json else print(f"removed {len(removed)}")


# --------------------------------------------------------------------------------------------------------------------- demo


@app.command()
def demo(
    base: Annotated[Path, typer.Option("--base", help="Folder of the chat model to start from; scripts/setup makes one.")] = Path(
        ".cache/models/SmolLM2-135M-Instruct"
    ),
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Default: runs/demo-SEED-TIME.")] = None,
    seed: Seed = 0,
    families: Annotated[str, typer.Option("--families", help="`demo` (ten), `all`, or names, comma-separated.")] = "demo",
    db_only: Annotated[bool, typer.Option("--db-only", help="Only the SQLite tasks: needs no Docker.")] = False,
    train: Annotated[int, typer.Option("--train", help="Training tasks of each family.")] = 10,
    test: Annotated[int, typer.Option("--test", help="Test tasks of each family.")] = 7,
    heldout: Annotated[int, typer.Option("--heldout", help="Held-out tasks in all families together, at least.")] = 33,
    eta: Annotated[float, typer.Option("--eta", help="Agent share of the trained tokens.")] = 0.2,
    epochs: Annotated[int, typer.Option("--epochs", help="Passes over the agent data.")] = 2,
    general: Annotated[
        Path | None, typer.Option("--general", help="General chat, ShareGPT layout; default: the set that ships.")
    ] = None,
    json: Json = False,
) -> None:
    """The whole loop on a small real model: every stage is a verb of this command, printed before it runs."""
    from agentlm_sdk.console import print_json
    from agentlm_sdk.demo import DemoPlan, run_demo

    plan = DemoPlan(
        base=base,
        out=out,
        seed=seed,
        families=families,
        db_only=db_only,
        train=train,
        test=test,
        heldout=heldout,
        eta=eta,
        epochs=epochs,
        general=general,
    )
    summary = run_demo(plan)
    if json:
        print_json(summary)


# --------------------------------------------------------------------------------------------------------------------- main


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(argv))


def run(argv: list[str] | None = None) -> int:
    """The exit code of a command line. A mistake of the user's prints one clear message and gives 1."""
    from sandboxes.base import SandboxError

    usage_error: type[Exception] = typer.BadParameter.__bases__[0]
    try:
        code = typer.main.get_command(app)(argv, prog_name="agentlm-sdk", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except usage_error as error:
        context = getattr(error, "ctx", None)
        _complain(getattr(error, "format_message", error.__str__)())
        if context is not None:
            _complain(f"see `{context.command_path} --help`", prefix="")
        return EXIT_USER
    except UserError as error:
        _complain(str(error))
        return EXIT_USER
    except (InfrastructureError, SandboxError) as error:
        _complain(str(error))
        return EXIT_INFRASTRUCTURE
    except (KeyboardInterrupt, typer.Abort):
        _complain("interrupted; what was finished is on disk", prefix="")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


def _complain(text: str, *, prefix: str = "error: ") -> None:
    from agentlm_sdk.display import neutral

    print(f"{prefix}{neutral(text)}", file=sys.stderr)


if __name__ == "__main__":
    main()
