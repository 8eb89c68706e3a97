"""Digests that tell evaluations and their questions apart, whatever files and scores are called."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from headprobe.evaluation.methods import CutPoint, Method
from headprobe.evaluation.questions import Question
from headprobe.files import json_digest
from headprobe.models.layout import HeadLayout


def methods_digest(candidates: Sequence[Method], cut_point: CutPoint) -> str:
    """Compute a digest that tells budgets apart, whatever their model and scores are called."""
    made = [candidate.at(cut_point).to_json() for candidate in candidates]
    for budgets in made:
        budgets["model"] = budgets["model"] | {"id": None}
        budgets["strategy"] = {n: v for n, v in budgets["strategy"].items() if n != "scores"}
    return json_digest(made)


def question_keys(
    questions: Sequence[Question], candidates: Sequence[Method], layout: HeadLayout
) -> list[str]:
    """Compute a digest of each question and of the entries that heads keep of it."""

    @cache
    def entries(tokens: int) -> str:
        cut_point = CutPoint.whole(layout, tokens=tokens)
        return methods_digest(candidates, cut_point)

    return [
        json_digest([one.key, entries(len(one.context_ids)), entries(len(one.input_ids))])
        for one in questions
    ]


def describe_method(candidate: Method, cut_point: CutPoint) -> dict[str, Any]:
    """Describe how a candidate divides its budget."""
    made = candidate.at(cut_point)
    own = {
        "budget": candidate.budget,
        "selection": candidate.selection,
        "window": made.window,
        "granularity": made.granularity,
    }
    return {**made.strategy, "name": candidate.strategy, **own}
