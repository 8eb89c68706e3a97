"""Pictures of runs, budgets, comparisons, ablations and evaluations.

The panels of each are in ``runs``, ``budgets``, ``comparisons``, ``ablations`` and ``evaluations``,
the page in ``figure``, and a ``column`` is what they hand to the page. ``matrix`` draws layers by
heads and other grids, ``ranking`` values in order, both on ``scales``. matplotlib is used through
its ``Figure``, never pyplot: no backend, no global state.
"""

from __future__ import annotations

from headprobe.plots.figure import draw, draw_ablation, draw_comparison, draw_evaluation, save
from headprobe.plots.runs import RunPicture

__all__ = [
    "RunPicture",
    "draw",
    "draw_ablation",
    "draw_comparison",
    "draw_evaluation",
    "save",
]
