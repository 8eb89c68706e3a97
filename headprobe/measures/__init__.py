"""Measures: attention rows of the answer's steps to one number a head.

A row is seen before the token that it chooses is known. So a measure has two parts: ``summarise``
keeps of a layer's rows the little that is needed, ``score`` turns it into each step's share of the
case's score once the tokens are there. A case's score is the sum over its steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headprobe.errors import UsageError
from headprobe.measures import r2, repetition, retrieval

if TYPE_CHECKING:
    from torch import Tensor

    from headprobe.cases import Case


@dataclass(frozen=True, eq=False, kw_only=True)
class Measure:
    """How one number a head is got from what it attends to.

    ``summarise``: rows ``[query_head, step, key]``, whose last key is that of the last step's
    query, and the case to ``[query_head, step]``; ``score``: that, the case and the tokens that the
    steps generated, or read where nothing is answered, to ``[query_head, step]``.
    """

    summarise: Callable[[Tensor, Case], Tensor]
    score: Callable[[Tensor, Case, Tensor], Tensor]


MEASURES = {
    "retrieval": Measure(summarise=retrieval.summarise, score=retrieval.score),
    "r2": Measure(summarise=r2.summarise, score=r2.score),
    "induction": Measure(summarise=repetition.induction, score=repetition.score),
    "echo": Measure(summarise=repetition.echo, score=repetition.score),
}


def get_measure(name: str) -> Measure:
    """The measure of that name; ``UsageError`` lists what there is."""
    if name not in MEASURES:
        raise UsageError(f"no measure {name!r}; there are {', '.join(MEASURES)}")
    return MEASURES[name]
