"""``headprobe evaluate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from headprobe.cli import completion, options, output, parsing
from headprobe.cli.runs import in_title
from headprobe.errors import UsageError

if TYPE_CHECKING:
    from headprobe.evaluation.keeping import KeptFraction
    from headprobe.evaluation.plan import PlannedEvaluation
    from headprobe.evaluation.results import Evaluation, MethodResult
    from headprobe.stats.bootstrap import Estimate

BUDGETS = ["1.5%,3%,6%,12%,25%"]
LIMIT = 96


def evaluate(
    model: options.Model = "nano",
    scores: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="The scores that budgets are divided by: a run directory, its file, or "
            "hf:<owner>/<name>.",
            show_default="the newest run",
            autocompletion=completion.runs,
            rich_help_panel=options.SCORES,
        ),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            "--budget",
            "-b",
            metavar="SIZE,...|FILE",
            help="Cache entries a head on average (16,32,64), fractions of the context (1.5%,6%), "
            "or a budget file; give it again for more.",
            show_default=BUDGETS[0],
            rich_help_panel=options.BUDGET,
        ),
    ] = None,
    task: Annotated[
        str | None,
        options.task("Task whose cases are asked.", choices="r2|retrieval", default="the run's"),
    ] = None,
    questions: Annotated[
        str | None,
        options.questions(
            "Questions in place of a task's: your own, JSONL with context, question, answers; or "
            "rows of a public benchmark as they are; hf:<data set>\\[@configuration]."
        ),
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:SET]",
            help="Ask and grade by a benchmark's protocol: see `headprobe list benchmarks`. "
            "RULER's rows are made here, at --lengths; others come from --questions.",
            show_default=False,
            autocompletion=completion.benchmarks,
            rich_help_panel=options.CASES,
        ),
    ] = None,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Rule that divides sizes by the scores: see `headprobe list strategies`; give it "
            "again for more.",
            show_default="headkv",
            autocompletion=completion.strategies,
            rich_help_panel=options.BUDGET,
        ),
    ] = None,
    selection: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME,...",
            help="Rule that chooses the entries of a head: see `headprobe list selections`; each "
            "strategy is evaluated with each.",
            show_default="attention; a file's own",
            autocompletion=completion.selections,
            rich_help_panel=options.BUDGET,
        ),
    ] = None,
    measure: options.MeasureOption = None,
    reduce: Annotated[options.Reduction | None, options.reduce(default="the strategy's")] = None,
    window: Annotated[int | None, options.window(default="8")] = None,
    granularity: Annotated[options.Granularity | None, options.granularity(default="kv")] = None,
    beta: options.Beta = None,
    min_entries: options.MinEntries = None,
    fill_to: options.FillTo = None,
    option: Annotated[list[str] | None, options.declared("strategy")] = None,
    lengths: Annotated[str | None, options.lengths("the longest of score's lengths")] = None,
    depths: options.Depths = None,
    needles: Annotated[Path | None, options.needles("the bundled held-out ones")] = None,
    haystack: options.Haystack = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Questions at most; 0 asks all of them.",
            show_default="96 of a task's or of RULER's, all of --questions",
            rich_help_panel=options.CASES,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME,...",
            help="When the cache is compressed: query_aware, once the question is read, or "
            "query_agnostic, before.",
            show_default="both",
            autocompletion=completion.settings,
            rich_help_panel=options.ANSWERS,
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens of an answer at most.",
            show_default="the task's or benchmark's; 64 with --questions",
            rich_help_panel=options.ANSWERS,
        ),
    ] = None,
    metric: Annotated[
        str | None,
        options.metric(
            "Metric that compares strategies; passed is the fraction that the task itself passes; "
            "a benchmark has metrics of its own.",
            choices="passed|exact_match|f1|recall|...",
            default="f1; the benchmark's own",
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="97%",
            help="Also find the smallest fraction of the cache with which each strategy keeps this "
            "part of the full cache's accuracy, between the budgets evaluated.",
            show_default=False,
            rich_help_panel=options.ANSWERS,
        ),
    ] = None,
    to: Annotated[
        Literal["kvpress"] | None,
        typer.Option(
            help="Also write the layout that kvpress' evaluation leaves, a directory a method.",
            show_default=False,
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    allow_scored_needles: Annotated[
        bool,
        typer.Option(
            "--allow-scored-needles",
            help="Ask needles that the heads were scored on, not held-out ones.",
            rich_help_panel=options.CASES,
        ),
    ] = False,
    out: Annotated[
        Path | None,
        options.out("Directory of the results.", default="outputs/<model>/evaluate-<task>"),
    ] = None,
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
    seed: Annotated[int | None, options.seed("one more than the run's seed")] = None,
    overwrite: options.Overwrite = False,
    trust_remote_code: options.TrustRemoteCode = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure accuracy under budgets of the KV cache, beside the full cache and the baselines.

    Run again, it resumes.

    Example: headprobe evaluate --scores outputs/nano/r2 --budget 1.5%,6%

    Example: headprobe evaluate --budget budget-headkv-128.json --questions own.jsonl

    Example: headprobe evaluate --benchmark ruler:niah_multikey_3 --lengths 4096
    """
    typed = locals()
    asked_for = LIMIT if limit is None and questions is None else limit
    given = parsing.run_options({**typed, "limit": asked_for, "questions": None})
    parsing.budget_files(budget or [])
    least = parsing.fraction("keep", keep)
    from headprobe.allocators import parse_options
    from headprobe.budgets import selection_names
    from headprobe.evaluation.benchmarks.registry import get_benchmark
    from headprobe.evaluation.methods import STRATEGY, MethodOptions, parse_budgets
    from headprobe.evaluation.settings import SETTINGS
    from headprobe.runs.directory import require_scores
    from headprobe.runs.hub import local_run
    from headprobe.tasks import get_asking_task
    from headprobe.tasks.grading import METRICS, PASSED

    asked = None if task is None else get_asking_task(task)
    known = None if benchmark is None else get_benchmark(benchmark)
    if metric is not None:
        own = known.metrics if known else () if questions else (PASSED,)
        parsing.one_of("metric", metric, (*own, *METRICS))
    if questions is not None or known is not None:
        _refuse_of_task(typed, source="questions" if known is None else "benchmark")
    parsing.question_source(questions)
    parsing.needle_file(needles)
    dividing = {
        "measure": measure,
        "beta": beta,
        "reduce": reduce,
        "min_entries": min_entries,
        "fill_to": fill_to,
        "window": window,
        "granularity": granularity,
    }
    for name in strategy or [STRATEGY]:
        declared = parse_options(name, option or [], given=("budget", "context_length"))
    dividing = parsing.with_declared(dividing, declared)
    methods = MethodOptions(
        budgets=parse_budgets(budget or BUDGETS),
        scores=scores and local_run(scores),
        strategies=tuple(strategy or ()),
        selections=parsing.names("selection", selection or (), selection_names()),
        settings=parsing.names("settings", settings or SETTINGS, SETTINGS),
        options={name: value for name, value in dividing.items() if value is not None},
    )
    if scores is not None or len(methods.files) < len(methods.budgets):
        require_scores(methods.scores)
    from headprobe.evaluation.kvpress_layout import write_kvpress
    from headprobe.evaluation.plan import plan_evaluation
    from headprobe.evaluation.results import PICTURE
    from headprobe.evaluation.run import run_evaluation
    from headprobe.models.loading import load_model

    loaded = load_model(given.model)
    given.prompt.apply_template(loaded.tokenizer)
    planned = plan_evaluation(
        loaded,
        methods,
        given.cases,
        task=asked,
        questions=questions,
        benchmark=known,
        allow_scored_needles=allow_scored_needles,
        metric=metric,
        max_new_tokens=max_new_tokens,
        out=out,
        prompt=given.prompt,
        overwrite=overwrite,
    )
    planned = replace(planned, keep=least)
    output.note(planned.summary)
    with output.progress(planned.subject, total=len(planned.questions)) as advance:
        found = run_evaluation(
            loaded, planned, overwrite=overwrite, advance=advance, draw=partial(_draw, planned)
        )
    if to is not None:
        write_kvpress(planned, found, planned.out / to)
    if json or not quiet:
        _show(found, planned, json=json)
    output.written(planned.out, then=f"look at {planned.out / PICTURE}", json=json)


