"""``headprobe score``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from headprobe.cli import completion, options, output, parsing
from headprobe.cli.live import LiveScores
from headprobe.cli.runs import allocating, describe, show_cost, show_top_heads
from headprobe.errors import UsageError

if TYPE_CHECKING:
    from headprobe.models.loading import LoadedModel
    from headprobe.tasks import Task

Decode = Literal["greedy", "forced"]
Steps = Literal["aligned", "reference"]


def score(
    model: options.Model = "nano",
    task: Annotated[
        str,
        options.task(
            "Task to score the heads on: see `headprobe list tasks`.",
            choices="r2|retrieval|evidence|razor|alibi|reconstruct|onthefly|reach|stability",
            complete=completion.tasks,
        ),
    ] = "r2",
    measures: Annotated[
        str | None,
        typer.Option(
            metavar="all|NAME,...",
            help="Measures to take: see `headprobe list measures`.",
            show_default="the task's own",
            autocompletion=completion.measures,
            rich_help_panel=options.SCORING,
        ),
    ] = None,
    lengths: Annotated[
        str | None,
        options.lengths("ten up to 10,000 or the model's max context; of razor the longest"),
    ] = None,
    depths: options.Depths = None,
    needles: Annotated[Path | None, options.needles("the bundled ones")] = None,
    haystack: options.Haystack = None,
    text: options.Text = None,
    questions: Annotated[
        str | None,
        options.questions(
            "The documents of evidence, with questions: rows of LooGLE, JSONL or a data set."
        ),
    ] = None,
    limit: options.Limit = 200,
    out: Annotated[
        Path | None,
        options.out("The run directory.", default="outputs/<model>/<task>"),
    ] = None,
    decode: Annotated[
        Decode,
        typer.Option(
            help="greedy: score the heads on the model's own answers, where they are right; "
            "forced: on the expected answers, whatever the model would say.",
            rich_help_panel=options.SCORING,
        ),
    ] = "greedy",
    steps: Annotated[
        Steps,
        typer.Option(
            help="aligned: r2 sums over the steps that write the answer, wherever the response "
            "gives it; reference: as published, the response ends at the answer's length.",
            rich_help_panel=options.SCORING,
        ),
    ] = "aligned",
    prompt: options.Prompt = "auto",
    answer_prefix: options.AnswerPrefix = None,
    chat_template: options.ChatTemplate = None,
    device: options.Device = "auto",
    device_map: options.DeviceMap = None,
    dtype: options.Dtype = "auto",
    attention: options.Attention = None,
    max_context: options.MaxContext = None,
    revision: options.Revision = None,
    adapter: options.Adapter = None,
    prefill_chunk: options.PrefillChunk = None,
    activation_memory: options.ActivationMemory = "1GiB",
    until_stable: Annotated[
        float | None,
        typer.Option(
            help="Stop when the ranking of the heads is this reliable, such as 0.95.",
            show_default=False,
            rich_help_panel=options.SCORING,
        ),
    ] = None,
    utility: Annotated[
        bool,
        typer.Option(
            "--utility",
            help="Gather the curves that `allocate --strategy utility` divides by (LU-KV): how "
            "much of the answer's attention a KV head's entries hold.",
            rich_help_panel=options.SCORING,
        ),
    ] = False,
    statistics: Annotated[
        bool,
        typer.Option(
            "--statistics",
            help="Average every head's queries before rotation over 32,768 tokens of the cases, "
            "for `export --to triattention`.",
            rich_help_panel=options.SCORING,
        ),
    ] = False,
    keep_rows: Annotated[
        int,
        typer.Option(
            min=0,
            max=64,
            help="Keep the attention rows of so many cases for `headprobe report`: failed, best, "
            "worst and deepest ones.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = 0,
    seed: options.Seed = 0,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print what the run would take, and run nothing.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    overwrite: options.Overwrite = False,
    trust_remote_code: options.TrustRemoteCode = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Score every attention head of a model on a task; run again, it resumes.

    Example: headprobe score --model llama3-8b --task r2
    """
    typed = locals()
    given = parsing.run_options(typed)
    parsing.reliability(until_stable)
    from headprobe.tasks import get_task

    chosen = get_task(task)
    _refuse_unused(chosen, typed)
    parsing.question_source(questions)
    parsing.needle_file(needles)
    chosen = chosen.measuring(parsing.comma_list(measures)).counting(steps)
    chosen = chosen.gathering_utility() if utility else chosen
    from headprobe.models.loading import load_model
    from headprobe.runs.distributed import init_distributed
    from headprobe.runs.pass_rates import pass_rates
    from headprobe.runs.plan import prepare, prepare_decided
    from headprobe.runs.score import score as score_cases

    with init_distributed(output.note) as processes:
        if not (chosen.needs_cases or processes.is_main_process):
            return
        if device_map and processes.count > 1:
            message = "is for one process: leave it out, or start one alone"
            raise UsageError(message, option="device_map", value=device_map)
        wanted = replace(given.model, device=processes.device(device))
        loaded = load_model(wanted, weights=not dry_run)
        if not chosen.needs_cases:
            _from_weights(loaded, task, seed=seed, overwrite=overwrite, out=out, json=json)
            return
        given.prompt.apply_template(loaded.tokenizer)
        how: dict[str, Any] = {
            "prompt": given.prompt,
            "out": out,
            "decode": decode,
            "memory": given.memory,
            "until_stable": until_stable,
        }
        if dry_run:
            if processes.is_main_process:
                show_cost(prepare(loaded, chosen, given.cases, **how), json=json)
            return
        run = prepare_decided(
            loaded, chosen, given.cases, processes=processes, overwrite=overwrite, **how
        )
        if processes.is_main_process:
            output.note(run.summary)
            _name_others(loaded)
        total = len(run.tree.shards(processes.count)[processes.rank])
        with output.progress(f"{loaded.layout.name} {task}", total=total) as bar:
            live = LiveScores(bar.tell, measure=chosen.measures[0], asks=chosen.asks)
            scores = score_cases(
                loaded,
                run,
                keep_rows=keep_rows,
                statistics=statistics,
                overwrite=overwrite,
                processes=processes,
                advance=bar,
                **({"watch": live} if bar.is_live else {}),
            )
    if scores is not None:
        rates = pass_rates(run.out)
        if json or not quiet:
            show_top_heads(scores, measure=None, seed=seed, top_k=10, rates=rates, json=json)
        describe(scores, path=run.out)
        if scores.cases < len(run.cases):
            output.note(
                f"stopped as stable after {scores.cases} of {len(run.cases)} cases, which saves "
                f"{len(run.cases) - scores.cases}"
            )
        if len(scores.measures) > 1:
            output.note(f"also: {', '.join(scores.measures[1:])}; see headprobe show --measure")
        output.written(run.out, then=allocating(run.out, task), json=json)


