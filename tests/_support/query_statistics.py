"""Query statistics of three layers of eight query heads, drawn at random."""

from __future__ import annotations

import numpy as np

from headprobe.scores.statistics import QueryStatistics

THETA = 1e4


def statistics(*, passed: int = 0, factor: float = 1.0, layers: int = 3) -> QueryStatistics:
    draw = np.random.default_rng(0)
    means = {
        name: draw.random((layers, 8, 4), dtype=np.float32)
        for name in ("q_mean_real", "q_mean_imag", "q_abs_mean")
    }
    plain = (THETA ** (-np.arange(4) / 4) / factor).astype(np.float32)
    return QueryStatistics(
        layers=np.arange(layers),
        q_pass_mean=draw.random((layers, 8, passed), dtype=np.float32),
        inv_freq=np.tile(plain, (layers, 1)),
        freq_scale=np.full((layers, 4), 1.5 if factor > 1 else 1.0, dtype=np.float32),
        header={
            "rope_style": "half",
            "rope_type": "yarn" if factor > 1 else "default",
            "rope_theta": THETA,
            "dtype": "bfloat16",
            "texts": 2,
            "tokens": 50,
        },
        **means,
    )
