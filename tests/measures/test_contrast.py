import numpy as np
import pytest
import torch
from hypothesis import given

from headprobe.measures import MEASURES, contrast
from tests._support.random_rows import Drawn, case_of, measured, rows_up_to_the_query, seen
from tests._support.reference import plain_contrast


@given(drawn=measured())
def test_the_score_is_that_of_the_definition(drawn: Drawn) -> None:
    (rows, case), generated = drawn.build(), drawn.generated
    summary = contrast.summarise(rows, case)
    scores = contrast.score(summary, case, torch.tensor(generated))
    expected = [
        [
            plain_contrast(rows_up_to_the_query(rows, head, step), token, case)
            for step, token in enumerate(generated)
        ]
        for head in range(4)
    ]
    np.testing.assert_allclose(scores.double().numpy(), expected, atol=1e-6)


def test_even_attention_scores_nothing_and_the_span_alone_one() -> None:
    case = case_of([0] * 10, 2, 5)
    even, inside, outside = torch.full((10,), 0.1), torch.zeros(10), torch.zeros(10)
    inside[2:5] = 1 / 3
    outside[8] = 1
    summary = contrast.summarise(seen(torch.stack([even, inside, outside])[:, None]), case)
    assert summary.flatten().tolist() == pytest.approx([0, 1, -3 / 7], abs=1e-6)


def test_a_prompt_that_is_all_span_has_nothing_off_it() -> None:
    rows = torch.tensor([[[0.5, 0.5]]])
    assert contrast.summarise(seen(rows), case_of([1, 2], 0, 2)).item() == 1


def test_the_registry_takes_this_files_functions() -> None:
    assert MEASURES["contrast"].summarise is contrast.summarise
    assert MEASURES["contrast"].score is contrast.score
