"""How often the model is run, and its attention called: what a GPU's time goes into.

A pass of few tokens costs what launching its kernels costs, so these numbers are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from headprobe.allocators import BudgetSize, allocate
from headprobe.budgets import HeadBudgets
from headprobe.compression import GreedyDecoder, HeadBudgetCache
from headprobe.evaluation.answering import evaluate
from headprobe.evaluation.methods import Method, fixed
from headprobe.evaluation.questions import Question
from headprobe.models.loading import LoadedModel, load_model
from headprobe.prompts.case import Case
from headprobe.runs.case_runner import observe_cases, observe_in_batch
from headprobe.runs.greedy import GreedyRules
from headprobe.tasks import TASKS
from tests._support.counting import counted
from tests._support.reference import cases_on_a_path

LAYERS = 6
"""Of the bundled model; every pass calls the attention of each."""


@pytest.fixture(scope="module")
def nano() -> LoadedModel:
    loaded = load_model("nano", device="cpu", dtype="float32")
    assert loaded.layout.layers == LAYERS
    return loaded


@pytest.fixture(scope="module")
def cases(nano: LoadedModel) -> Sequence[Case]:
    """Four prompts of different lengths with one needle at one place: one path."""
    return cases_on_a_path(nano, [150, 200, 250, 300])


def test_a_path_takes_a_pass_and_its_prompts_another(
    nano: LoadedModel, cases: Sequence[Case]
) -> None:
    with counted(nano.model) as counts:
        list(observe_cases(nano, cases, TASKS["r2"], decode="forced", packed=True))
    assert (counts.passes, counts.attention) == (2, 2 * LAYERS)


def test_drafts_that_are_right_take_no_pass(nano: LoadedModel, cases: Sequence[Case]) -> None:
    own = {s.case_id: s.generated_ids for s in observe_cases(nano, cases, TASKS["r2"], packed=True)}
    task = replace(TASKS["r2"], measures=())
    with counted(nano.model) as counts:
        again = observe_in_batch(nano, cases, task, packed=True, similar=own)
        assert {seen.case_id: seen.generated_ids for _, seen in again} == own
    assert (counts.passes, counts.attention) == (2, 2 * LAYERS)


def test_what_no_draft_says_takes_a_pass_a_token_for_all_prompts_together(
    nano: LoadedModel, cases: Sequence[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headprobe.runs.decoding.drafts", lambda *_, **__: [])
    with counted(nano.model) as counts:
        seen = list(observe_cases(nano, cases, TASKS["r2"], packed=True))
    longest = max(len(one.generated_ids) for one in seen)
    assert longest > 1
    assert (counts.passes, counts.attention) == (1 + longest, (1 + longest) * LAYERS)


def test_sequences_of_a_batch_take_the_passes_of_one(
    nano: LoadedModel, cases: Sequence[Case]
) -> None:
    task = replace(TASKS["r2"], measures=())
    counts = []
    for sequences in (1, 5):
        with counted(nano.model) as found:
            list(observe_in_batch(nano, cases, task, packed=True, sequences=sequences))
        counts.append((found.passes, found.attention))
    assert counts[0] == counts[1]


def budgets(nano: LoadedModel, tokens: int, *, strategy: str = "uniform") -> HeadBudgets:
    scores = np.random.default_rng(0).lognormal(size=(LAYERS, nano.layout.num_heads))
    size = BudgetSize(tokens=tokens)
    return allocate(scores, nano.layout, strategy=strategy, budget=size, window=4)


def uniform(nano: LoadedModel, tokens: int) -> Method:
    return fixed("uniform", str(tokens), budgets(nano, tokens))


def test_budgets_share_the_passes_of_a_question(
    nano: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The context, the question on what was compressed before it and on all, then the answers."""
    monkeypatch.setattr(
        GreedyRules, "is_complete", lambda _, ids, *, max_new_tokens: len(ids) == max_new_tokens
    )
    ids = tuple(np.random.default_rng(0).integers(5, 400, 120).tolist())
    question = Question(
        question_id=0,
        group=0,
        context_ids=ids[:100],
        question_ids=ids[100:],
        answers=("",),
        max_new_tokens=6,
    )
    with counted(nano.model) as counts:
        evaluate(nano, [question], [uniform(nano, 24), uniform(nano, 48)])
    assert counts.tokens == [100, 20, 20, *[1] * 5]
    # A call a layer for heads of equal length: 24 and 48, with the question 20 more, and all.
    assert counts.attention == LAYERS * (1 + 2 + 1 + 5 * 5)


@pytest.mark.parametrize("strategy", ["uniform", "headkv"])
def test_a_step_over_a_ragged_cache_takes_a_call_for_each_length_of_a_layer(
    nano: LoadedModel, strategy: str
) -> None:
    chosen = budgets(nano, 24, strategy=strategy)
    prompt = torch.arange(5, 105)[None]
    with HeadBudgetCache(nano.model, chosen, compress_at=100) as cache, torch.inference_mode():
        nano.model(prompt, past_key_values=cache)
        decoder = GreedyDecoder(nano.model, cache, max_new_tokens=4)
        with counted(nano.model) as counts:
            decoder.answer(torch.tensor([7]), lambda ids: len(ids) == 4)
    lengths = [len(set(layer)) for layer in chosen.kept(100).tolist()]
    assert (max(lengths) > 1) == (strategy == "headkv")
    assert counts.tokens == [1, 1, 1]
    assert counts.attention == 3 * sum(lengths)
