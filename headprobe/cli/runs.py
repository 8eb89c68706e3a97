"""Show a run in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headprobe.cli import output
from headprobe.cli.wording import in_options

if TYPE_CHECKING:
    from headprobe.runs.pass_rates import PassRate
    from headprobe.runs.plan import PlannedRun
    from headprobe.scores import HeadScores
    from headprobe.stats.reliability import Reliability


def describe(run: HeadScores, *, name: str | None = None, path: Path | None = None) -> None:
    """Say on stderr what fraction of the cases passed, as a warning where it is low.

    A run without cases gets no line. ``name`` tells the run from others. Of a run whose ``path`` is
    given, it says too how questions were put and why cases failed.
    """
    from headprobe.prompts.style import PromptDecision
    from headprobe.runs.directory import read_report
    from headprobe.runs.failures import advice, describe_failures
    from headprobe.runs.pass_rates import describe_cases

    if _has_no_cases(run):
        return
    line = describe_cases(run)
    if _is_asked(run):
        line += f" ({run.passed / run.cases:.0%})"
    line = line if name is None else f"{name}: {line}"
    failed = read_report(path).get("failed") if path is not None else None
    if path is not None:
        line += f"; {describe_failures(failed)}" if failed else ""
        prompt = PromptDecision.in_record(run.plan)
        if prompt is not None:
            output.note(f"prompt: {prompt.describe()}")
    if run.few_passed:
        output.warn(
            f"{line}: the scores rest on the cases that the model happens to answer; "
            f"{in_options(advice(failed or {}))}"
        )
    else:
        output.note(line)


def allocating(run: Path, task: str) -> str:
    """Return the command that divides a budget by the scores of a run."""
    from headprobe.allocators import STRATEGIES
    from headprobe.runs.hub import shown_name

    strategy = f"--strategy {task}" if task in STRATEGIES else "--budget 128"
    return f"headprobe allocate {shown_name(run)} {strategy}"


def show_top_heads(
    run: HeadScores,
    *,
    measure: str | None,
    seed: int,
    top_k: int,
    rates: Sequence[PassRate],
    json: bool = False,
) -> None:
    """Show the heads with the highest scores and how firm their ranking is, as a table or JSON.

    ``rates`` are the run's pass rates by kind of needle, a table of their own.
    """
    from headprobe.runs.pass_rates import describe_cases
    from headprobe.scores.tables import head_table
    from headprobe.scores.titles import title

    name = run.resolve(measure)
    table = head_table(run, seed=seed)
    heads = table[table["measure"] == name]
    chosen = heads.sort_values("rank").head(top_k)
    reliability = run.reliability(name, seed=seed)
    if json:
        output.show_json(
            {
                "model": run.layout.to_json(),
                "task": run.task,
                "measure": name,
                "accepted": run.passed,
                "cases": run.cases,
                "kinds": [{**asdict(rate), "fraction": rate.fraction} for rate in rates],
                "reliability": reliability.to_json(),
                "heads": chosen.to_dict("records"),
            }
        )
        return
    subject = ": ".join(dict.fromkeys((title(run.task), title(name))))
    heading = (
        f"{run.layout.name}, {subject} of the top {len(chosen)} of "
        f"{len(heads)} heads; {describe_cases(run)}{in_title(run.plan)}\n"
        f"{_firmness(reliability, run)}"
    )
    columns = ["rank", "layer", "head", "kv_head", "score", "std", "ci_low", "ci_high"]
    output.show_table(heading, columns, chosen[columns].astype(object).values.tolist())
    if rates:
        output.show_table(
            "passed cases by kind of needle",
            ["kind", "cases", "passed", "%"],
            [[one.kind, one.cases, one.passed, f"{one.fraction:.0%}"] for one in rates],
        )


def in_title(plan: Mapping[str, Any]) -> str:
    """Return the end of a title that names the prompt style of a plan, if it has one."""
    from headprobe.prompts.style import PromptDecision

    decision = PromptDecision.in_record(plan)
    return f"; prompt {decision.used}" if decision and decision.used else ""


def show_cost(run: PlannedRun, *, json: bool = False) -> None:
    """Show what a run would take, as a table or as JSON."""
    from headprobe.models.layout import model_name
    from headprobe.runs.memory import byte_size
    from headprobe.scores.titles import title

    if json:
        output.show_json(
            {
                "task": run.task_name,
                "cases": len(run.cases),
                "prompt": run.prompt.to_json(),
                **asdict(run.cost),
            }
        )
        return
    output.show_table(
        f"{model_name(run.plan.labels['model'])}, {title(run.task_name)}: what a run takes",
        ["", "amount"],
        [
            ["cases", f"{len(run.cases):,}"],
            *([["prompt", run.prompt.describe()]] if run.drawn.writer else []),
            ["prompt tokens", f"{run.cost.prompt_tokens:,}"],
            ["unique tokens, which are run", f"{run.cost.unique_tokens:,}"],
            ["saving", f"{run.cost.saving:.1f} times"],
            ["tokens a forward pass", f"{run.cost.prefill_chunk:,}"],
            ["memory of the weights", byte_size(run.cost.weights)],
            ["memory of the KV cache", byte_size(run.cost.cache)],
            ["memory for activations", byte_size(run.cost.activation_bytes)],
            ["peak, about", byte_size(run.cost.peak)],
        ],
    )


def _firmness(found: Reliability, run: HeadScores) -> str:
    """Describe on one line how far halves of the needles agree on the ranking."""
    from headprobe.stats.reliability import FEWEST_NEEDLES

    # Of a task that asks nothing, the blocks of random tokens are the needles.
    needles, passed = ("needles", "passed cases") if _is_asked(run) else ("blocks", "the cases")
    if found.rank_correlation is None or found.overlap is None:
        return (
            f"reliability of the ranking unknown: it takes {FEWEST_NEEDLES} {needles}, "
            f"{passed} have {found.needles}"
        )
    return (
        f"split-half reliability over {found.needles} {needles} {found.rank_correlation.text()}, "
        f"top {found.k} of halves overlap by {found.overlap.text()}"
    )


def _has_no_cases(run: HeadScores) -> bool:
    from headprobe.tasks import find_task

    task = find_task(run.task)
    return task is not None and not task.needs_cases


def _is_asked(run: HeadScores) -> bool:
    """Return whether the run's task asks for answers; the tasks of imported runs are not known."""
    from headprobe.tasks import find_task

    task = find_task(run.task)
    return task is None or task.asks
