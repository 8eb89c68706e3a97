"""Show a budget in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from headprobe.cli import output

if TYPE_CHECKING:
    import numpy as np

    from headprobe.budgets import HeadBudgets
    from headprobe.scores import HeadScores


def summarise(budgets: HeadBudgets, *, json: bool = False) -> None:
    """Show how many entries every head may keep, and how many all heads keep of three contexts.

    Both are tables, or one JSON object.
    """
    from headprobe.budgets import CONTEXTS
    from headprobe.runs.memory import byte_size
    from headprobe.runs.titles import sources_facts

    footprints = [budgets.footprint(length) for length in CONTEXTS]
    if json:
        output.show_json(budgets.to_json() | {"keeps": [asdict(kept) for kept in footprints]})
        return
    unit = "KV heads" if budgets.granularity == "kv" else "query heads"
    longest = CONTEXTS[-1]
    by_ratio = bool(budgets.ratio.any())
    matrix: np.ndarray = budgets.kept(longest) / longest if by_ratio else budgets.tokens
    named = (budgets.strategy["name"], budgets.strategy.get("budget"))
    title = (
        f"{budgets.layout.name}, {' '.join(map(str, filter(None, named)))}: "
        f"{f'fraction of {longest:,} tokens' if by_ratio else 'entries'} kept by {matrix.shape[1]} "
        f"{unit} a layer, {matrix.mean():.4g} on average"
    )
    title = "\n".join([title, *map("; ".join, sources_facts(budgets.strategy))])
    columns = ["layer", *map(str, range(matrix.shape[1])), "mean"]
    rows = [[i, *row.tolist(), float(row.mean())] for i, row in enumerate(matrix)]
    output.show_table(title, columns, rows)
    output.show_table(
        "what is kept, in keys and values of 16-bit numbers (bfloat16, float16)",
        ["context", "tokens, all heads", "bytes, of the full cache", "fraction"],
        [
            [
                f"{kept.context_length:,}",
                f"{kept.tokens:,}",
                f"{byte_size(kept.bytes)} of {byte_size(kept.full_bytes)}",
                f"{kept.fraction:.2%}",
            ]
            for kept in footprints
        ],
    )


def evaluating(file: Path, budgets: HeadBudgets) -> str:
    """Return the command that measures what a budget costs its model in answers."""
    from headprobe.models.aliases import NANO

    model = "" if budgets.layout.id == NANO else f"--model {budgets.layout.id} "
    return f"headprobe evaluate {model}--budget {file}"


def warn_if_whole(budgets: HeadBudgets, runs: Sequence[HeadScores]) -> None:
    """Warn where an amount that was asked for is more than the longest context has.

    The longest context is the model's max context if its alias tells it, else the longest prompt of
    the ``runs``.
    """
    from headprobe.models.aliases import ALIASES

    amount = next((name for name in ("budget", "recent") if budgets.strategy.get(name)), None)
    windows = {model.repository: model.max_context for model in ALIASES.values()}
    windows |= {alias: model.max_context for alias, model in ALIASES.items()}
    window = windows.get(budgets.layout.id)
    prompts = [length for run in runs for length in run.plan.get("lengths", ())]
    longest = window or max(prompts, default=None)
    if amount is None or longest is None or (budgets.ratio == 1).all():
        return
    if (budgets.kept(longest) == longest).all():
        where = "the model takes" if window else "the run's longest prompt has"
        output.warn(
            f"every head keeps all of the {longest:,} tokens that {where}; "
            f"give a smaller --{amount}"
        )
