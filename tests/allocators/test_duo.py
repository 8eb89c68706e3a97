from pathlib import Path

import numpy as np
import pytest

from headprobe.allocators.duo import duo
from headprobe.errors import HeadprobeError, UsageError

PUBLISHED = Path(__file__).parents[2] / ".." / "shared" / "published" / "duo_attention"


def test_the_best_share_of_the_kv_heads_is_full_and_the_others_stream() -> None:
    scores = np.array([[0.1, 0.9, 0.3, 0.3], [0.2, 0.2, 0.0, 0.8]])
    allocation = duo(scores, group=2, window=8)
    assert allocation.ratio.tolist() == [[1, 0], [0, 1]]
    assert (allocation.tokens == 128 + 256).all()
    assert (allocation.sinks, allocation.compensation) == (128, False)
    assert set(allocation.selection.ravel()) == {"streaming"}
    # By the mean, the group of two middling heads comes before that of a weak and a strong one.
    assert duo(scores, group=2, window=8, reduce="mean", full=0.25).ratio.tolist() == [
        [1, 0],
        [0, 0],
    ]


def test_scores_may_be_negative_but_not_without_meaning() -> None:
    scores = np.array([[-0.5, -0.1], [0.0, -0.2]])
    assert duo(scores, group=1, window=8, full=0.25).ratio.tolist() == [[0, 0], [1, 0]]
    with pytest.raises(HeadprobeError, match="all scores are zero"):
        duo(np.zeros((2, 2)), group=1, window=8)
    with pytest.raises(HeadprobeError, match="nan is not a finite number"):
        duo(np.full((2, 2), np.nan), group=1, window=8)
    with pytest.raises(UsageError, match="--full is a share from 0 to 1, got 50"):
        duo(scores, group=1, window=8, full=50.0)


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published files are not here")
def test_half_of_the_published_pattern_is_what_its_quantile_gives() -> None:
    gates = np.loadtxt(next(PUBLISHED.glob("*/full_attention_heads.tsv")), delimiter="\t")
    gates = gates.clip(0, 1)
    full = duo(gates, group=1, window=8, full=0.5).ratio == 1
    assert full.sum() == gates.size // 2
    assert gates[full].min() >= np.quantile(gates, 0.5) >= gates[~full].max()
