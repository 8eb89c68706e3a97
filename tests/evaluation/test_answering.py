from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from headprobe.allocators import BudgetSize, allocate
from headprobe.allocators.mixing import WeightedRun
from headprobe.budgets import HeadBudgets
from headprobe.compression import GreedyDecoder, HeadBudgetCache, Target
from headprobe.compression.reconstruction import Repetition, repetitions
from headprobe.errors import HeadprobeError
from headprobe.evaluation.answering import evaluate
from headprobe.evaluation.baselines import BASELINES, baselines
from headprobe.evaluation.methods import CutPoint, Method, allocated, everything, fixed
from headprobe.evaluation.questions import Question, questions_of
from headprobe.evaluation.results import FULL, Evaluation, MethodAnswers
from headprobe.evaluation.settings import QUERY_AGNOSTIC, QUERY_AWARE
from headprobe.models.config import head_layout
from headprobe.models.layout import HeadLayout
from headprobe.models.loading import LoadedModel, load_model
from headprobe.prompts.spec import CaseSpec
from headprobe.runs.draw import draw_cases
from headprobe.scores import HeadScores
from headprobe.tasks import TASKS
from tests._support.architectures import build


@pytest.fixture(scope="module")
def nano() -> LoadedModel:
    return load_model("nano")


@pytest.fixture(scope="module")
def questions(nano: LoadedModel) -> list[Question]:
    probe = TASKS["r2"].probe
    drawn = draw_cases(nano, probe, CaseSpec(lengths=(100, 140), limit=4), held_out=True)
    return questions_of(drawn, probe, max_new_tokens=6)


def budgets(nano: LoadedModel, **options: Any) -> HeadBudgets:
    scores = np.random.default_rng(0).random((nano.layout.layers, nano.layout.num_heads))
    return allocate(scores, nano.layout, **options)


def scored(nano: LoadedModel) -> WeightedRun:
    means = np.random.default_rng(0).random((nano.layout.layers, nano.layout.num_heads))
    scores = HeadScores(
        layout=nano.layout,
        task="r2",
        per_case={"r2": means[None].astype(np.float32)},
        needles=(0,),
        cases=1,
    )
    return WeightedRun(name="run", scores=scores)


def small(nano: LoadedModel, tokens: int = 24) -> Method:
    return fixed("headkv", str(tokens), budgets(nano, budget=BudgetSize(tokens=tokens)))


@torch.no_grad()
def plainly(
    nano: LoadedModel, question: Question, method: Method, setting: str
) -> tuple[str, float]:
    """One sequence, one budget, token after token; the fraction of the cache that is kept."""
    context = torch.tensor([question.context_ids])
    prompt = torch.cat([context, torch.tensor([question.question_ids])], dim=1)
    end = (context if setting == QUERY_AGNOSTIC else prompt).shape[1]
    capacity = np.full(nano.layout.layers, end)
    given = method.at(CutPoint(tokens=end, question_id=question.draw_id, capacity=capacity))
    written: list[int] = []
    with HeadBudgetCache(nano.model, given) as cache:
        stops = [context.shape[1], end]
        for start, stop in zip([0, *stops], dict.fromkeys(stops), strict=False):
            logits = nano.model(prompt[:, start:stop], past_key_values=cache).logits
            if "reconstruct" in method.selections:
                ids = prompt[0, :stop].tolist()
                cache.reconstruct(repetitions(ids, nano.tokenizer, start=start))
    fork = cache.fork([Target(budgets=given, floor=method.floor, across=method.across)])
    fraction = fork.entries.mean() / end
    with fork as cache:
        if setting == QUERY_AGNOSTIC:
            logits = nano.model(prompt[:, end:], past_key_values=cache).logits
        logits[0, -1, nano.model.generation_config.eos_token_id] = float("-inf")
        while True:
            written.append(int(logits[0, -1].argmax()))
            said = nano.tokenizer.decode(written, skip_special_tokens=True).lstrip()
            # A line break is one of the ends that nano itself names.
            ended = written[-1] in nano.model.generation_config.eos_token_id or "\n" in said
            if ended or len(written) == question.max_new_tokens:
                return nano.tokenizer.decode(written, skip_special_tokens=True).strip(), fraction
            logits = nano.model(torch.tensor([written[-1:]]), past_key_values=cache).logits


def find(found: Evaluation, setting: str, strategy: str) -> MethodAnswers:
    return next(t for t in found.methods if (t.setting, t.strategy) == (setting, strategy))


