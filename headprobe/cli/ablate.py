"""``headprobe ablate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from headprobe.cli import completion, options, output, parsing
from headprobe.cli.runs import in_title

if TYPE_CHECKING:
    from headprobe.ablation.curves import Ablation


def ablate(
    run: options.ScoresArgument = None,
    model: options.Model = "nano",
    scores: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN",
            help="Another run to look measures up in; give it again for more.",
            show_default=False,
            autocompletion=completion.runs,
            rich_help_panel=options.ABLATION,
        ),
    ] = None,
    measures: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Measures, each looked up in the runs.",
            show_default="all measures of the runs",
            autocompletion=completion.measures,
            rich_help_panel=options.ABLATION,
        ),
    ] = None,
    top_k: Annotated[
        str,
        typer.Option(
            metavar="K,...", help="Numbers of heads to ablate.", rich_help_panel=options.ABLATION
        ),
    ] = "1,2,4,8",
    ablation: Annotated[
        Literal["zero", "mean"],
        typer.Option(
            help="Replace what a head puts out by zero, or by its mean.",
            rich_help_panel=options.ABLATION,
        ),
    ] = "zero",
    random_draws: Annotated[
        int,
        typer.Option(
            min=1,
            max=10_000,
            help="Number of times that random heads are drawn.",
            rich_help_panel=options.ABLATION,
        ),
    ] = 5,
    calibration: Annotated[
        int,
        typer.Option(
            min=1,
            max=10_000,
            help="Prompts over which --ablation mean averages.",
            rich_help_panel=options.ABLATION,
        ),
    ] = 16,
    metric: Annotated[
        options.Metric, options.metric("Grade of an answer; passed is the task's own.")
    ] = "passed",
    task: Annotated[
        str | None,
        options.task(
            "Task whose cases are asked.", choices="r2|retrieval", default="the first run's"
        ),
    ] = None,
    lengths: Annotated[str | None, options.lengths("the lengths of score")] = None,
    depths: options.Depths = None,
    needles: Annotated[Path | None, options.needles("the bundled held-out ones")] = None,
    haystack: options.Haystack = None,
    limit: options.Limit = 50,
    seed: Annotated[int | None, options.seed("one more than the runs' seed")] = None,
    out: Annotated[
        Path | None,
        options.out("Directory of the results.", default="outputs/<model>/ablate-<task>"),
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
    prefill_chunk: options.PrefillChunk = None,
    activation_memory: options.ActivationMemory = "1GiB",
    overwrite: options.Overwrite = False,
    trust_remote_code: options.TrustRemoteCode = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Ablate the heads that a measure puts first, beside random ones: do answers depend on them?

    Run again, it resumes.

    Example: headprobe ablate outputs/nano/r2 --scores outputs/nano/retrieval --top-k 1,2,4,8
    """
    given = parsing.run_options(locals())
    from headprobe.ablation.rankings import HeadChoice, parse_top_k
    from headprobe.runs.hub import local_runs, shown_name
    from headprobe.scores import HeadScores
    from headprobe.tasks import get_asking_task

    heads = HeadChoice(
        measures=tuple(filter(None, parsing.comma_list(measures) or ())),
        top_k=parse_top_k(top_k),
        random_draws=random_draws,
    )
    asked = None if task is None else get_asking_task(task)
    parsing.needle_file(needles)
    paths = local_runs([*([run] if run else []), *(scores or [])])
    runs = [(shown_name(path), HeadScores.load(path)) for path in paths]
    from headprobe.ablation.plan import plan_ablation
    from headprobe.ablation.run import PICTURE
    from headprobe.ablation.run import ablate as run_ablation
    from headprobe.models.loading import load_model

    loaded = load_model(given.model)
    given.prompt.apply_template(loaded.tokenizer)
    planned = plan_ablation(
        loaded,
        runs,
        heads,
        given.cases,
        ablation=ablation,
        calibration=calibration,
        metric=metric,
        task=asked,
        memory=given.memory,
        out=out,
        prompt=given.prompt,
        overwrite=overwrite,
    )
    output.note(planned.summary)
    subject = f"{loaded.layout.name} {planned.task_name}"
    with output.progress(subject, total=planned.total) as advance:
        result = run_ablation(loaded, planned, overwrite=overwrite, advance=advance, draw=_draw)
    if json or not quiet:
        _show(result, json=json)
    output.written(planned.out, then=f"look at {planned.out / PICTURE}", json=json)


def _draw(result: Ablation, path: Path) -> None:
    from headprobe.plots import draw_ablation, save

    save(draw_ablation(result), path)


def _show(result: Ablation, *, json: bool) -> None:
    from headprobe.ablation.curves import CHOICES
    from headprobe.scores.titles import title

    if json:
        output.show_json(result.to_json())
        return
    curves, full = result.curves(), result.accuracy
    rows = [
        [
            title(curve.measure) if choice == "top" else "",
            choice,
            *(f"{point.value:5.1f}" for point in getattr(curve, choice)),
            curve.area.text() if choice == "top" else "",
        ]
        for curve in curves
        for choice in CHOICES
    ]
    output.show_table(
        f"{result.layout.name}, {title(result.task)}: accuracy in per cent with heads ablated by "
        f"{result.plan['ablation']}, {full.value:.1f} with none; {len(result.needles)} cases"
        f"{in_title(result.plan)}",
        ["measure", "heads", *(f"k={k}" for k in curves[0].top_k), "area"],
        rows,
    )
