from pathlib import Path

import numpy as np
import pytest

from headprobe.allocators.retrieval_heads import duo, threshold, top
from headprobe.errors import HeadprobeError
from tests._support.refusals import refused

PUBLISHED = Path(__file__).parents[2] / ".." / "shared" / "published" / "duo_attention"
SCORES = np.array([[0.1, 0.9, 0.3, 0.3], [0.2, 0.2, 0.0, 0.8]])
SPREAD = np.array([[0.05, 0.1, 0.3, 0.0], [0.2, 0.02, 0.0, 0.0]])


def test_the_best_fraction_of_the_kv_heads_is_full_and_the_others_stream() -> None:
    scores = np.array([[0.1, 0.9, 0.3, 0.3], [0.2, 0.2, 0.0, 0.8]])
    allocation = duo(scores, group=2, window=8)
    assert allocation.ratio.tolist() == [[1, 0], [0, 1]]
    assert (allocation.tokens == 128 + 256).all()
    assert (allocation.sinks, allocation.compensation) == (128, False)
    assert set(allocation.selection.ravel()) == {"streaming"}
    # By the mean, the group of two middling heads comes before that of a weak and a strong one.
    assert duo(scores, group=2, window=8, reduce="mean", sparsity=0.75).ratio.tolist() == [
        [1, 0],
        [0, 0],
    ]


def test_scores_may_be_negative_but_not_without_meaning() -> None:
    scores = np.array([[-0.5, -0.1], [0.0, -0.2]])
    assert duo(scores, group=1, window=8, sparsity=0.75).ratio.tolist() == [[0, 0], [1, 0]]
    with pytest.raises(HeadprobeError, match="all scores are zero"):
        duo(np.zeros((2, 2)), group=1, window=8)
    with pytest.raises(HeadprobeError, match="nan is not a finite number"):
        duo(np.full((2, 2), np.nan), group=1, window=8)
    with refused(option="sparsity", value=50):
        duo(scores, group=1, window=8, sparsity=50.0)


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published files are not here")
def test_half_of_the_published_pattern_is_what_its_quantile_gives() -> None:
    gates = np.loadtxt(next(PUBLISHED.glob("*/full_attention_heads.tsv")), delimiter="\t")
    gates = gates.clip(0, 1)
    full = duo(gates, group=1, window=8, sparsity=0.5).ratio == 1
    assert full.sum() == gates.size // 2
    assert gates[full].min() >= np.quantile(gates, 0.5) >= gates[~full].max()


def test_heads_above_the_threshold_are_full_and_those_on_it_are_not() -> None:
    assert threshold(SPREAD, group=1, window=8).ratio.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    assert threshold(SPREAD, group=2, window=8).ratio.tolist() == [[0, 1], [1, 0]]
    by_mean = threshold(SPREAD, group=2, window=8, threshold=0.12, reduce="mean")
    assert by_mean.ratio.tolist() == [[0, 1], [0, 0]]
    assert (by_mean.tokens == 384).all()


def test_a_threshold_that_no_head_reaches_is_wrong_usage() -> None:
    with refused(r"the highest 0\.3", option="threshold", value=0.5):
        threshold(SPREAD, group=1, window=8, threshold=0.5)


@pytest.mark.parametrize("heads", range(5))
def test_so_many_kv_heads_are_full(heads: int) -> None:
    allocation = top(SCORES, group=2, window=8, top_k=heads)
    assert (allocation.ratio == 1).sum() == heads
    assert (allocation.tokens == 384).all()


def test_the_best_query_head_decides_for_its_group() -> None:
    assert top(SCORES, group=2, window=8, top_k=1).ratio.tolist() == [[1, 0], [0, 0]]
    assert top(SCORES, group=1, window=8, top_k=2).ratio.nonzero()[1].tolist() == [1, 3]


@pytest.mark.parametrize("heads", [-1, 5])
def test_more_heads_than_there_are_is_wrong_usage(heads: int) -> None:
    with refused("0 to 4", option="top_k", value=heads):
        top(SCORES, group=2, window=8, top_k=heads)
