"""Count the tokens that two texts have in common at their beginning."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt


def common_prefix(
    one: Sequence[int] | UInt[np.ndarray, " one"], other: Sequence[int] | UInt[np.ndarray, " other"]
) -> int:
    """Count the tokens that two texts have in common at their beginning."""
    most = min(len(one), len(other))
    apart = np.flatnonzero(np.asarray(one[:most]) != np.asarray(other[:most]))
    return int(apart[0]) if apart.size else most