@pytest.mark.slow
def test_answers_are_those_of_each_budget_alone(
    nano: LoadedModel, questions: Sequence[Question]
) -> None:
    shared = allocated([scored(nano)], BudgetSize(fraction=0.2), strategy="tuned")
    weighed = budgets(nano, budget=BudgetSize(tokens=24), selection="value")
    expected = budgets(nano, budget=BudgetSize(tokens=24), selection="expected")
    others = [fixed("value", "24", weighed), fixed("expected", "24", expected)]
    methods = [small(nano), shared, *baselines(small(nano), seed=0), *others]
    questions = questions[:2]
    found = evaluate(nano, questions, methods, prefill_chunk=30)
    assert [t.strategy for t in found.methods[:13]] == [FULL, *(c.strategy for c in methods)]
    for setting in (QUERY_AWARE, QUERY_AGNOSTIC):
        for method in methods:
            answered = find(found, setting, method.strategy)
            alone = [plainly(nano, question, method, setting) for question in questions]
            assert answered.responses == tuple(response for response, _ in alone)
            np.testing.assert_allclose(answered.fractions, [fraction for _, fraction in alone])
            assert answered.is_baseline == (method.strategy in BASELINES)
    assert len({answered.responses for answered in found.methods}) > 2
    assert found.groups == tuple(question.group for question in questions)


def test_a_full_budget_gives_the_uncompressed_answers(
    nano: LoadedModel, questions: Sequence[Question]
) -> None:
    whole = fixed("duo", "all", budgets(nano, strategy="duo", sparsity=0.0))
    found = evaluate(nano, questions, [whole])
    for question, response in zip(questions, find(found, QUERY_AWARE, FULL).responses, strict=True):
        ids = torch.tensor([(*question.context_ids, *question.question_ids)])
        written = nano.model.generate(
            ids, do_sample=False, max_new_tokens=question.max_new_tokens, stop_strings=None
        )[0, ids.shape[1] :]
        text = nano.tokenizer.decode(written, skip_special_tokens=True)
        assert response == text.strip().split("\n")[0].strip()
    for setting in (QUERY_AWARE, QUERY_AGNOSTIC):
        own, full = find(found, setting, "duo"), find(found, setting, FULL)
        assert own.responses == full.responses
        assert (own.fractions == 1).all()
        for name, grades in full.grades.items():
            np.testing.assert_array_equal(own.grades[name], grades)


def test_answers_are_graded_by_the_probe_too(
    nano: LoadedModel, questions: Sequence[Question]
) -> None:
    full = evaluate(nano, questions, []).methods[0]
    assert set(full.grades) == {"exact_match", "f1", "recall", "passed"}
    for question, response, passed in zip(
        questions, full.responses, full.grades["passed"], strict=True
    ):
        assert passed == question.metrics["passed"](response)


@pytest.mark.parametrize("methods", [1, 9])
def test_a_question_takes_as_many_passes_whatever_the_number_of_budgets(
    nano: LoadedModel, questions: Sequence[Question], methods: int
) -> None:
    """Context, question after compression, question, and a step a token for all answers together.

    For kvzip the context and the whole prompt are repeated, in a pass each.
    """
    passes = []
    hook = nano.model.register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        methods = [small(nano), *baselines(small(nano), seed=0)][:methods]
        found = evaluate(nano, questions[:1], methods)
    finally:
        hook.remove()
    longest = max(
        len(nano.tokenizer.encode(answered.responses[0], add_special_tokens=False))
        for answered in found.methods
    )
    read = 3 if len(methods) == 1 else 5
    assert len(passes) <= read + questions[0].max_new_tokens - 1
    assert len(passes) >= read + longest - 1


@pytest.mark.slow
def test_a_context_is_read_once_for_the_questions_about_it(
    nano: LoadedModel, questions: Sequence[Question]
) -> None:
    first, other = questions[:2]
    alike = [first, replace(first, question_ids=other.question_ids), other]
    selections = ("attention", "expected", "reconstruct")
    methods = [
        fixed(one, "24", budgets(nano, budget=BudgetSize(tokens=24), selection=one))
        for one in selections
    ]
    read: list[int] = []
    hook = nano.model.register_forward_pre_hook(
        lambda _, inputs, given: read.append((inputs or [given["input_ids"]])[0].shape[1]),
        with_kwargs=True,
    )
    try:
        together = evaluate(nano, alike, methods)
        contexts = [tokens for tokens in read if tokens in map(len, (first.context_ids,))]
        alone = [evaluate(nano, [question], methods) for question in alike]
    finally:
        hook.remove()
    assert len(first.context_ids) != len(other.context_ids)
    assert len(contexts) == 1
    for number, one in enumerate(alone):
        for answered, own in zip(together.methods, one.methods, strict=True):
            assert answered.responses[number] == own.responses[0]
            assert answered.fractions[number] == own.fractions[0]


