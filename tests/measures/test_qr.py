import numpy as np
import torch
from hypothesis import given

from headprobe.measures import MEASURES, qr
from tests._support.random_rows import Drawn, case_of, measured, rows_up_to_the_query, seen


@given(drawn=measured())
def test_a_question_scores_the_mean_of_its_tokens(drawn: Drawn) -> None:
    (rows, case), asked = drawn.build(), drawn.generated
    scores = qr.score(qr.summarise(rows, case), case, torch.tensor(asked)).sum(dim=1)
    expected = [
        np.mean([sum(rows_up_to_the_query(rows, head, n)[case.span]) for n in range(len(asked))])
        for head in range(4)
    ]
    np.testing.assert_allclose(scores.double().numpy(), expected, atol=1e-6)


def test_a_question_that_looks_at_the_span_alone_scores_one() -> None:
    rows = torch.zeros(1, 2, 6)
    rows[..., 2] = 1
    case = case_of([0] * 6, 1, 3)
    assert qr.score(qr.summarise(seen(rows), case), case, torch.tensor([5, 6])).sum() == 1


def test_the_registry_takes_this_files_functions_on_the_question() -> None:
    assert MEASURES["qr"].summarise is qr.summarise
    assert MEASURES["qr"].score is qr.score
    watching = [name for name, measure in MEASURES.items() if measure.watches == "question"]
    assert watching == ["qr"]
