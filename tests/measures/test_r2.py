import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from headprobe.measures import MEASURES, r2
from headprobe.prompts.case import Case
from tests._support.random_rows import seen


def case(length: int, start: int, stop: int) -> Case:
    return Case(
        case_id=0,
        needle_id=0,
        length=length,
        depth=0.0,
        position=start,
        input_ids=(7,) * length,
        span_start=start,
        span_end=stop,
        answer="x",
        answer_ids=(1,),
    )


def by_definition(rows: Tensor, case: Case) -> np.ndarray:
    """METHODS.md 2, word by word, a head and a step at a time."""
    heads, steps, keys = rows.shape
    size = case.span_end - case.span_start
    scores = np.zeros((heads, steps))
    for head in range(heads):
        for step in range(steps):
            row = rows[head, step].double().tolist()
            for j in sorted(range(keys), key=lambda key: -row[key])[:size]:
                if case.span_start <= j < case.span_end:
                    scores[head, step] += row[j] / size
    return scores


@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_the_score_is_that_of_the_definition(data: st.DataObject, seed: int) -> None:
    length = data.draw(st.integers(1, 12))
    start = data.draw(st.integers(0, length - 1))
    stop = data.draw(st.integers(start + 1, length))
    steps = data.draw(st.integers(1, 5))
    noise = torch.randn(3, steps, length + steps, generator=torch.Generator().manual_seed(seed))
    rows = (3 * noise).softmax(-1)
    probe = case(length, start, stop)
    summary = r2.summarise(seen(rows), probe)
    scores = r2.score(summary, probe, torch.zeros(steps, dtype=torch.long))
    np.testing.assert_allclose(scores.double().numpy(), by_definition(rows, probe), atol=1e-6)


def test_attention_in_the_span_that_is_not_among_the_strongest_does_not_count() -> None:
    # N = 2: the span's .3 is among the two strongest, its .1 is not.
    rows = torch.tensor([[[0.4, 0.3, 0.1, 0.2]]])
    assert r2.summarise(seen(rows), case(4, 1, 3)).item() == pytest.approx(0.3 / 2)


def test_all_attention_on_the_whole_span_is_one_over_n() -> None:
    rows = torch.tensor([[[0.0, 0.25, 0.25, 0.25, 0.25, 0.0]]])
    assert r2.summarise(seen(rows), case(6, 1, 5)).item() == pytest.approx(1 / 4)


def test_what_is_generated_makes_no_difference() -> None:
    rows = torch.rand(2, 3, 8, generator=torch.Generator().manual_seed(0)).softmax(-1)
    probe = case(8, 2, 6)
    summary = r2.summarise(seen(rows), probe)
    some, other = (r2.score(summary, probe, torch.tensor(ids)) for ids in ([7, 7, 7], [1, 2, 3]))
    assert torch.equal(some, other)
    assert some.sum() > 0


def test_the_registry_takes_this_files_functions() -> None:
    assert MEASURES["r2"].summarise is r2.summarise
    assert MEASURES["r2"].score is r2.score
