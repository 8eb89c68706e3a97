"""Compare rankings of the same heads: of runs, tasks, measures, models and needles."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from headprobe.errors import UsageError
from headprobe.models.layout import check_same_heads
from headprobe.scores.head_scores import HeadScores
from headprobe.scores.titles import title
from headprobe.stats.ranks import rank_correlation, top_overlap, usual_top


@dataclass(frozen=True, eq=False, kw_only=True)
class Ranking:
    """Mean scores of all heads with a name, and a number for where the name is too long."""

    name: str
    number: int
    scores: Float32[np.ndarray, "layer query_head"]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """The agreement of two rankings of the same heads.

    ``rank_correlation`` is Spearman's, -1 to 1; ``overlap`` is the fraction of the top heads of
    ``one`` that are top heads of ``other`` too, 0 to 1.
    """

    one: str
    other: str
    rank_correlation: float
    overlap: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison:
    """Rankings of the same heads, and the agreement of pairs of them.

    ``subject`` says what the rankings have in common, ``unit`` what one of them is called; ``k``
    heads make the top. ``runs`` are those that the rankings are of.
    """

    subject: str
    runs: tuple[HeadScores, ...]
    unit: str
    k: int
    rankings: tuple[Ranking, ...]
    agreements: tuple[Agreement, ...]

    @property
    def heads(self) -> int:
        """The number of heads that are ranked."""
        return self.rankings[0].scores.size


def compare_runs(
    runs: Sequence[tuple[str, HeadScores]], *, measures: Sequence[str] = (), k: int | None = None
) -> Comparison:
    """Compare the rankings of all runs and measures with one another, pair by pair.

    Each run comes with a name that tells it from other runs of its model, task and measure. Without
    ``measures``, several runs are compared by the own measure of each, a single run by all its
    measures. ``k`` is ``usual_top`` if left out.

    Raises:
        UsageError: there are not two rankings, a run lacks a measure, the models have different
            layers or heads, or fewer than ``k`` of them.
    """
    chosen = [
        (name, run, run.resolve(measure))
        for name, run in runs
        for measure in measures or run.measures[: 1 if len(runs) > 1 else None]
    ]
    if len(chosen) < 2:
        raise UsageError(
            "one ranking has nothing to be compared with; name another run, another measure of "
            "it, or compare its needles (`by_needle`)"
        )
    subject, names = _names(
        [(run.layout.name, title(run.task), title(measure)) for _, run, measure in chosen]
    )
    if len(set(names)) < len(names):
        names = [name for name, _, _ in chosen]
    if len(set(names)) < len(names):
        names = [f"{name} {title(measure)}" for name, _, measure in chosen]
    rankings = [
        Ranking(name=name, number=number, scores=run.mean(measure))
        for number, (name, (_, run, measure)) in enumerate(zip(names, chosen, strict=True), start=1)
    ]
    first = chosen[0][1].layout
    for name, (_, run, _) in zip(names, chosen, strict=True):
        check_same_heads(first, run.layout, names=(names[0], name), fields=("layers", "heads"))
    k = _checked_top(k, rankings[0].scores.size)
    pairs = list(itertools.combinations(rankings, 2))
    return Comparison(
        subject=subject,
        runs=tuple(run for _, run, _ in chosen),
        unit="ranking",
        k=k,
        rankings=tuple(rankings),
        agreements=_agreements(pairs, k),
    )


def compare_needles(run: HeadScores, *, measure: str | None, k: int | None = None) -> Comparison:
    """Compare the ranking by each needle of a run with the ranking by all its other needles.

    Raises:
        UsageError: the passed cases share one needle, the run lacks the measure, or it has fewer
            than ``k`` heads.
    """
    name = run.resolve(measure)
    needles = sorted(set(run.needles))
    if len(needles) < 2:
        raise UsageError(
            f"all {run.passed} passed cases have one needle: there is nothing to compare; "
            "score more needles (`needles`, `limit`)"
        )
    k = _checked_top(k, run.layout.layers * run.layout.num_heads)
    scores, needle_of = run.per_case[name], np.array(run.needles)
    own = [_mean(f"needle {n}", n, scores[needle_of == n]) for n in needles]
    others = [_mean("others", n, scores[needle_of != n]) for n in needles]
    return Comparison(
        subject=", ".join(dict.fromkeys((run.layout.name, title(run.task), title(name)))),
        runs=(run,),
        unit="needle",
        k=k,
        rankings=tuple(own),
        agreements=_agreements(list(zip(own, others, strict=True)), k),
    )


def _names(facts: Sequence[tuple[str, ...]]) -> tuple[str, list[str]]:
    """Return what the rankings have in common, and for each ranking what sets it apart."""
    common = [len(set(kind)) == 1 for kind in zip(*facts, strict=True)]
    subject = itertools.compress(facts[0], common)
    apart = [[f for f, same in zip(fact, common, strict=True) if not same] for fact in facts]
    # A task and its own measure often have one name.
    return ", ".join(dict.fromkeys(subject)), [" ".join(dict.fromkeys(name)) for name in apart]


def _checked_top(k: int | None, heads: int) -> int:
    if k is not None and not 1 <= k <= heads:
        raise UsageError(f"of {heads} heads, expected 1 to {heads}", option="top_k", value=k)
    return usual_top(heads) if k is None else k


def _mean(name: str, number: int, scores: Float[np.ndarray, "case layer query_head"]) -> Ranking:
    mean = scores.mean(axis=0, dtype=np.float64)
    return Ranking(name=name, number=number, scores=mean.astype(np.float32))


def _agreements(pairs: Sequence[tuple[Ranking, Ranking]], k: int) -> tuple[Agreement, ...]:
    one, other = (np.stack([r.scores.ravel() for r in side]) for side in zip(*pairs, strict=True))
    numbers = zip(rank_correlation(one, other), top_overlap(one, other, k), strict=True)
    return tuple(
        Agreement(
            one=first.name,
            other=second.name,
            rank_correlation=float(correlation),
            overlap=float(overlap),
        )
        for (first, second), (correlation, overlap) in zip(pairs, numbers, strict=True)
    )
