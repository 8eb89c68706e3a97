"""Measures: rules that turn a head's attention rows at the answer's steps into one number.

A row is observed before the token that it chooses is known. So a measure has two parts:
``summarise`` keeps of a layer's rows the little that is needed, and ``score`` turns this summary
into each step's part of the case's score once the tokens are known. A case's score is the sum over
its steps.

The steps are the queries that choose the answer's tokens. A measure may watch the question instead.
Each file ends in its ``MEASURE``.
"""

from __future__ import annotations

from headprobe.errors import UsageError
from headprobe.measures import contrast, locos, mass, qr, r2, repetition, retrieval, semantic
from headprobe.measures._measure import Measure, Watched

__all__ = ["MEASURES", "Measure", "Watched", "get_measure"]

MEASURES: dict[str, Measure] = {
    "retrieval": retrieval.MEASURE,
    "r2": r2.MEASURE,
    "semantic": semantic.MEASURE,
    "mass": mass.MEASURE,
    "contrast": contrast.MEASURE,
    "locos": locos.MEASURE,
    "qr": qr.MEASURE,
    "induction": repetition.INDUCTION,
    "echo": repetition.ECHO,
}


def get_measure(name: str) -> Measure:
    """Return the measure called ``name``; a ``UsageError`` lists the names that there are."""
    if name not in MEASURES:
        raise UsageError(f"no measure {name!r}; there are {', '.join(MEASURES)}")
    return MEASURES[name]
