import numpy as np
import pytest

from headprobe.allocators.threshold import threshold
from headprobe.errors import UsageError

SCORES = np.array([[0.05, 0.1, 0.3, 0.0], [0.2, 0.02, 0.0, 0.0]])


def test_heads_above_the_threshold_are_full_and_those_on_it_are_not() -> None:
    assert threshold(SCORES, group=1, window=8).ratio.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    assert threshold(SCORES, group=2, window=8).ratio.tolist() == [[0, 1], [1, 0]]
    by_mean = threshold(SCORES, group=2, window=8, threshold=0.12, reduce="mean")
    assert by_mean.ratio.tolist() == [[0, 1], [0, 0]]
    assert (by_mean.tokens == 384).all()


def test_a_threshold_that_no_head_reaches_is_wrong_usage() -> None:
    with pytest.raises(
        UsageError, match=r"no head scores above 0\.5, the highest 0\.3; give a low"
    ):
        threshold(SCORES, group=1, window=8, threshold=0.5)
