import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from headprobe.measures import MEASURES, retrieval
from headprobe.prompts.case import Case
from tests._support.random_rows import seen


def case(prompt: list[int], start: int, stop: int) -> Case:
    return Case(
        case_id=0,
        needle_id=0,
        length=len(prompt),
        depth=0.0,
        position=start,
        input_ids=tuple(prompt),
        span_start=start,
        span_end=stop,
        answer="x",
        answer_ids=(1,),
    )


def by_definition(rows: Tensor, case: Case, generated: list[int]) -> np.ndarray:
    """METHODS.md 1, word by word, a head and a step at a time."""
    heads, steps, keys = rows.shape
    scores = np.zeros((heads, steps))
    for head in range(heads):
        for step in range(steps):
            row = rows[head, step].double().tolist()
            j = sorted(range(keys), key=lambda key: -row[key])[0]
            if case.span_start <= j < case.span_end and case.input_ids[j] == generated[step]:
                scores[head, step] = 1 / (case.span_end - case.span_start)
    return scores


@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_the_score_is_that_of_the_definition(data: st.DataObject, seed: int) -> None:
    length = data.draw(st.integers(1, 12))
    start = data.draw(st.integers(0, length - 1))
    stop = data.draw(st.integers(start + 1, length))
    steps = data.draw(st.integers(1, 5))
    # Few different tokens: matches inside and outside the needle are common.
    tokens = st.integers(0, 2)
    prompt = data.draw(st.lists(tokens, min_size=length, max_size=length))
    generated = data.draw(st.lists(tokens, min_size=steps, max_size=steps))
    # The rows reach over what was generated before, as in decoding.
    keys = length + steps
    rows = torch.rand(3, steps, keys, generator=torch.Generator().manual_seed(seed)).softmax(-1)
    probe = case(prompt, start, stop)
    summary = retrieval.summarise(seen(rows), probe)
    assert summary.shape == (3, steps)
    scores = retrieval.score(summary, probe, torch.tensor(generated))
    expected = by_definition(rows, probe, generated)
    np.testing.assert_allclose(scores.double().numpy(), expected, atol=1e-7)


def one_hot(*positions: int, keys: int) -> Tensor:
    return torch.eye(keys)[list(positions)][None]


@pytest.mark.parametrize(
    ("position", "token", "expected"),
    [
        (2, 7, 0.5),  # in the needle, and the token it holds
        (2, 8, 0.0),  # in the needle, another token
        (1, 7, 0.0),  # the same token just before the needle
        (4, 7, 0.0),  # the same token just after the needle
        (3, 8, 0.5),  # the needle's last token
        (6, 7, 0.0),  # beyond the prompt
    ],
)
def test_only_the_very_token_in_the_needle_counts(
    position: int, token: int, expected: float
) -> None:
    probe = case([5, 7, 7, 8, 7, 5], 2, 4)
    summary = retrieval.summarise(seen(one_hot(position, keys=8)), probe)
    assert retrieval.score(summary, probe, torch.tensor([token])).tolist() == [[expected]]


def test_a_token_copied_twice_counts_twice() -> None:
    probe = case([5, 7, 8], 1, 3)
    summary = retrieval.summarise(seen(one_hot(1, 1, 2, keys=6)), probe)
    score = retrieval.score(summary, probe, torch.tensor([7, 7, 8]))
    assert score.sum().item() == pytest.approx(1.5)


def test_steps_taken_one_by_one_score_as_all_at_once() -> None:
    rows = torch.rand(4, 6, 9, generator=torch.Generator().manual_seed(0))
    probe = case([1, 2, 1, 2, 1, 2, 1], 2, 6)
    generated = torch.tensor([1, 2, 1, 1, 2, 2])
    whole = retrieval.score(retrieval.summarise(seen(rows), probe), probe, generated)
    for step in range(6):
        one = retrieval.summarise(seen(rows[:, step : step + 1]), probe)
        fraction = retrieval.score(one, probe, generated[step : step + 1])
        assert torch.equal(fraction[:, 0], whole[:, step])


def test_the_registry_takes_this_files_functions() -> None:
    assert MEASURES["retrieval"].summarise is retrieval.summarise
    assert MEASURES["retrieval"].score is retrieval.score
