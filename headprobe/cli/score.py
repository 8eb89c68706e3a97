"""``headprobe score``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from headprobe.cli import completion, options, output, parsing
from headprobe.cli.live import LiveScores
from headprobe.cli.runs import describe, show_cost, show_top_heads
from headprobe.errors import UsageError

if TYPE_CHECKING:
    from headprobe.models.loading import LoadedModel

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
        typer.Option(
            metavar="FILE|hf:...",
            help="The documents of evidence, with questions: rows of LooGLE, JSONL or a data set.",
            show_default=False,
            rich_help_panel=options.CASES,
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
    given = parsing.run_options(locals())
    parsing.reliability(until_stable)
    from headprobe.tasks import get_task

    chosen = get_task(task)
    if not chosen.needs_cases:
        unused = {
            "measures": measures,
            "lengths": lengths,
            "depths": depths,
            "needles": needles,
            "haystack": haystack,
            "text": text,
            "questions": questions,
            "prompt": None if prompt == "auto" else prompt,
            "chat_template": chat_template,
            "utility": utility or None,
            "statistics": statistics or None,
            "keep_rows": keep_rows or None,
            "dry_run": dry_run or None,
        }
        for option in (name for name, value in unused.items() if value is not None):
            raise UsageError(f"task {task} has no cases: leave it out", option=option)
    if questions is not None and not chosen.reads_documents:
        message = "is for task evidence: leave it out"
        raise UsageError(message, option="questions", value=questions)
    parsing.question_source(questions)
    if not chosen.asks:
        of_needles = {"depths": depths, "needles": needles, "haystack": haystack}
        for option, value in of_needles.items():
            if value is not None:
                message = "this task hides no needles: leave it out"
                raise UsageError(message, option=option, value=value)
    if statistics and not (chosen.asks or chosen.reads_text):
        raise UsageError("this task reads random tokens: leave it out", option="statistics")
    if chosen.reads_text and keep_rows:
        message = "this task only reads: leave it out"
        raise UsageError(message, option="keep_rows", value=keep_rows)
    parsing.needle_file(needles)
    chosen = chosen.measuring(parsing.comma_list(measures)).counting(steps)
    chosen = chosen.gathering_utility() if utility else chosen
    from headprobe.allocators import STRATEGIES
    from headprobe.models.loading import load_model
    from headprobe.runs.distributed import init_distributed
    from headprobe.runs.pass_rates import pass_rates
    from headprobe.runs.plan import prepare
    from headprobe.runs.score import prepare_decided
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
        strategy = f"--strategy {task}" if task in STRATEGIES else "--budget 128"
        output.written(run.out, then=f"headprobe allocate {strategy}", json=json)


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
    output.written(run, then=f"headprobe allocate {run} --strategy {task}", json=json)