def _refuse_of_task(typed: Mapping[str, Any], *, source: str) -> None:
    """Refuse options, as they are typed, of a task's cases where questions have another source.

    Raises:
        UsageError: there is such an option.
    """
    lengths = [] if source == "benchmark" else ["lengths"]
    for name in ("task", "depths", "needles", "haystack", *lengths):
        if typed[name] is not None:
            message = f"`{source}` brings its own questions: leave it out"
            raise UsageError(message, option=name)


def _draw(planned: PlannedEvaluation, results: Sequence[MethodResult], path: Path) -> None:
    from headprobe.plots import draw_evaluation, save

    save(draw_evaluation(results, metric=planned.metric, subject=planned.subject), path)


def _show(found: Evaluation, planned: PlannedEvaluation, *, json: bool) -> None:
    """Show one table for each setting, or all results as JSON."""
    from headprobe.evaluation.settings import SETTINGS

    if json:
        output.show_json(planned.report(found))
        return
    results = planned.results(found)
    others = [name for name in results[0].grades if name != planned.metric]
    columns = ["strategy", "selection", "budget", "cache %", planned.metric, " / ".join(others)]
    columns += ["% of full", "gain over the best baseline"]
    asked = f"{len(planned.questions)} questions{in_title(planned.plan.to_json())}"
    for setting in planned.settings:
        rows = [_row(one, planned.metric, others) for one in results if one.setting == setting]
        output.show_table(f"{planned.subject}: {SETTINGS[setting]}; {asked}", columns, rows)
    _show_kept(planned.kept(found), planned)


def _show_kept(kept: Sequence[KeptFraction], planned: PlannedEvaluation) -> None:
    """Show the smallest fractions of the cache that keep what was asked for."""
    if planned.keep is None:
        return
    if not kept:
        output.note(f"the full cache has no {planned.metric}: there is nothing to keep")
        return
    columns = ["setting", "strategy", "selection", "cache %"]
    rows = [
        [one.setting, one.strategy, one.selection, _per_cent(one.fraction, is_bound=one.is_bound)]
        for one in kept
    ]
    title = f"{planned.subject}: the least cache that keeps {100 * planned.keep:g} %"
    output.show_table(f"{title} of {planned.metric}", columns, rows)


def _per_cent(fraction: Estimate, *, is_bound: bool) -> str:
    ends = (100 * end for end in (fraction.value, fraction.ci_low, fraction.ci_high))
    value, low, high = (f"{end:.1f}" for end in ends)
    return f"{'at most ' if is_bound else ''}{value} ({low} to {high})"


def _row(result: MethodResult, metric: str, others: Sequence[str]) -> list[object]:
    return [
        result.strategy,
        result.selection,
        result.budget,
        f"{100 * result.fraction:.2f}",
        result.grades[metric].text(1, of_ends=0),
        " / ".join(f"{result.grades[name].value:.1f}" for name in others),
        None if result.of_full is None else f"{100 * result.of_full:.1f}",
        result.gain and f"{result.gain.text(1, of_ends=0)} {result.best_baseline}",
    ]
