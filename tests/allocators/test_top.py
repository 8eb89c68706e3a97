import numpy as np
import pytest

from headprobe.allocators.top import top
from headprobe.errors import UsageError

SCORES = np.array([[0.1, 0.9, 0.3, 0.3], [0.2, 0.2, 0.0, 0.8]])


@pytest.mark.parametrize("heads", range(5))
def test_so_many_kv_heads_are_full(heads: int) -> None:
    allocation = top(SCORES, group=2, window=8, heads=heads)
    assert (allocation.ratio == 1).sum() == heads
    assert (allocation.tokens == 384).all()


def test_the_best_query_head_decides_for_its_group() -> None:
    assert top(SCORES, group=2, window=8, heads=1).ratio.tolist() == [[1, 0], [0, 0]]
    assert top(SCORES, group=1, window=8, heads=2).ratio.nonzero()[1].tolist() == [1, 3]


@pytest.mark.parametrize("heads", [-1, 5])
def test_more_heads_than_there_are_is_wrong_usage(heads: int) -> None:
    with pytest.raises(UsageError, match=f"--heads must be 0 to 4, all there are, got {heads}"):
        top(SCORES, group=2, window=8, heads=heads)
