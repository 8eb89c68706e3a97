import numpy as np
import pytest

from headprobe.allocators.alibi import alibi
from headprobe.errors import HeadprobeError
from tests._support.refusals import refused

SCOPES = np.array([[3.0, 20.2, 700.0, 55.0], [4000.0, 4000.5, 1e12, 0.5]])


def test_a_head_keeps_as_many_of_the_newest_entries_as_its_scope_has_tokens() -> None:
    allocation = alibi(SCOPES, group=1, window=8)
    assert allocation.tokens.tolist() == [[8, 21, 700, 55], [4000, 4001, 2**31 - 1, 8]]
    assert allocation.ratio.tolist() == [[0, 0, 0, 0], [0, 0, 1, 0]]
    assert set(allocation.selection.ravel()) == {"streaming"}
    assert (allocation.sinks, allocation.compensation) == (0, False)


def test_heads_whose_scope_reaches_the_context_keep_everything() -> None:
    allocation = alibi(SCOPES, group=1, window=8, context_length=4000)
    assert allocation.ratio.tolist() == [[0, 0, 0, 0], [1, 1, 1, 0]]
    assert allocation.tokens.max() == 4000


def test_a_kv_head_has_the_widest_scope_of_its_group() -> None:
    allocation = alibi(SCOPES, group=2, window=8)
    assert allocation.tokens.tolist() == [[21, 700], [4001, 2**31 - 1]]


def test_what_is_no_scope_is_refused() -> None:
    with pytest.raises(HeadprobeError, match="-1 is negative"):
        alibi(-np.ones((2, 2)), group=1, window=8)
    with refused(option="context_length", value=0):
        alibi(SCOPES, group=1, window=8, context_length=0)
