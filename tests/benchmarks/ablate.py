"""Ablating groups of heads as sequences of a batch against one group after another: ``make bench``.

Both answer the same cases with the same groups ablated, by turns in one process, and give the same
answers. One group after another is ``observe_cases`` inside ``ablated``, with the drafts that any
case gets. On a GPU: ``--model DIRECTORY --device cuda --dtype bfloat16 --lengths 1000 --limit 12
--top-k 1,2,4,8 --random-draws 5``.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from clock import timed

from headprobe.ablation.ablated import ablated
from headprobe.ablation.plan import PlannedAblation, plan_ablation
from headprobe.ablation.rankings import HeadChoice, parse_top_k
from headprobe.ablation.run import ablate
from headprobe.models.device import DTYPES
from headprobe.models.loading import LoadedModel, load_model
from headprobe.prompts.grid import parse_depths, parse_lengths
from headprobe.prompts.spec import CaseSpec
from headprobe.runs.case_runner import observe_cases
from headprobe.scores import HeadScores
from headprobe.tasks import TASKS


def plan(loaded: LoadedModel, options: argparse.Namespace, out: Path) -> PlannedAblation:
    """An ablation of heads that random scores put first."""
    shape = (2, loaded.layout.layers, loaded.layout.num_heads)
    scores = HeadScores(
        layout=loaded.layout,
        per_case={"r2": np.random.default_rng(0).random(shape, dtype=np.float32)},
        needles=(0, 1),
        cases=2,
        task=options.task,
        plan={"seed": 0},
    )
    return plan_ablation(
        loaded,
        [("random", scores)],
        HeadChoice(top_k=parse_top_k(options.top_k), random_draws=options.random_draws),
        CaseSpec(
            lengths=parse_lengths(options.lengths),
            depths=parse_depths(options.depths),
            limit=options.limit,
        ),
        task=TASKS[options.task],
        out=out,
    )


def one_by_one(loaded: LoadedModel, run: PlannedAblation) -> None:
    """Answer all cases with one group ablated after another."""
    for heads in run.groups:
        with ablated(loaded.model, heads):
            list(
                observe_cases(
                    loaded, run.cases, run.task, tree=run.tree, chunk_sizes=run.chunk_sizes
                )
            )


def main() -> None:
    """Print seconds of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--task", default="r2")
    parser.add_argument("--lengths", default="512,1024")
    parser.add_argument("--depths", default="0,50")
    parser.add_argument("--limit", type=int, default=8)
    parser.add_argument("--top-k", default="1,4,8")
    parser.add_argument("--random-draws", type=int, default=2)
    parser.add_argument("--sequences", type=int, help="groups in a batch; left out, as ablate does")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=list(DTYPES))
    parser.add_argument("--least-gain", type=float, default=1.0, help="fail below this")
    options = parser.parse_args()
    loaded = load_model(options.model, device=options.device, dtype=options.dtype)
    with tempfile.TemporaryDirectory() as folder:
        run = plan(loaded, options, Path(folder))
        run = replace(run, sequences=options.sequences or run.sequences)
        ratios = []
        for _ in range(options.rounds):
            batched = timed(lambda: ablate(loaded, run, overwrite=True), loaded.device)
            alone = timed(lambda: one_by_one(loaded, run), loaded.device)
            ratios.append(alone / batched)
            print(f"one by one {alone:.1f} s, batched {batched:.1f} s", flush=True)
    gain = float(np.median(ratios))
    print(
        f"{options.model}, {options.dtype} on {options.device}, {len(run.cases)} cases, "
        f"{len(run.groups)} groups, {run.sequences} in a batch: {gain:.2f} times"
    )
    if gain < options.least_gain:
        raise SystemExit(f"expected at least {options.least_gain} times")


if __name__ == "__main__":
    main()
