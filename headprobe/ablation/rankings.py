"""Choose the heads to ablate: heads that measures put first, random heads, heads they put last.

A measure finds the heads that matter if the loss of the heads that it puts first hurts more than
the loss of the same number of other heads. So its top k are ablated, k random heads that exclude
them, and its bottom k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from headprobe.errors import UsageError
from headprobe.models.layout import Head, HeadLayout, check_same_heads
from headprobe.scores import HeadScores
from headprobe.tasks import TASKS

Rankings = Mapping[str, Float[np.ndarray, "layer query_head"]]


@dataclass(frozen=True, kw_only=True)
class HeadChoice:
    """The settings by which heads are chosen for ablation.

    ``measures`` rank the heads, all measures that the runs hold if none is named; the numbers of
    heads that are taken of each ranking are ``top_k``, ascending. Random heads are drawn
    ``random_draws`` times.
    """

    measures: tuple[str, ...] = ()
    top_k: tuple[int, ...] = (1, 2, 4, 8)
    random_draws: int = 5

    def __post_init__(self) -> None:
        if not self.top_k or sorted(set(self.top_k)) != list(self.top_k) or self.top_k[0] < 1:
            raise ValueError(f"expected ascending numbers of heads, got {self.top_k}")
        if self.random_draws < 1:
            raise ValueError(f"expected draws of 1 or more, got {self.random_draws}")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Heads to ablate together, (layer, head).

    ``choice`` is ``top`` or ``bottom``, the ``k`` highest or lowest by ``measure``, or ``random``:
    ``k`` heads outside its top, ``draw`` counting the draws from 0.
    """

    measure: str
    choice: str
    k: int
    draw: int | None
    heads: tuple[Head, ...]

    @property
    def group(self) -> tuple[Head, ...]:
        """The heads by layer and head: trials of one group give the same answers."""
        return tuple(sorted(self.heads))


def plan_trials(
    rankings: Rankings,
    *,
    layers: Sequence[int],
    top_k: Sequence[int],
    random_draws: int,
    seed: int,
) -> tuple[Trial, ...]:
    """Plan the trials of every measure over the heads of ``layers``, the layers with attention.

    Heads that tie are ranked by layer and head, as in ``heads.csv``. A draw is one random order of
    all heads, the same for all measures; of it the first k that are not in the top k are taken.

    Raises:
        UsageError: the largest of ``top_k`` leaves too few other heads.
    """
    count = next(iter(rankings.values())).shape[1]
    heads = np.array([(layer, head) for layer in layers for head in range(count)])
    if 2 * max(top_k) > len(heads):
        raise UsageError(
            "leaves not as many others to draw at random from the model's "
            f"{len(heads)} heads; expected at most {len(heads) // 2}",
            option="top_k",
            value=max(top_k),
        )
    orders = [np.random.default_rng((seed, i)).permutation(len(heads)) for i in range(random_draws)]
    trials = []
    for measure, scores in rankings.items():
        ranked = np.argsort(-scores[tuple(heads.T)], kind="stable")
        for k in top_k:
            random = [order[~np.isin(order, ranked[:k])][:k] for order in orders]
            chosen: list[tuple[str, int | None, Int[np.ndarray, " k"]]] = [
                ("top", None, ranked[:k]),
                *(("random", draw, others) for draw, others in enumerate(random)),
                ("bottom", None, ranked[-k:]),
            ]
            trials += [
                Trial(
                    measure=measure,
                    choice=choice,
                    k=k,
                    draw=draw,
                    heads=tuple((int(layer), int(head)) for layer, head in heads[places]),
                )
                for choice, draw, places in chosen
            ]
    return tuple(trials)


def parse_top_k(text: str) -> tuple[int, ...]:
    """Read ``1,2,4,8``: numbers of heads, ascending and without repeats.

    Raises:
        UsageError: ``text`` is no comma list of whole numbers from 1 on.
    """
    try:
        top_k = sorted({int(number) for number in text.split(",")})
    except ValueError:
        top_k = [0]
    if top_k[0] < 1 or "_" in text:
        raise UsageError("expected numbers of heads as in 1,2,4,8", option="top_k", value=text)
    return tuple(top_k)


def find_rankings(
    runs: Sequence[tuple[str, HeadScores]], measures: Sequence[str], layout: HeadLayout
) -> Rankings:
    """Return the mean scores by each measure, from the first of the named runs that holds it.

    Without ``measures``, all measures that the runs hold are taken.

    Raises:
        UsageError: a run is of a model with other heads, or no run holds a measure.
    """
    for name, run in runs:
        check_same_heads(
            run.layout,
            layout,
            names=(name, "the model"),
            fields=("layers", "heads"),
            option="model",
        )
    held = {measure: run.mean(measure) for _, run in reversed(runs) for measure in run.measures}
    wanted = measures or list(dict.fromkeys(m for _, run in runs for m in run.measures))
    for measure in wanted:
        if measure not in held:
            raise UsageError(
                f"no run given holds the measure {measure!r}, only {', '.join(sorted(held))}; "
                f"score the model with {_maker(measure)} and name that run with `scores`",
                option="measures",
                value=measure,
            )
    return {measure: held[measure] for measure in wanted}


def _maker(measure: str) -> str:
    """Return the parameter that makes a run score a measure."""
    task = next((name for name, task in TASKS.items() if measure in task.measures), None)
    return f"`task={task}`" if task else f"`measures={measure}`"
