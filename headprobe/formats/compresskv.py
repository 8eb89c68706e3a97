"""Rankings of CompressKV (Lin et al., arXiv 2508.02401): JSON, each layer's query heads best first.

``{"0": [12, 3, ...], ...}``, all heads of every layer: the program makes one array of the lists,
which must be of one length, and takes the first four of each.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from headprobe.allocators._reduction import refuse_zeros
from headprobe.files import atomic_write
from headprobe.formats._format import Format
from headprobe.scores import HeadScores


def write_scores(run: HeadScores, path: Path, *, measure: str) -> tuple[str, ...]:
    """Write every layer's ranking, equal scores in the order of heads.

    Raises:
        HeadprobeError: all scores are zero, or the file cannot be written.
    """
    mean = run.mean(measure)
    refuse_zeros(mean, measure=measure)
    rankings = np.argsort(-mean, axis=1, kind="stable").tolist()
    with atomic_write(path) as whole:
        whole.write_text(
            json.dumps({str(layer): heads for layer, heads in enumerate(rankings)}) + "\n",
            encoding="utf-8",
        )
    flat = np.flatnonzero(np.ptp(mean, axis=1) == 0).tolist()
    if not flat:
        return ()
    return (f"layers where all heads score the same are ranked by number: {flat}",)


FORMAT = Format(
    summary="query heads of each layer, best first",
    file=".json",
    programs="CompressKV",
    write_scores=write_scores,
)
