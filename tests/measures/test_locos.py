import numpy as np
import torch
from hypothesis import given

from headprobe.measures import MEASURES, locos
from tests._support.random_rows import Drawn, case_of, measured, rows_up_to_the_query, seen
from tests._support.reference import contrast


@given(drawn=measured())
def test_the_vectors_are_those_of_the_definition(drawn: Drawn) -> None:
    (rows, case), generated = drawn.build(), drawn.generated
    summary = locos.summarise(rows, case)
    for head in range(4):
        values = rows.values[head // 2].double().numpy()
        for step in range(len(generated)):
            row = rows_up_to_the_query(rows, head, step)
            weighted = [weight * value for weight, value in zip(row, values, strict=False)]
            expected = [contrast([v[d] for v in weighted], case) for d in range(3)]
            np.testing.assert_allclose(summary[head, step].numpy(), expected, atol=1e-5)


def test_keys_that_the_cache_has_dropped_add_nothing() -> None:
    rows = torch.rand(2, 3, 12, generator=torch.Generator().manual_seed(0))
    values = torch.randn(1, 12, 3, generator=torch.Generator().manual_seed(1))
    for dropped in (3, 7):
        rows[..., :dropped] = 0
        # The span reaches over what was dropped, or lies wholly there.
        case = case_of([0] * 10, 2, 5)
        whole = locos.summarise(seen(rows, values), case)
        kept = locos.summarise(seen(rows, values[:, dropped:]), case)
        torch.testing.assert_close(kept, whole)


def test_the_logit_is_the_score() -> None:
    logit = torch.tensor([[1.0, -2.0]])
    assert locos.score(logit, case_of([1, 2], 0, 1), torch.tensor([1, 2])) is logit


def test_the_registry_takes_this_files_functions_and_reads_out() -> None:
    assert MEASURES["locos"].summarise is locos.summarise
    assert MEASURES["locos"].score is locos.score
    assert [name for name, measure in MEASURES.items() if measure.attributes_logits] == ["locos"]
