"""The record of a measure: a rule that turns the attention of a head into one number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from headprobe.attention.rows import AttentionRows
    from headprobe.prompts.case import Case

Watched = Literal["answer", "question", "window"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Measure:
    """A rule that turns the attention of a head into one number.

    ``summary`` is one line for ``headprobe list measures``. ``summarise`` maps an observed layer
    (above all its rows ``[query_head, step, key]``) and the case to ``[query_head, step]``.
    ``score`` maps that result, the case and the tokens that the steps generated (or read, where
    nothing is answered) to ``[query_head, step]``. Each head and each step counts by itself: the
    heads of several layers, or the steps of several prompts with one span, may come in one call.

    Where ``watches`` is ``question``, the steps are the tokens of the question, and the case's
    score is their sum less the same sum for the question "N/A" in its place. With
    ``attributes_logits`` the summary is a sum of values, ``[query_head, step, value_dim]``, and
    ``score`` gets what this sum adds to the logit of the generated token. With
    ``counts_all_steps`` a case's score is the sum over the whole response, not only over the steps
    that write the answer. With ``joins_layers`` the summary of a head depends on its weights and
    the queries alone; then ``summarise`` gets several layers at once, their heads one after
    another, and neither values nor outputs.
    """

    summary: str
    summarise: Callable[[AttentionRows, Case], Tensor]
    score: Callable[[Tensor, Case, Tensor], Tensor]
    watches: Watched = "answer"
    attributes_logits: bool = False
    counts_all_steps: bool = False
    joins_layers: bool = False
