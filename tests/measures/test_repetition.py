import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from headprobe.measures import MEASURES, repetition
from headprobe.prompts.case import Case
from tests._support.random_rows import seen


def case(first: int, block: int, repeats: int = 4) -> Case:
    """``block`` different tokens, repeated after ``first`` others."""
    ids = (*range(100, 100 + first), *(repeats * list(range(block))))
    return Case(
        case_id=0,
        needle_id=0,
        length=len(ids),
        depth=0.0,
        position=first,
        input_ids=ids,
        span_start=first,
        span_end=first + block,
        answer="",
        answer_ids=(),
    )


def maps(heads: int, length: int, seed: int) -> Tensor:
    """Random causal attention maps."""
    noise = 3 * torch.randn(heads, length, length, generator=torch.Generator().manual_seed(seed))
    return noise.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf).softmax(-1)


def by_definition(full: Tensor, case: Case) -> dict[str, np.ndarray]:
    """METHODS.md 4, word by word: the tokens are compared, a query at a time."""
    ids, attention = case.input_ids, full.double().tolist()
    queries = range(case.span_end, case.length)
    echo, induction = np.zeros(len(full)), np.zeros(len(full))
    for head in range(len(full)):
        for i in queries:
            for j in range(i):
                if ids[j] == ids[i]:
                    echo[head] += attention[head][i][j] / len(queries)
                    induction[head] += attention[head][i][j + 1] / len(queries)
    return {"echo": echo, "induction": induction}


def taken(name: str, rows: Tensor, case: Case) -> np.ndarray:
    measure = MEASURES[name]
    tokens = torch.tensor(case.input_ids[rows.shape[2] - rows.shape[1] : rows.shape[2]])
    fractions = measure.score(measure.summarise(seen(rows), case), case, tokens)
    assert fractions.shape == rows.shape[:2]
    return fractions.double().sum(dim=1).numpy()


@settings(deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_the_scores_are_those_of_the_definition_in_chunks_of_any_size(
    data: st.DataObject, seed: int
) -> None:
    probe = case(data.draw(st.integers(0, 2)), data.draw(st.integers(2, 6)))
    full = maps(3, probe.length, seed)
    expected = by_definition(full, probe)
    size = data.draw(st.integers(1, probe.length))
    for name in ("echo", "induction"):
        found = np.zeros(3)
        for start in range(probe.span_end, probe.length, size):
            stop = min(start + size, probe.length)
            found += taken(name, full[:, start:stop, :stop], probe)
        np.testing.assert_allclose(found, expected[name], atol=1e-6)


@pytest.mark.parametrize(("name", "after"), [("echo", 0), ("induction", 1)])
def test_a_head_that_looks_at_nothing_else_scores_one(name: str, after: int) -> None:
    probe = case(1, 5)
    rows = torch.zeros(1, 15, 21)
    for query in range(15):
        rows[0, query, probe.span_start + query % 5 + after] = 1
    assert taken(name, rows, probe) == pytest.approx(1)
    other = "induction" if name == "echo" else "echo"
    assert taken(other, rows, probe) == pytest.approx(0)


def test_the_token_after_the_last_of_a_block_is_the_first_of_the_next() -> None:
    probe = case(1, 5)
    row = torch.zeros(1, 1, 11)
    row[0, 0, 6] = 1
    # The last token of the second block, whose query is at 10, looks at the second block's start.
    assert taken("induction", row, probe) == pytest.approx(1 / 15)


def test_the_registry_takes_this_files_functions() -> None:
    assert MEASURES["echo"].summarise is repetition.echo
    assert MEASURES["induction"].summarise is repetition.induction
