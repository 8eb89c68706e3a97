"""Could a budget be divided better than the scores divide it? For docs/results.md.

KV heads are put into three groups by their scores: those that look answers up, those next to them,
all others. Of what a budget leaves beyond a floor, every group gets a part, its heads the same;
beside stands the division by the scores themselves. The context is compressed before the question
is seen.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from headprobe.allocators import parse_budget
from headprobe.allocators._rounding import round_to_total, water_fill
from headprobe.allocators.mixing import WeightedRun
from headprobe.budgets import HeadBudgets
from headprobe.evaluation.answering import evaluate
from headprobe.evaluation.methods import CutPoint, Method, allocated
from headprobe.evaluation.questions import questions_of
from headprobe.evaluation.settings import QUERY_AGNOSTIC
from headprobe.models.loading import load_model
from headprobe.prompts.grid import parse_lengths
from headprobe.prompts.spec import CaseSpec
from headprobe.runs.draw import draw_cases
from headprobe.scores import HeadScores
from headprobe.tasks import get_task
from headprobe.tasks.grading import PASSED

WINDOW, FLOOR = 8, 4
FIRST = (0.3, 0.45, 0.6, 0.75, 0.9)
SECOND = (0.05, 0.15, 0.3, 0.5)


def divided(
    heads: Float[np.ndarray, "layer head"],
    sizes: tuple[int, int],
    parts: tuple[float, float],
    *,
    total: int,
    context: int,
) -> Int[np.ndarray, "layer head"]:
    """Entries of every head: the first ``sizes[0]`` by score share one part, the next another."""
    rank = np.argsort(np.argsort(-heads, axis=None, kind="stable")).reshape(heads.shape)
    group = np.digitize(rank, np.cumsum(sizes))
    part = np.array([*parts, 1 - sum(parts)]) / np.bincount(group.ravel(), minlength=3)
    start = np.full(heads.shape, float(WINDOW + FLOOR))
    wanted = start + (total - start.sum()) * part[group]
    # What the context is too short for goes to the first two groups.
    filled = water_fill(
        np.minimum(wanted, context), np.where(group < 2, 1.0, 0.1), total=total, cap=context
    )
    return round_to_total(filled, total=total, ties=heads)


def main() -> None:
    """Print passed answers, per cent, by budget and division."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scores", type=Path, default=Path("outputs/nano/r2"))
    parser.add_argument("--needles", type=Path)
    parser.add_argument("--budgets", default="6%,12%")
    parser.add_argument("--groups", default="3,4", help="heads in the first group and the second")
    parser.add_argument("--limit", type=int, default=96)
    parser.add_argument("--length", default="2048")
    options = parser.parse_args()
    loaded = load_model("nano", device="cpu", dtype="float32")
    scores = HeadScores.load(options.scores)
    layout = loaded.layout
    heads = (
        scores.mean("r2")
        .reshape(layout.layers, layout.num_kv_heads, layout.group_size)
        .max(axis=-1)
    )
    first, second = map(int, options.groups.split(","))
    probe = get_task("r2").probe
    drawn = draw_cases(
        loaded,
        probe,
        CaseSpec(
            lengths=parse_lengths(options.length),
            needles=options.needles,
            limit=options.limit,
            seed=1,
        ),
        held_out=True,
    )

    def method(budget: str, parts: tuple[float, float]) -> Method:
        def at(cut_point: CutPoint) -> HeadBudgets:
            pool = parse_budget(budget).pool(
                heads.size, window=WINDOW, context_length=cut_point.tokens
            )
            return HeadBudgets(
                layout=layout,
                strategy={"name": "divided", "reduce": "max"},
                granularity="kv",
                window=WINDOW,
                sinks=0,
                compensation=False,
                selection=np.full(heads.shape, "attention"),
                tokens=divided(
                    heads, (first, second), parts, total=int(pool.total), context=cut_point.tokens
                ),
                ratio=np.zeros(heads.shape),
            )

        name = f"{parts[0]:.0%} / {parts[1]:.0%}"
        return Method(strategy=name, budget=budget, window=WINDOW, at=at)

    runs = [WeightedRun(name=str(options.scores), scores=scores)]
    methods = []
    for budget in options.budgets.split(","):
        methods += [method(budget, (a, b)) for a in FIRST for b in SECOND if a + b <= 1]
        methods.append(allocated(runs, parse_budget(budget), measure="r2", reduce="max"))
    found = evaluate(
        loaded,
        questions_of(drawn, probe, loaded.tokenizer),
        methods,
        settings=(QUERY_AGNOSTIC,),
    )
    print("| budget | first / second group | passed, % |")
    print("|---|---|---|")
    for result in found.results(metric=PASSED):
        print(f"| {result.budget} | {result.strategy} | {result.grades[PASSED].value:.1f} |")


if __name__ == "__main__":
    main()
