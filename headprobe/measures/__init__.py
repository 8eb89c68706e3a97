"""Measures: rules that turn a head's attention rows at the answer's steps into one number.

A row is observed before the token that it chooses is known. So a measure has two parts:
``summarise`` keeps of a layer's rows the little that is needed, and ``score`` turns this summary
into each step's part of the case's score once the tokens are known. A case's score is the sum over
its steps.

The steps are the queries that choose the answer's tokens. A measure may watch the question instead.
Each file ends in its ``MEASURE``; other packages add theirs through the entry-point group
``headprobe.measures``.
Measures of natural text (``TextMeasure``) read a text by themselves.
"""

from __future__ import annotations

from headprobe.measures import (
    contrast,
    locos,
    mass,
    onthefly,
    qr,
    r2,
    reach,
    reconstruct,
    repetition,
    retrieval,
    semantic,
    stability,
)
from headprobe.measures._measure import Measure, Watched
from headprobe.measures._text import TextMeasure
from headprobe.registry import get_method, method_names
from headprobe.tasks import MEASURE_GROUP

__all__ = [
    "MEASURES",
    "TEXT_MEASURES",
    "Measure",
    "TextMeasure",
    "Watched",
    "get_measure",
    "measure_names",
    "measure_summary",
]

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
TEXT_MEASURES: dict[str, TextMeasure] = {
    "reconstruct": reconstruct.MEASURE,
    "reconstruct_mean": reconstruct.MEAN,
    "onthefly": onthefly.MEASURE,
    "reach": reach.MEASURE,
    "stability": stability.MEASURE,
}


def measure_names() -> list[str]:
    """List the names of all measures, ours first, then the measures of installed packages."""
    return method_names(MEASURES, MEASURE_GROUP)


def get_measure(name: str) -> Measure:
    """Return the measure called ``name``; a ``UsageError`` lists the names that there are."""
    return get_method("measure", name, MEASURES, MEASURE_GROUP)


def measure_summary(name: str) -> str:
    """Say in a line what a measure measures, of whatever kind it is."""
    return (TEXT_MEASURES.get(name) or get_measure(name)).summary
