import numpy as np
import pytest

from headprobe.allocators._reduction import usable_scores
from headprobe.errors import HeadprobeError
from tests._support.refusals import refused


@pytest.mark.parametrize(
    ("reduce", "expected"),
    [("mean", [[1, 3], [0, 2]]), ("max", [[2, 4], [0, 4]]), ("sum", [[2, 6], [0, 4]])],
)
def test_neighbouring_query_heads_are_reduced_to_their_kv_head(
    reduce: str, expected: list[list[float]]
) -> None:
    scores = np.array([[0, 2, 4, 2], [0, 0, 0, 4]], dtype=np.float32)
    reduced = usable_scores(scores, group=2, reduce=reduce)
    assert reduced.tolist() == expected
    assert reduced.dtype == np.float64


def test_a_group_of_one_leaves_the_scores_as_they_are() -> None:
    scores = np.array([[0.1, 0.2]])
    for reduce in ("mean", "max", "sum"):
        assert usable_scores(scores, group=1, reduce=reduce).tolist() == scores.tolist()


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (np.nan, "layer 0, head 1: nan is not a finite number; score again"),
        (np.inf, "layer 0, head 1: inf is not a finite number"),
        (-0.5, "layer 0, head 1: -0.5 is negative, and a budget cannot be"),
    ],
)
@pytest.mark.parametrize("group", [1, 2])
def test_bad_scores_are_refused_though_the_mean_would_hide_them(
    value: float, problem: str, group: int
) -> None:
    with pytest.raises(HeadprobeError, match=f"1 of 4 are bad, first {problem}"):
        usable_scores(np.array([[1, value], [2, 3]]), group=group, reduce="mean")


def test_scores_that_are_all_zero_are_refused_with_a_way_out() -> None:
    with pytest.raises(HeadprobeError, match=r"all scores are zero, .*another `measure`"):
        usable_scores(np.zeros((2, 2)), group=2, reduce="max")


def test_an_unknown_reduction_lists_the_choices() -> None:
    with refused("mean, max, sum", option="reduce", value="median"):
        usable_scores(np.ones((2, 2)), group=2, reduce="median")
