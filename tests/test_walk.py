"""The walk against the plain procedure: eager attention, one token at a time, Python loops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from headprobe.bundled import bundled
from headprobe.cases import Case, hide_needles
from headprobe.haystacks import sentences
from headprobe.model import LoadedModel, load_model
from headprobe.needles import read_needles
from headprobe.tasks import TASKS, Task
from headprobe.walk import walk


@pytest.fixture(scope="module")
def nano() -> LoadedModel:
    return load_model("nano", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def plain_nano() -> torch.nn.Module:
    model = AutoModelForCausalLM.from_pretrained(
        bundled("models", "nano"), attn_implementation="eager", dtype=torch.float32
    )
    return model.eval()


def cases_of(loaded: LoadedModel, task: str, limit: int) -> list[Case]:
    return hide_needles(
        read_needles(bundled("needles", "nano", TASKS[task].probe.needles)),
        sentences=sentences("noise", seed=3),
        tokenizer=loaded.tokenizer,
        lengths=[128, 200],
        depths=[0.0, 50.0, 100.0],
        limit=limit,
        seed=3,
    )


def plain_steps(
    model: torch.nn.Module, loaded: LoadedModel, case: Case, most_steps: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Attention rows ``[layer, head, key]`` of every answer step, and the token chosen there."""
    cache = None
    tokens = list(case.input_ids)
    with torch.no_grad():
        for _ in range(most_steps):
            for token in tokens:
                output = model(
                    torch.tensor([[token]]),
                    past_key_values=cache,
                    use_cache=True,
                    output_attentions=True,
                )
                cache = output.past_key_values
            rows = torch.stack([layer[0, :, -1] for layer in output.attentions])
            token = int(output.logits[0, -1].argmax())
            yield rows.double().numpy(), token
            if token == loaded.tokenizer.eos_token_id or "\n" in loaded.tokenizer.decode([token]):
                return
            tokens = [token]


def plain_retrieval(rows: np.ndarray, token: int, case: Case) -> np.ndarray:
    score = np.zeros(rows.shape[:2])
    size = case.span_end - case.span_start
    for layer in range(rows.shape[0]):
        for head in range(rows.shape[1]):
            best = max(range(rows.shape[2]), key=lambda j: rows[layer, head, j])
            in_span = case.span_start <= best < case.span_end
            if in_span and case.input_ids[best] == token:
                score[layer, head] = 1 / size
    return score


def plain_r2(rows: np.ndarray, token: int, case: Case) -> np.ndarray:
    score = np.zeros(rows.shape[:2])
    size = case.span_end - case.span_start
    for layer in range(rows.shape[0]):
        for head in range(rows.shape[1]):
            row = rows[layer, head]
            strongest = sorted(range(len(row)), key=lambda j: -row[j])[:size]
            kept = [row[j] for j in strongest if case.span_start <= j < case.span_end]
            score[layer, head] = sum(kept) / size
    return score


PLAIN = {"retrieval": plain_retrieval, "r2": plain_r2}


@pytest.mark.parametrize("task", ["retrieval", "r2"])
def test_scores_equal_the_plain_procedure_case_by_case(
    nano: LoadedModel, plain_nano: torch.nn.Module, task: str
) -> None:
    both = replace(TASKS[task], measures=("retrieval", "r2"))
    cases = cases_of(nano, task, limit=6)
    for case, seen in zip(cases, walk(nano, cases, both), strict=True):
        expected = {name: np.zeros((5, 8)) for name in PLAIN}
        generated = []
        for rows, token in plain_steps(plain_nano, nano, case, both.probe.most_steps(case)):
            generated.append(token)
            for name, plain in PLAIN.items():
                expected[name] += plain(rows, token, case)
        response = nano.tokenizer.decode(generated, skip_special_tokens=True).strip()
        assert seen.generated_ids == tuple(generated)
        assert seen.success == both.probe.success(response, case)
        for name, score in expected.items():
            np.testing.assert_allclose(seen.scores[name], score, atol=1e-4)


def test_the_step_that_stops_an_answer_is_scored(nano: LoadedModel) -> None:
    cases = cases_of(nano, "retrieval", limit=3)
    line_break = nano.tokenizer.convert_tokens_to_ids("\n")
    for seen in walk(nano, cases, TASKS["retrieval"]):
        assert seen.generated_ids[-1] == line_break
        assert line_break not in seen.generated_ids[:-1]


def test_r2_takes_no_more_steps_than_the_answer_has_tokens(nano: LoadedModel) -> None:
    cases = cases_of(nano, "r2", limit=6)
    for case, seen in zip(cases, walk(nano, cases, TASKS["r2"]), strict=True):
        assert 1 <= len(seen.generated_ids) <= len(case.answer_ids)


def test_a_walk_gives_the_same_whatever_was_walked_before(nano: LoadedModel) -> None:
    task: Task = TASKS["r2"]
    cases = cases_of(nano, "r2", limit=4)
    together = list(walk(nano, cases, task))
    for case, seen in zip(cases, together, strict=True):
        (alone,) = walk(nano, [case], task)
        np.testing.assert_array_equal(alone.scores["r2"], seen.scores["r2"])
