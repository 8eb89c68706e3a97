import numpy as np
import pytest
import torch
from hypothesis import given

from headprobe.measures import MEASURES, mass
from tests._support.random_rows import Drawn, case_of, measured, rows_up_to_the_query, seen
from tests._support.reference import plain_mass


@given(drawn=measured())
def test_the_score_is_that_of_the_definition(drawn: Drawn) -> None:
    (rows, case), generated = drawn.build(), drawn.generated
    summary = mass.summarise(rows, case)
    scores = mass.score(summary, case, torch.tensor(generated))
    expected = [
        [
            plain_mass(rows_up_to_the_query(rows, head, step), token, case)
            for step, token in enumerate(generated)
        ]
        for head in range(4)
    ]
    np.testing.assert_allclose(scores.double().numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("position", "counts"), [(3, False), (4, True), (11, True), (12, False), (19, False)]
)
def test_sinks_and_local_window_do_not_count(position: int, counts: bool) -> None:
    # The query is token 19: its newest 8 are those from 12 on.
    rows = torch.eye(20)[position][None, None]
    case = case_of(list(range(20)), 0, 20)
    assert mass.summarise(seen(rows), case).item() == counts


def test_the_window_goes_along_with_the_query() -> None:
    rows = torch.full((1, 5, 20), 0.05)
    whole = mass.summarise(seen(rows), case_of([0] * 16, 4, 12))
    np.testing.assert_allclose(whole[0].numpy(), 0.05 * np.array([4, 5, 6, 7, 8]), rtol=1e-6)


def test_the_registry_takes_this_files_functions() -> None:
    assert MEASURES["mass"].summarise is mass.summarise
    assert MEASURES["mass"].score is mass.score