def _refuse_unused(task: Task, typed: Mapping[str, Any]) -> None:
    """Refuse options, as they are typed, that a task has no use for.

    Raises:
        UsageError: there is such an option.
    """
    of_needles = ("depths", "needles", "haystack")
    of_cases = ("measures", "lengths", *of_needles, "text", "questions", "prompt", "chat_template")
    of_runs = ("utility", "statistics", "keep_rows", "dry_run")
    reads_tokens = not (task.asks or task.reads_text)
    unused: dict[str, Sequence[str]] = {
        f"task {task.name} has no cases": () if task.needs_cases else (*of_cases, *of_runs),
        "is for task evidence": () if task.reads_documents else ("questions",),
        "this task hides no needles": () if task.asks else of_needles,
        "this task reads random tokens": ("statistics",) if reads_tokens else (),
        "this task only reads": ("keep_rows",) if task.reads_text else (),
    }
    for reason, names in unused.items():
        for name in names:
            value = typed[name]
            if value in (None, False, 0) or (name, value) == ("prompt", "auto"):
                continue
            told = None if value is True else value
            raise UsageError(f"{reason}: leave it out", option=name, value=told)


def _name_others(loaded: LoadedModel) -> None:
    """Say which layers of a hybrid are not profiled."""
    others = loaded.layers_without_attention
    if others:
        output.note(f"layers without attention, not profiled: {', '.join(map(str, others))}")


def _from_weights(
    loaded: LoadedModel,
    task: str,
    *,
    seed: int,
    overwrite: bool,
    out: Path | None,
    json: bool,
) -> None:
    from headprobe.runs.directory import directory_for
    from headprobe.runs.score_weights import score_weights

    run = out or directory_for(loaded.label, task)
    scores = score_weights(loaded, task=task, out=run, seed=seed, overwrite=overwrite)
    if json or not output.is_quiet():
        show_top_heads(scores, measure=None, seed=seed, top_k=10, rates=(), json=json)
    describe(scores)
    output.written(run, then=allocating(run, task), json=json)
