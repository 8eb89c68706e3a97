from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from headprobe.evaluation.answering import evaluate
from headprobe.evaluation.questions import questions_of
from headprobe.evaluation.settings import QUERY_AWARE
from headprobe.models.loading import LoadedModel, load_model
from headprobe.prompts.spec import CaseSpec
from headprobe.runs.case_runner import observe_cases
from headprobe.runs.draw import DrawnCases, draw_cases
from headprobe.runs.greedy import GreedyRules
from headprobe.tasks import TASKS

TASK = TASKS["retrieval"]


@pytest.fixture(scope="module")
def nano() -> LoadedModel:
    return load_model("nano", dtype="float32")


@pytest.fixture(scope="module")
def drawn(nano: LoadedModel) -> DrawnCases:
    return draw_cases(nano, TASK.probe, CaseSpec(lengths=(100,), limit=1))


def generated(nano: LoadedModel, ids: tuple[int, ...], **options: Any) -> list[int]:
    """What transformers' own greedy decoding writes after a prompt."""
    prompt = torch.tensor([ids])
    output: Any = nano.model.generate(  # type: ignore[operator]
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=6,
        pad_token_id=0,
        **options,
    )
    return output[0, len(ids) :].tolist()  # type: ignore[no-any-return]


def test_an_end_token_does_not_come_first(
    nano: LoadedModel, drawn: DrawnCases, monkeypatch: pytest.MonkeyPatch
) -> None:
    (case,) = drawn.cases
    first = generated(nano, case.input_ids)[0]
    monkeypatch.setattr(nano.model.generation_config, "eos_token_id", [first, 10**6])
    expected = generated(nano, case.input_ids, min_new_tokens=1)
    (seen,) = observe_cases(nano, drawn.cases, TASK)
    assert seen.generated_ids[0] == expected[0] != first
    (question,) = questions_of(drawn, TASK.probe, max_new_tokens=1)
    (full,) = evaluate(nano, [question], [], settings=[QUERY_AWARE]).methods
    assert full.responses == (nano.tokenizer.decode(expected[:1]).strip(),)


def test_a_line_break_ends_a_response_after_some_text_alone() -> None:
    tokenizer = SimpleNamespace(
        eos_token_id=9, decode=lambda ids, **_: "".join("ab\n "[i] for i in ids)
    )
    loaded: Any = SimpleNamespace(
        tokenizer=tokenizer, model=SimpleNamespace(generation_config=None)
    )
    rules = GreedyRules(loaded)
    assert [rules.is_end(ids) for ids in ([2], [3, 2], [2, 0], [2, 0, 2], [0, 9])] == [
        *(False, False, False, True, True)
    ]
