import numpy as np
import pytest
import torch
from hypothesis import given

from headprobe.measures import MEASURES, semantic
from tests._support.random_rows import Drawn, case_of, measured, rows_up_to_the_query, seen
from tests._support.reference import plain_semantic


@given(drawn=measured())
def test_the_score_is_that_of_the_definition(drawn: Drawn) -> None:
    (rows, case), generated = drawn.build(), drawn.generated
    summary = semantic.summarise(rows, case)
    scores = semantic.score(summary, case, torch.tensor(generated))
    expected = [
        [
            plain_semantic(rows_up_to_the_query(rows, head, step), token, case)
            for step, token in enumerate(generated)
        ]
        for head in range(4)
    ]
    np.testing.assert_allclose(scores.double().numpy(), expected, atol=1e-6)


def test_a_head_counts_wherever_in_the_span_it_looks() -> None:
    # The span holds 7 twice: all of its .6 counts twice, though nothing of it lies on a 7.
    case = case_of([5, 7, 8, 7, 5], 1, 4)
    summary = semantic.summarise(seen(torch.tensor([[[0.4, 0.0, 0.6, 0.0, 0.0]]])), case)
    scores = [semantic.score(summary, case, torch.tensor([token])).item() for token in (7, 8, 5)]
    assert scores == pytest.approx([1.2, 0.6, 0.0])


def test_the_registry_takes_this_files_functions() -> None:
    assert MEASURES["semantic"].summarise is semantic.summarise
    assert MEASURES["semantic"].score is semantic.score
