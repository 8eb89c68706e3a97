"""Measures: rules that turn a head's attention rows at the answer's steps into one number.

A row is observed before the token that it chooses is known. So a measure has two parts:
``summarise`` keeps of a layer's rows the little that is needed, and ``score`` turns this summary
into each step's part of the case's score once the tokens are known. A case's score is the sum over
its steps.

The steps are the queries that choose the answer's tokens. A measure may watch the question instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from headprobe.errors import UsageError
from headprobe.measures import contrast, locos, mass, qr, r2, repetition, retrieval, semantic

if TYPE_CHECKING:
    from torch import Tensor

    from headprobe.attention.observe import AttentionRows
    from headprobe.prompts.case import Case

Watched = Literal["answer", "question"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Measure:
    """A rule that turns the attention of a head into one number.

    ``summary`` is one line for ``headprobe list measures``. ``summarise`` maps an observed layer
    (above all its rows ``[query_head, step, key]``) and the case to ``[query_head, step]``.
    ``score`` maps that result, the case and the tokens that the steps generated (or read, where
    nothing is answered) to ``[query_head, step]``.

    Where ``watches`` is ``question``, the steps are the tokens of the question, and the case's
    score is their sum less the same sum for the question "N/A" in its place. With
    ``attributes_logits`` the summary is a sum of values, ``[query_head, step, value_dim]``, and
    ``score`` gets what this sum adds to the logit of the generated token. With
    ``counts_all_steps`` a case's score is the sum over the whole response, not only over the steps
    that write the answer.
    """

    summary: str
    summarise: Callable[[AttentionRows, Case], Tensor]
    score: Callable[[Tensor, Case, Tensor], Tensor]
    watches: Watched = "answer"
    attributes_logits: bool = False
    counts_all_steps: bool = False


MEASURES = {
    "retrieval": Measure(
        summary="steps that copy the most attended token from the needle (Retrieval Head)",
        summarise=retrieval.summarise,
        score=retrieval.score,
        counts_all_steps=True,
    ),
    "r2": Measure(
        summary="attention on the right sentence among a head's strongest positions (HeadKV-R2)",
        summarise=r2.summarise,
        score=r2.score,
    ),
    "semantic": Measure(
        summary="attention on the span at steps that generate a token of it (CompressKV)",
        summarise=semantic.summarise,
        score=semantic.score,
    ),
    "mass": Measure(
        summary="attention on the span, less first tokens and newest",
        summarise=mass.summarise,
        score=mass.score,
    ),
    "contrast": Measure(
        summary="attention on the span minus attention off it, scaled by their lengths",
        summarise=contrast.summarise,
        score=contrast.score,
    ),
    "locos": Measure(
        summary="contribution of the span to the generated token's logit (LOCOS)",
        summarise=locos.summarise,
        score=locos.score,
        attributes_logits=True,
    ),
    "qr": Measure(
        summary="attention of the question on the span, minus that of an empty question (QRHead)",
        summarise=qr.summarise,
        score=qr.score,
        watches="question",
    ),
    "induction": Measure(
        summary="attention right after earlier repeats of the query's token (RazorAttention)",
        summarise=repetition.induction,
        score=repetition.score,
    ),
    "echo": Measure(
        summary="attention on earlier repeats of the query's token (RazorAttention)",
        summarise=repetition.echo,
        score=repetition.score,
    ),
}


def get_measure(name: str) -> Measure:
    """Return the measure called ``name``; a ``UsageError`` lists the names that there are."""
    if name not in MEASURES:
        raise UsageError(f"no measure {name!r}; there are {', '.join(MEASURES)}")
    return MEASURES[name]