@pytest.mark.slow
def test_one_setting_alone_gives_the_same_answers(
    nano: LoadedModel, questions: Sequence[Question]
) -> None:
    both = evaluate(nano, questions[:2], [small(nano)])
    for setting in (QUERY_AWARE, QUERY_AGNOSTIC):
        alone = evaluate(nano, questions[:2], [small(nano)], settings=[setting])
        assert {answered.setting for answered in alone.methods} == {setting}
        for answered in alone.methods:
            assert answered.responses == find(both, setting, answered.strategy).responses


def test_a_budget_for_another_model_is_refused(
    nano: LoadedModel, questions: Sequence[Question]
) -> None:
    other = HeadLayout(
        id="other", architecture="x", layers=1, num_heads=2, num_kv_heads=1, head_dim=4
    )
    wrong = allocate(np.ones((1, 2)), other, budget=BudgetSize(tokens=24))
    with pytest.raises(
        HeadprobeError,
        match=r"of other and .* of llama, which differ in layers, 1",
    ):
        evaluate(nano, questions, [fixed("headkv", "24", wrong)])


@pytest.mark.parametrize("granularity", ["kv", "query"])
def test_one_setting_has_the_answers_that_it_has_beside_the_other(
    nano: LoadedModel, questions: Sequence[Question], granularity: str
) -> None:
    own = budgets(nano, budget=BudgetSize(tokens=24), granularity=granularity)
    methods = [candidate := fixed("headkv", "24", own), *baselines(candidate, seed=0)]
    both = evaluate(nano, questions[:1], methods)
    for setting in (QUERY_AWARE, QUERY_AGNOSTIC):
        alone = evaluate(nano, questions[:1], methods, settings=[setting])
        wanted = [(m.strategy, m.responses) for m in both.methods if m.setting == setting]
        assert [(m.strategy, m.responses) for m in alone.methods] == wanted


@pytest.mark.parametrize("granularity", ["kv", "query"])
@pytest.mark.parametrize("architecture", ["llama", "lfm2", "gemma3_text", "gpt_oss"])
@torch.no_grad()
def test_baselines_keep_as_much_of_any_model(architecture: str, granularity: str) -> None:
    model = build(architecture)
    layout = head_layout(model.config, id=architecture)
    scores = np.random.default_rng(0).lognormal(0, 1, (layout.layers, layout.num_heads))
    own = allocate(scores, layout, window=4, budget=BudgetSize(tokens=6), granularity=granularity)
    methods = [candidate := fixed("headkv", "6", own), *baselines(candidate, seed=0)]
    ids = torch.randint(3, 60, (1, 60), generator=torch.Generator().manual_seed(0))
    uncut = everything(layout, window=4)
    with HeadBudgetCache(model, uncut, selections=["defensive", "reconstruct"]) as cache:
        model(ids, past_key_values=cache)
        whole = Repetition(ids=tuple(ids[0].tolist()), start=0, stop=60)
        cache.reconstruct([whole])
    cut_point = CutPoint(tokens=60, question_id=0, capacity=cache.capacity)
    whole = cache.fork([Target(budgets=everything(layout, granularity=granularity))])
    np.testing.assert_array_equal(cut_point.capacity, whole.entries[:, 0, 0])
    fork = cache.fork(
        [Target(budgets=one.at(cut_point), floor=one.floor, across=one.across) for one in methods]
    )
    kept = fork.entries.sum(axis=(0, 2))
    assert (kept == kept[0]).all()
    assert kept[0] < whole.entries.sum()


def test_a_later_step_that_is_not_finite_stops_the_evaluation(
    nano: LoadedModel, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, steps = GreedyDecoder.step, []

    def overflowing(decoder: GreedyDecoder, newest: torch.Tensor) -> torch.Tensor:
        steps.append(1)
        if len(steps) < 2:
            return step(decoder, newest)
        head = nano.model.get_output_embeddings()
        hook = head.register_forward_hook(lambda module, inputs, logits: logits * torch.nan)
        chosen = step(decoder, newest)
        hook.remove()
        return chosen

    monkeypatch.setattr(GreedyDecoder, "step", overflowing)
    with pytest.raises(HeadprobeError, match=r"nano: .* is not finite in float32"):
        evaluate(nano, questions[:1], [small(nano)])
